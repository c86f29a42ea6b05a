"""The labels of whole images, and the other outputs that are made from their probabilities."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from core.cli import answer
from prediction.tables import write_rows


class Labels:
    """The label of each image, ``fallback`` until it is known, and other requested outputs."""

    def __init__(
        self, paths: list[Path], classes: tuple[str, ...], fallback: str, args: argparse.Namespace
    ) -> None:
        self._classes, self._args = classes, args
        self.of = dict.fromkeys(paths, fallback)
        self._probabilities: dict[Path, np.ndarray] = {}

    def add(self, paths: list[Path], logits: np.ndarray) -> None:
        """Label the images at ``paths`` by their ``logits``, (N, classes) float32."""
        self.of.update(
            (path, self._classes[k]) for path, k in zip(paths, logits.argmax(1), strict=True)
        )
        if self._args.probabilities or self._args.top:
            shares = np.exp(logits - logits.max(1, keepdims=True))
            self._probabilities.update(
                zip(paths, shares / shares.sum(1, keepdims=True), strict=True)
            )

    def write_more(self, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
        """Write the file of probabilities and print the ``--top`` labels, if requested.

        ``columns`` and ``rows``, one per image, come before the probabilities. An image that
        could not be read, or not in time, has no probabilities.
        """
        named = list(zip(self.of, rows, strict=True))
        if self._args.probabilities:
            table = [
                (*row, *(f"{share:.6f}" for share in self._probabilities.get(path, ())))
                for path, row in named
            ]
            width = len(columns) + len(self._classes)
            table = [(*row, *[""] * (width - len(row))) for row in table]
            write_rows(self._args.probabilities, (*columns, *self._classes), table)
        for path, row in named if self._args.top else ():
            shares = self._probabilities.get(path, np.empty(0))
            best = np.argsort(-shares, kind="stable")[: self._args.top]
            words = [f"{self._classes[k]} {shares[k]:.4f}" for k in best]
            words = words or ["could not be read, or not in time"]
            answer("  ".join((row[-1], *words)))
