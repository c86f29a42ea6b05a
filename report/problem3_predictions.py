"""What a run's checkpoints predict: masks and their scores, and a folder's confusion matrix."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import images, progress, threads
from core.cli import InputError
from p3 import data
from prediction.predictor import Predictor


def read_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (H, W, 3) uint8 and its true classes (H, W) uint8.

    Raises InputError if one of them cannot be read.
    """
    try:
        pair = data.read_pair(path)
    except images.BadImage as error:
        raise InputError(str(error)) from error
    return np.ascontiguousarray(pair[..., :3]), np.ascontiguousarray(pair[..., 3])


def mask(predict: Predictor, image: np.ndarray) -> np.ndarray:
    """Predict the classes (H, W) uint8 of one image (H, W, 3) uint8."""
    return predict(torch.from_numpy(image)[None].permute(0, 3, 1, 2))[0, 0]


def confusion(predict: Predictor, folder: Path) -> Tensor:
    """Sum ``data.confusion`` over all images of a folder and their masks, one at a time.

    Raises InputError if an image or a mask cannot be read.
    """
    paths = data.list_images(folder)
    counts = torch.zeros(len(data.CLASSES), len(data.CLASSES), dtype=torch.int64)
    pairs = threads.InOrder(read_pair, paths, ahead=threads.THREADS)
    for image, truth in progress.counted(pairs, len(paths), folder.name, "images"):
        counts += data.confusion(torch.from_numpy(truth), torch.from_numpy(mask(predict, image)))
    return counts


def scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return ``mean_iou``, the course's metric on this mask alone, and ``accuracy``.

    The accuracy is over the pixels that are not unknown in the truth. A score is left out if no
    pixel counts for it.
    """
    known = truth != data.UNKNOWN
    mean, _ = data.mean_iou(data.confusion(torch.from_numpy(truth), torch.from_numpy(predicted)))
    found = {} if math.isnan(mean) else {"mean_iou": mean}
    return found | ({"accuracy": (truth == predicted)[known].mean()} if known.any() else {})


def rows_of(counts: np.ndarray) -> np.ndarray:
    """Divide each row of a confusion matrix by its sum; empty rows stay 0.

    An entry is then the share of a true class's pixels that was predicted as the column's class.
    """
    return counts / counts.sum(1, keepdims=True).clip(1)


CHANGES = ("right in both", "fixed", "broken", "wrong in both", "unknown in the truth")


def changes(truth: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Compare two predictions pixel by pixel: (H, W) uint8, indices into ``CHANGES``.

    Pixels that are unknown in the truth are not judged, as the metric does not count that class.
    """
    was, is_now = first == truth, last == truth
    conditions = [truth == data.UNKNOWN, was & is_now, is_now, was]
    return np.select(conditions, [4, 0, 1, 2], default=3).astype(np.uint8)
