"""Problem 3's files: ``xxxx_sat.jpg`` with ``xxxx_mask.png`` of the same size, and the seven
colours of a mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core import images
from core.cli import InputError
from core.files import list_files

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = ("urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown")
KIND = "p3-pairs"  # of cache
UNKNOWN = 6  # no class of the metric
COLOURS = np.array(
    [
        (0, 255, 255),
        (255, 255, 0),
        (255, 0, 255),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
    ],
    dtype=np.uint8,
)
# A channel is on from 128 up; the code is 4 red + 2 green + blue. Pure red, 4, is nobody's colour:
# unknown.
CLASS_OF_CODE = np.array([6, 4, 3, 0, 6, 2, 1, 5], dtype=np.uint8)


def classes_of(mask: np.ndarray) -> np.ndarray:
    """The colours of a mask, (H, W, 3) uint8, to class indices (H, W) uint8."""
    on = mask >> 7
    return CLASS_OF_CODE[(on[..., 0] << 2) | (on[..., 1] << 1) | on[..., 2]]


def colours_of(classes: np.ndarray) -> np.ndarray:
    """Class indices (H, W) to colours (H, W, 3) uint8."""
    return COLOURS[classes]


def mask_name(image_name: str) -> str:
    """``0001_sat.jpg`` -> ``0001_mask.png``; of an earlier year's ``0001.jpg`` -> ``0001.png``."""
    stem = image_name.rsplit(".", 1)[0]
    return f"{stem[: -len('_sat')]}_mask.png" if stem.endswith("_sat") else f"{stem}.png"


def list_images(folder: Path) -> list[Path]:
    """The satellite images of a folder that may also hold masks, in natural order.

    In a folder that has ``*_sat.*`` files these are the images; in another one, all but
    ``*_mask.*`` and, as in earlier years, a ``.png`` beside a JPEG of the same name. Raises
    InputError if there is none, or if two images would have the same mask.
    """
    paths = select(list_files(folder, images.SUFFIXES))
    if not paths:
        raise InputError(f"no image but only masks in {folder}")
    check_names(paths)
    return paths


def select(paths: list[Path]) -> list[Path]:
    """The images among a folder's files, without the masks. See ``list_images``."""
    paths = [path for path in paths if not path.stem.endswith("_mask")]
    marked = [path for path in paths if path.stem.endswith("_sat")]
    jpegs = {path.stem for path in paths if path.suffix.lower() != ".png"}
    return marked or [
        path for path in paths if path.suffix.lower() != ".png" or path.stem not in jpegs
    ]


def check_names(paths: Iterable[Path]) -> None:
    """Raise InputError if two images would have the same mask."""
    names: dict[str, Path] = {}
    for path in paths:
        other = names.setdefault(mask_name(path.name), path)
        if other is not path:
            raise InputError(
                f"{other} and {path} would both become {mask_name(path.name)}; leave one out"
            )


def read_pair(path: Path) -> np.ndarray:
    """An image and its mask as (H, W, 4) uint8: red, green, blue, class.

    Raises BadImage or InputError.
    """
    image = images.read_rgb(path)
    mask_path = path.with_name(mask_name(path.name))
    classes = classes_of(images.read_rgb(mask_path))
    if classes.shape != image.shape[:2]:
        raise InputError(
            f"{mask_path} is {images.size_of(classes)}, but {path.name} is {images.size_of(image)}"
        )
    return np.dstack([image, classes])


def load(folder: Path, memory: float = math.inf) -> tuple[Tensor, list[Path]]:
    """Images and masks of a folder, (N, 4, H, W) uint8 with the class as fourth channel, and the
    images' paths.

    ``memory``: see ``cache.load``.
    """
    from training import cache  # here, as the inference decodes before it has torch

    paths = list_images(folder)
    return cache.load(paths, read_pair, KIND, memory, beside=masks(paths)), paths


def masks(paths: list[Path]) -> list[Path]:
    """The masks of images, which lie beside them."""
    return [path.with_name(mask_name(path.name)) for path in paths]


def split(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 4, H, W) to images (N, 3, H, W) uint8 and classes (N, H, W) int64."""
    return pairs[:, :3], pairs[:, 3].long()


def confusion(truth: Tensor, predicted: Tensor) -> Tensor:
    """Pixels counted by (true class, predicted class): (7, 7) int64, from two tensors of classes of
    one shape.
    """
    import torch

    count = len(CLASSES)
    return torch.bincount(
        (truth.long() * count + predicted).flatten(), minlength=count * count
    ).view(count, count)


def mean_iou(counts: Tensor) -> tuple[float, list[float]]:
    """The course's metric from ``confusion``: the mean over the classes but unknown, and each one's
    IoU.

    IoU = TP / (TP + FP + FN). A class that is nowhere has IoU NaN and is left out of the mean.
    """
    counts = counts.double()
    right = counts.diagonal()
    ious = (right / (counts.sum(0) + counts.sum(1) - right))[:UNKNOWN]
    return ious.nanmean().item(), ious.tolist()
