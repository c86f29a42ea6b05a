"""Label whole images, as the inference programs of problems 1 and 2 do."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core.cli import answer
from prediction.stream import Stream
from prediction.tables import write_rows

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    import torch


def label(
    args: argparse.Namespace,
    stream: Stream,
    device: torch.device,
    predictor: Callable,
    columns: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    batch_sizes: tuple[int, int],
) -> int:
    """Label the images of ``stream`` on ``device``, write the csv files; return the exit status.

    ``args``: of ``prediction.flags`` and ``output``. ``predictor``: as ``p1.inference.predictor``.
    ``columns``, ``rows``: what stands before each image's label; the last is its file name.
    ``batch_sizes``: on the CPU and on a GPU, unless ``args`` has one. An image that could not be
    read, or not in time, gets the first class and no probabilities.
    """
    from core import devices

    predict, classes, views = predictor(args.checkpoint, device, args.flip, args.bf16)
    labels = dict.fromkeys(stream.paths, classes[0])
    probabilities: dict[Path, np.ndarray] = {}
    batch_size = args.batch_size or batch_sizes[device.type != "cpu"]
    for batch in stream.batches(batch_size, views.reduce):
        logits = predict(batch.images)
        best = [classes[k] for k in logits.argmax(1)]
        labels.update(zip(batch.paths, best, strict=True))
        if args.probabilities or args.top:
            probabilities.update(zip(batch.paths, softmax(logits), strict=True))

    answers = [(*row, text) for row, text in zip(rows, labels.values(), strict=True)]
    write_rows(args.output, (*columns, "label"), answers)
    named = list(zip(rows, map(probabilities.get, labels), strict=True))
    if args.probabilities:
        table = [(*row, *in_cells(shares, len(classes))) for row, shares in named]
        write_rows(args.probabilities, (*columns, *classes), table)
    for row, shares in named if args.top else ():
        answer("  ".join((row[-1], *top(shares, classes, args.top))))
    return stream.report(devices.describe(device), f"the label {classes[0]}")


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (N, classes) -> probabilities of the same shape."""
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def in_cells(shares: np.ndarray | None, count: int) -> list[str]:
    """An image's probabilities, (classes,), as cells of a csv; ``count`` empty ones for None."""
    return [""] * count if shares is None else [f"{share:.6f}" for share in shares]


def top(shares: np.ndarray | None, classes: tuple[str, ...], count: int) -> list[str]:
    """The ``count`` most likely classes of an image and their probabilities, best first."""
    if shares is None:
        return ["could not be read, or not in time"]
    best = np.argsort(-shares, kind="stable")[:count]
    return [f"{classes[k]} {shares[k]:.4f}" for k in best]
