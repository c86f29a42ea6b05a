"""Problem 2's data: unlabelled images in ``mini/train``, labelled ones in ``office/{train,val}``.

``office/train.csv`` and ``office/val.csv`` list the labelled images.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING

from core import images
from core.cli import InputError, some
from core.files import list_files, natural
from prediction.tables import classes_of, read_labelled

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 128  # fixed by the course
KIND = f"p2-{SIZE}"  # names the cache: see training.cache.load
decode = functools.partial(images.read_square, size=SIZE)


def load_unlabelled(folder: Path, memory: float = math.inf) -> tuple[Tensor, list[Path]]:
    """Images (N, 3, 128, 128) uint8 and paths of a folder. ``memory``: see ``cache.load``.

    Raises InputError if there are no images, or if one cannot be read.
    """
    from training import cache  # not at the top: inference decodes images before it imports torch

    paths = list_files(folder, images.SUFFIXES)
    return cache.load(paths, decode, KIND, memory), paths


def load_labelled(
    table: Path, folder: Path, classes: tuple[str, ...] = (), memory: float = math.inf
) -> tuple[Tensor, Tensor, list[Path], tuple[str, ...]]:
    """Images (N, 3, 128, 128) uint8, class indices (N,) int64, paths, and the classes.

    The classes are ``classes`` or, if none are given, those of the csv. ``memory``: see
    ``cache.load``. Raises InputError as ``read_labelled`` does, if an image cannot be read, or if a
    label is not in ``classes``.
    """
    import torch  # not at the top: inference decodes images before it imports torch

    from training import cache

    labels, paths = read_labelled(table, folder)
    classes = classes or classes_of(labels)
    foreign = sorted(set(labels) - set(classes), key=natural)
    if foreign:
        raise InputError(f"{table} has labels that are not in the training csv: {some(foreign)}")
    index = {label: k for k, label in enumerate(classes)}
    indices = torch.tensor([index[label] for label in labels])
    # A csv that lists the whole folder shares the cache of the unlabelled images. Any other csv
    # must not overwrite that cache.
    kind = KIND if paths == list_files(folder, images.SUFFIXES) else f"{KIND}-labelled"
    return cache.load(paths, decode, kind, memory), indices, paths, classes
