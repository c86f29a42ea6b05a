"""Problem 1's data: 32x32 RGB images named ``{label}_{id}.png``.

They are in the folders ``p1_data/train_50`` and ``p1_data/val_50``.
"""

from __future__ import annotations

import functools
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from core import images
from core.cli import InputError
from core.files import list_files

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = tuple(str(label) for label in range(50))
SIZE = 32
KIND = f"p1-{SIZE}"  # names the cache: see training.cache.load
decode = functools.partial(images.read_square, size=SIZE)


def label_of(name: str) -> int:
    """The label at the start of a training file's name.

    Raises InputError if there is no label. (Test files have none.)
    """
    match = re.match(r"(\d+)_", name)
    if not match or int(match[1]) >= len(CLASSES):
        raise InputError(
            f"{name}: the file name must begin with a label 0..{len(CLASSES) - 1} and an underscore"
        )
    return int(match[1])


def load(folder: Path, memory: float = math.inf) -> tuple[Tensor, Tensor, list[Path]]:
    """Images (N, 3, 32, 32) uint8, labels (N,) int64 and paths of a labelled folder.

    ``memory``: see ``cache.load``. Raises InputError if there are no images, if a name has no
    label, or if an image cannot be read.
    """
    import torch  # not at the top: inference decodes images before it imports torch

    from training import cache

    paths = list_files(folder, images.SUFFIXES)
    labels = torch.tensor([label_of(path.name) for path in paths])
    return cache.load(paths, decode, KIND, memory), labels, paths
