"""What a page is made of: blocks, and within them text and traced numbers.

``html`` and ``markdown`` write them out.
"""

from __future__ import annotations

import dataclasses
import io
import shlex
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from report.runs import RunLog


@dataclasses.dataclass(frozen=True)
class Value:
    """A number that the page states.

    ``source``: where it stands, as ``<file>#<line or key>/<name>``, see ``trace``.
    """

    text: str
    value: float
    source: str


@dataclasses.dataclass(frozen=True)
class Code:
    """A command, a file or a flag."""

    text: str


Part = str | Value | Code  # a plain str: neither HTML nor Markdown
Parts = Part | tuple[Part, ...]


def logged(run: RunLog, line: dict[str, Any], name: str, digits: int = 4) -> Value:
    """The number called ``name`` of a ``line`` of the run's log."""
    return Value(
        f"{line[name]:.{digits}f}", line[name], f"{run.name}/log.jsonl#{line['epoch']}/{name}"
    )


def parts_of(parts: Parts) -> tuple[Part, ...]:
    return parts if isinstance(parts, tuple) else (parts,)


@dataclasses.dataclass(frozen=True)
class Heading:
    """``level`` 2: a problem; 3: a part of it."""

    text: str
    level: int = 2


class Text:
    """A paragraph."""

    def __init__(self, *parts: Part) -> None:
        self.parts = parts


@dataclasses.dataclass(frozen=True)
class Table:
    caption: Parts
    header: tuple[str, ...]
    rows: list[tuple[Parts, ...]]
    runs: tuple[RunLog, ...] = ()


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure drawn by ``report.charts``. ``alt``: what it shows, for screen readers."""

    figure: Figure
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()


@dataclasses.dataclass(frozen=True)
class Picture:
    """``image``: (H, W, 3) uint8. ``pixelated``: enlarged without smoothing."""

    image: np.ndarray
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()
    pixelated: bool = False


@dataclasses.dataclass(frozen=True)
class Sprite:
    """The images of a set of points, (N, h, w, 3) uint8, in their order.

    Made once, shared by several ``Points``.
    """

    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Points:
    """A scatter of images:

    ``xy`` (N, 2) float, ``labels`` (N,) int into ``classes`` and ``colours`` (``#rrggbb``).

    In the page a point shows its image and label under the pointer, the finger, or the arrow keys.
    """

    xy: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    colours: list[str]
    sprite: Sprite
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layers:
    """Pictures of one thing by name, each (H, W, 3) uint8: in the page one over the other, with
    a slider between them.

    ``legend``: the colours (``#rrggbb``) that need a name, by name.
    """

    layers: dict[str, np.ndarray]
    caption: Parts
    alt: str
    runs: tuple[RunLog, ...] = ()
    legend: dict[str, str] = dataclasses.field(default_factory=dict)


class Grid:
    """Figures side by side where there is room."""

    def __init__(self, *blocks: Drawing | Picture | Points | Layers) -> None:
        self.blocks = blocks


@dataclasses.dataclass(frozen=True)
class Gap:
    """What is missing, and the command that makes it."""

    what: str
    command: str


def unfinished(run: RunLog, more: str = "") -> Gap:
    """What a run that is not finished lacks: its end. ``more`` ends the sentence."""
    latest = run.metadata.get("continued", [run.metadata])[-1]["command"]
    try:
        words = shlex.split(latest)
        command = shlex.join(word for word in words if word != "--fresh")  # it would not go on
    except ValueError:  # an open quote
        command = latest
    return Gap(
        f"the end of {run.name}: it is at epoch {run.last['epoch']} of "
        f"{run.metadata['recipe']['epochs']}{more}.",
        command,
    )


Block = Heading | Text | Table | Drawing | Picture | Grid | Points | Layers | Gap


def encoded(image: np.ndarray) -> tuple[str, bytes]:
    """(``png`` or ``jpeg``, the file's bytes) of (H, W, 3) uint8: drawings exactly, photographs
    small.
    """
    content = io.BytesIO()
    picture = Image.fromarray(image)
    if len(picture.getcolors(256) or ()):  # getcolors: None where there are more
        picture.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            content, "png", optimize=True
        )
        if np.array_equal(
            np.asarray(Image.open(content).convert("RGB")), image
        ):  # the octree may merge near colours
            return "png", content.getvalue()
        content = io.BytesIO()
        picture.save(content, "png", optimize=True)
        return "png", content.getvalue()
    picture.save(content, "jpeg", quality=88, subsampling=0)
    return "jpeg", content.getvalue()


SPRITE_COLUMNS = 50


def tiled(sprite: Sprite) -> np.ndarray:
    """The sprite's images in rows of ``SPRITE_COLUMNS``: (rows * h, columns * w, 3) uint8."""
    count, height, width, _ = sprite.images.shape
    rows = -(-count // SPRITE_COLUMNS)
    sheet = np.zeros((rows * SPRITE_COLUMNS, height, width, 3), dtype=np.uint8)
    sheet[:count] = sprite.images
    return (
        sheet.reshape(rows, SPRITE_COLUMNS, height, width, 3)
        .swapaxes(1, 2)
        .reshape(rows * height, -1, 3)
    )
