"""Features and predictions of a checkpoint of problem 1, and drawings of its mistakes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from p1.inference import load_network, predictor
from p1.model import features as of_network
from prediction.predictor import Predictor
from report import charts


def features(path: Path, images: Tensor, device: torch.device) -> np.ndarray:
    """Return the input of the last layer, (N, 1792) float32, for ``images`` (N, 3, 32, 32) uint8.

    ``path``: the checkpoint.
    """
    network, saved = load_network(path, device)
    predict = Predictor(lambda inputs: of_network(network, inputs), saved, device)
    return _in_batches(predict, images, device)


def predictions(path: Path, images: Tensor, device: torch.device) -> dict[str, np.ndarray]:
    """Classify ``images`` (N, 3, 32, 32) uint8 as ``hw1_1.sh`` does. ``path``: the checkpoint.

    Returns ``predicted``, the classes (N,) int64, and ``confidence``, the largest softmax values
    (N,) float32.
    """
    predict, _, _ = predictor(path, device)
    confidence, predicted = torch.from_numpy(_in_batches(predict, images, device)).softmax(1).max(1)
    return {"predicted": predicted.numpy(), "confidence": confidence.numpy()}


def _in_batches(predict: Predictor, images: Tensor, device: torch.device) -> np.ndarray:
    size = 32 if device.type == "cpu" else 512
    return np.concatenate([predict(batch) for batch in images.split(size)])


def confused_pairs(matrix: np.ndarray, at_most: int) -> list[tuple[int, int]]:
    """Return the most frequent (true, predicted) mistakes, largest count first.

    ``matrix``: (classes, classes) counts, a row for each true class. Mistakes that never happened
    are left out.
    """
    mistakes = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-mistakes, axis=None, kind="stable")[:at_most]
    pairs = np.stack(np.unravel_index(order, mistakes.shape), 1).tolist()
    return [(true, taken) for true, taken in pairs if mistakes[true, taken]]


def most_confident(chosen: np.ndarray, confidence: np.ndarray, at_most: int) -> np.ndarray:
    """Return the indices of the ``chosen`` (N,) bool with the highest confidence, highest first."""
    indices = np.flatnonzero(chosen)
    return indices[np.argsort(-confidence[indices], kind="stable")][:at_most]


def confusion_drawing(matrix: np.ndarray) -> Figure:
    """Draw a confusion matrix as shares of each row: the larger a share, the stronger its colour.

    Correct predictions have one colour, mistakes another. ``matrix``: see ``confused_pairs``.
    """
    count = len(matrix)
    shares = matrix / matrix.sum(1, keepdims=True).clip(1)
    figure, axes = charts.panel(4.2, 4.2)
    rows, columns = shares.nonzero()
    corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    for series, chosen in ((0, rows == columns), (1, rows != columns)):
        y, x = rows[chosen], columns[chosen]
        if not len(y):  # all predictions are correct, or all are wrong
            continue
        squares = np.stack([x, y], 1)[:, None, :] + corners
        alpha = 0.2 + 0.8 * np.sqrt(shares[y, x])  # so that a single mistake in 50 can be seen
        axes.add_collection(
            PolyCollection(
                squares, facecolors=charts.SERIES[series], alpha=alpha, edgecolors="none"
            )
        )
    ticks = np.arange(0, count, max(1, count // 10))
    axes.set(
        xlim=(-0.5, count - 0.5),
        ylim=(count - 0.5, -0.5),
        xticks=ticks,
        yticks=ticks,
        aspect="equal",
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.tick_params(labelsize=8)
    return figure


def mistakes_drawing(images: np.ndarray, titles: list[str], details: list[str]) -> Figure:
    """Draw ``images`` (N, h, w, 3) uint8 in rows of four, above their titles and details."""
    columns, side, pitch, room = 4, 0.8, 1.03, 1.28
    rows = -(-len(images) // columns)
    figure, axes = charts.panel(4.2, rows * room + 0.06, axes=False)
    for k, image in enumerate(images):
        x = 0.06 + (k % columns) * pitch + (pitch - side) / 2
        y = (rows - k // columns) * room - side
        _show(axes, image, x, y, side)
        charts.label(axes, x + side / 2, y - 0.12, titles[k], size=9, colour=charts.INK)
        charts.label(axes, x + side / 2, y - 0.29, details[k])
    return figure


def pairs_drawing(
    images: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    confidence: np.ndarray,
    pairs: list[tuple[int, int]],
) -> Figure:
    """Draw a row for each (true, predicted): three such mistakes, and three correct predictions.

    The correct ones are images of the class that was predicted. In both groups the images with the
    highest confidence are shown. ``images``: (N, h, w, 3) uint8.
    """
    side, room, first, second = 0.49, 0.62, 1.0, 2.64
    figure, axes = charts.panel(4.2, len(pairs) * room + 0.36, axes=False)
    for x, text in (
        (0.5, "true → taken"),
        (first + 0.76, "mistakes"),
        (second + 0.76, "correct predictions"),
    ):
        charts.label(axes, x, len(pairs) * room + 0.2, text)
    for row, (true, taken) in enumerate(pairs):
        y = (len(pairs) - 1 - row) * room + 0.06
        charts.label(axes, 0.5, y + side / 2, f"{true} → {taken}", size=10, colour=charts.INK)
        for left, true_class in ((first, true), (second, taken)):
            such = (labels == true_class) & (predicted == taken)
            for k, index in enumerate(most_confident(such, confidence, 3)):
                _show(axes, images[index], left + k * (side + 0.02), y, side)
    return figure


def _show(axes: Axes, image: np.ndarray, x: float, y: float, side: float) -> None:
    limits = axes.get_xlim(), axes.get_ylim()  # imshow changes them
    axes.imshow(image, extent=(x, x + side, y, y + side), interpolation="none", aspect="auto")
    axes.set(xlim=limits[0], ylim=limits[1])
