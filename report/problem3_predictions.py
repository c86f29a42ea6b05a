"""What a training run's checkpoints predict: single masks with their scores, and the confusion
matrix of a whole folder.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import images
from core.cli import InputError
from p3 import data
from prediction.predictor import Predictor


def read_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An image (H, W, 3) uint8 and its true classes (H, W) uint8. Raises InputError."""
    try:
        pair = data.read_pair(path)
    except images.BadImage as error:
        raise InputError(str(error)) from error
    return np.ascontiguousarray(pair[..., :3]), np.ascontiguousarray(pair[..., 3])


def mask(predict: Predictor, image: np.ndarray) -> np.ndarray:
    """The predicted classes (H, W) uint8 of one image (H, W, 3) uint8."""
    return predict(torch.from_numpy(image)[None].permute(0, 3, 1, 2))[0, 0]


def confusion(predict: Predictor, folder: Path) -> Tensor:
    """``data.confusion`` over all images of a folder with their masks, one at a time.

    Raises InputError.
    """
    paths, counts = (
        data.list_images(folder),
        torch.zeros(len(data.CLASSES), len(data.CLASSES), dtype=torch.int64),
    )
    for image, truth in images.progress(
        images.InOrder(read_pair, paths, ahead=images.THREADS), len(paths), folder.name
    ):
        counts += data.confusion(torch.from_numpy(truth), torch.from_numpy(mask(predict, image)))
    return counts


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """``mean_iou``, the course's metric on this mask alone, and ``accuracy`` of the pixels that
    are not unknown in the truth.

    A score that no pixel counts for is left out.
    """
    known = truth != data.UNKNOWN
    mean, _ = data.mean_iou(data.confusion(torch.from_numpy(truth), torch.from_numpy(predicted)))
    found = {
        "mean_iou": mean,
        "accuracy": float((truth == predicted)[known].mean()) if known.any() else math.nan,
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def rows_of(counts: np.ndarray) -> np.ndarray:
    """Each row of a confusion matrix by its sum: which share of a true class's pixels was
    predicted as what. Empty rows: 0.
    """
    sums = counts.sum(1, keepdims=True)
    return np.divide(counts, sums, out=np.zeros(counts.shape), where=sums > 0)


CHANGES = ("right in both", "fixed", "broken", "wrong in both", "unknown in the truth")


def changes(truth: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """What became of each pixel between two predictions: indices into ``CHANGES``, (H, W) uint8.

    Pixels that are unknown in the truth are not judged, as unknown is no class of the metric.
    """
    was, is_now = first == truth, last == truth
    found = np.select([was & is_now, is_now, was], [0, 1, 2], default=3)
    return np.where(truth == data.UNKNOWN, 4, found).astype(np.uint8)
