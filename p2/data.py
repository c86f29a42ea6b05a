"""Problem 2's files: unlabelled images in ``mini/train``; ``office/{train,val}`` with csv files
that name the images.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from core import images
from core.cli import InputError, some
from core.files import list_files, natural
from prediction.tables import locate, read_rows

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 128  # fixed by the course
KIND = f"p2-{SIZE}"  # of cache
decode = functools.partial(images.read_square, size=SIZE)


def load_unlabelled(folder: Path, memory: float = math.inf) -> tuple[Tensor, list[Path]]:
    """Images (N, 3, 128, 128) uint8 and paths of a folder. ``memory``: see ``cache.load``."""
    from training import cache  # here, as the inference decodes before it has torch

    paths = list_files(folder, images.SUFFIXES)
    return cache.load(paths, decode, KIND, memory), paths


def read_labelled(table: Path, folder: Path) -> tuple[list[str], list[Path]]:
    """Labels, as they stand in the csv, and paths of the images that it names."""
    rows = read_rows(table, ("filename", "label"))
    return [row["label"] for row in rows], locate(table, folder, rows)


def classes_of(labels: list[str]) -> tuple[str, ...]:
    """The class list of a training csv: its labels in natural order."""
    return tuple(sorted(set(labels), key=natural))


def load_labelled(
    table: Path, folder: Path, classes: tuple[str, ...] = (), memory: float = math.inf
) -> tuple[Tensor, Tensor, list[Path], tuple[str, ...]]:
    """Images (N, 3, 128, 128) uint8, class indices (N,) int64, paths, and ``classes`` or, if none
    are given, the csv's own.

    ``memory``: see ``cache.load``. Raises InputError at a label that is not among ``classes``.
    """
    import torch  # here, as the inference decodes before it has torch

    from training import cache

    labels, paths = read_labelled(table, folder)
    classes = classes or classes_of(labels)
    foreign = sorted(set(labels) - set(classes), key=natural)
    if foreign:
        raise InputError(f"{table} has labels that the training csv has not: {some(foreign)}")
    index = {label: k for k, label in enumerate(classes)}
    indices = torch.tensor([index[label] for label in labels])
    # A csv of the whole folder shares the cache of the unlabelled images; another one must not take
    # its place.
    kind = KIND if paths == list_files(folder, images.SUFFIXES) else f"{KIND}-labelled"
    return cache.load(paths, decode, kind, memory), indices, paths, classes
