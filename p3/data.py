"""Problem 3's data: ``xxxx_sat.jpg`` with ``xxxx_mask.png``, and the seven colours of a mask."""

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
KIND = "p3-pairs"  # names the cache: see training.cache.load
UNKNOWN = 6  # the metric ignores this class
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
# A channel is on from 128 up, and the code is 4 red + 2 green + blue. No class has pure red, code
# 4: it counts as unknown.
CLASS_OF_CODE = np.array([6, 4, 3, 0, 6, 2, 1, 5], dtype=np.uint8)


def classes_of(mask: np.ndarray) -> np.ndarray:
    """Convert the colours of a mask, (H, W, 3) uint8, to class indices (H, W) uint8."""
    on = mask >> 7
    return CLASS_OF_CODE[(on[..., 0] << 2) | (on[..., 1] << 1) | on[..., 2]]


def colours_of(classes: np.ndarray) -> np.ndarray:
    """Convert class indices (H, W) to colours (H, W, 3) uint8."""
    return COLOURS[classes]


def mask_name(image_name: str) -> str:
    """``0001_sat.jpg`` -> ``0001_mask.png``; in earlier years ``0001.jpg`` -> ``0001.png``."""
    stem = image_name.rsplit(".", 1)[0]
    return f"{stem[: -len('_sat')]}_mask.png" if stem.endswith("_sat") else f"{stem}.png"


def list_images(folder: Path) -> list[Path]:
    """The satellite images of a folder that may also contain masks, in natural order.

    If there are ``*_sat.*`` files, they are the images. Otherwise the images are all files except
    masks: ``*_mask.*`` and, as in earlier years, a ``.png`` next to a JPEG of the same name.
    Raises InputError if there is no image, or if two images would have the same mask.
    """
    paths = select(list_files(folder, images.SUFFIXES))
    if not paths:
        raise InputError(f"no images, only masks, in {folder}; give a folder that has the images")
    check_names(paths)
    return paths


def select(paths: list[Path]) -> list[Path]:
    """The images among a folder's files, without the masks: see ``list_images``."""
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
                f"{other} and {path} would have the same mask {mask_name(path.name)}; leave one out"
            )


def read_pair(path: Path) -> np.ndarray:
    """Read an image and its mask as (H, W, 4) uint8: red, green, blue, class.

    Raises BadImage if one cannot be decoded, InputError if their sizes differ or the image would be
    its own mask.
    """
    mask_path = path.with_name(mask_name(path.name))
    if mask_path == path:
        raise InputError(
            f"{path} has no mask; name a PNG image xxxx_sat.png and its mask xxxx_mask.png"
        )
    image = images.read_rgb(path)
    classes = classes_of(images.read_rgb(mask_path))
    if classes.shape != image.shape[:2]:
        raise InputError(
            f"{mask_path} is {images.size_of(classes)}, but {path.name} is {images.size_of(image)}"
        )
    return np.dstack([image, classes])


def load(folder: Path, memory: float = math.inf) -> tuple[Tensor, list[Path]]:
    """Load a folder's pairs, (N, 4, H, W) uint8 (see ``read_pair``), and the images' paths.

    ``memory``: see ``cache.load``. Raises InputError if there are no images, if a mask is missing
    or has another size than its image, or if the images differ in size.
    """
    from training import cache  # not at the top: inference decodes images before it imports torch

    paths = list_images(folder)
    return cache.load(paths, read_pair, KIND, memory, beside=masks(paths)), paths


def masks(paths: list[Path]) -> list[Path]:
    """The paths of the masks, which are in the same folder as their images."""
    return [path.with_name(mask_name(path.name)) for path in paths]


def split(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Split pairs (N, 4, H, W) into images (N, 3, H, W) uint8 and classes (N, H, W) int64."""
    return pairs[:, :3], pairs[:, 3].long()


def count_pixels(pairs: Tensor) -> Tensor:
    """The number of pixels of each class in pairs (N, 4, H, W) uint8: (7,) int64."""
    import torch

    # In small parts, because bincount converts its input to int64.
    parts = (
        torch.bincount(part[:, 3].flatten(), minlength=len(CLASSES)) for part in pairs.split(16)
    )
    return torch.stack(list(parts)).sum(0)


def confusion(truth: Tensor, predicted: Tensor) -> Tensor:
    """The number of pixels for each (true class, predicted class): (7, 7) int64.

    ``truth`` and ``predicted`` contain class indices and have the same shape.
    """
    import torch

    count = len(CLASSES)
    return torch.bincount(
        (truth.long() * count + predicted).flatten(), minlength=count * count
    ).view(count, count)


def mean_iou(counts: Tensor) -> tuple[float, list[float]]:
    """The course's metric from ``confusion``: mean IoU and the IoU of each class but unknown.

    IoU = TP / (TP + FP + FN). A class that never occurs has IoU NaN and is left out of the mean.
    """
    counts = counts.double()
    right = counts.diagonal()
    ious = (right / (counts.sum(0) + counts.sum(1) - right))[:UNKNOWN]
    return ious.nanmean().item(), ious.tolist()
