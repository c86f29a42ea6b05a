"""The building blocks of a page, and the text and traced numbers inside them.

``report.html`` and ``report.markdown`` write them out.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from report.runs import RunLog


@dataclasses.dataclass(frozen=True)
class Value:
    """A number on the page.

    ``text`` is what the page shows. ``source`` says where the number was read:
    ``<file>#<epoch or key>/<name>``.
    """

    text: str
    value: float
    source: str


@dataclasses.dataclass(frozen=True)
class Code:
    """A command, file or flag, shown as code."""

    text: str


Part = str | Value | Code  # a str is plain text, neither HTML nor Markdown
Parts = Part | tuple[Part, ...]


def logged(run: RunLog, line: dict[str, Any], name: str, digits: int = 4) -> Value:
    """Return the number ``name`` in a ``line`` of the run's log."""
    return Value(
        f"{line[name]:.{digits}f}", line[name], f"{run.name}/log.jsonl#{line['epoch']}/{name}"
    )


def scored(run: RunLog, line: dict[str, Any], name: str) -> tuple[Part, ...]:
    """Return the number ``name`` in a ``line`` of the run's log, with the epoch in brackets."""
    return (logged(run, line, name), f" ({line['epoch']})")


def parts_of(parts: Parts) -> tuple[Part, ...]:
    return parts if isinstance(parts, tuple) else (parts,)


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading. ``level`` 2: a section of the page; 3: a part of it."""

    text: str
    level: int = 2


class Text:
    """A paragraph."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts


@dataclasses.dataclass(frozen=True)
class Table:
    """A table. ``rows``: each from the column's name to the cell, all with the same columns."""

    caption: Parts
    rows: Sequence[Mapping[str, Parts]]
    runs: tuple[RunLog, ...] = ()

    @property
    def header(self) -> tuple[str, ...]:
        return tuple(self.rows[0])


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure drawn by ``report.charts``. ``alt``: what it shows, for screen readers."""

    figure: Figure
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()


@dataclasses.dataclass(frozen=True)
class Points:
    """A scatter plot of images.

    ``xy``: (N, 2) float. ``labels``: (N,) int, indices into ``classes`` and ``colours``
    (``#rrggbb``). ``images``: (N, h, w, 3) uint8; plots of the same array share it. In HTML, a
    point shows its image and label when it is under the pointer or a finger, or reached by the
    arrow keys.
    """

    xy: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    colours: list[str]
    images: np.ndarray
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layers:
    """Named pictures (H, W, 3) uint8 of the same scene.

    In HTML they lie on top of each other, and a slider moves between them. ``legend``: the meaning
    of each colour -> the colour (``#rrggbb``).
    """

    layers: dict[str, np.ndarray]
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()
    legend: dict[str, str] = dataclasses.field(default_factory=dict)


Figured = Drawing | Points | Layers


class Grid:
    """Figures, side by side if there is room."""

    def __init__(self, *blocks: Figured) -> None:
        self.blocks = blocks


@dataclasses.dataclass(frozen=True)
class Gap:
    """What is missing from the page, and the command that makes it."""

    what: str
    command: str


def unfinished(run: RunLog, more: str = "") -> Gap:
    """Return the gap that an unfinished run leaves. ``more`` is appended to its sentence."""
    latest = run.metadata.get("continued", [run.metadata])[-1]["command"]
    try:
        words = shlex.split(latest)
        # With --fresh the run would start over instead of going on.
        command = shlex.join(word for word in words if word != "--fresh")
    except ValueError:  # an unclosed quote
        command = latest
    return Gap(
        f"the end of {run.name}: it is at epoch {run.last['epoch']} of "
        f"{run.metadata['recipe']['epochs']}{more}.",
        command,
    )


Block = Heading | Text | Table | Grid | Gap | Figured
