"""Labelled images of which a part is held out for measuring."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training import cache, loop

Set = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, labels (N,) int64


def labels_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--labels``, the csv with the labels of the images in ``DATA/train``."""
    parser.add_argument("--labels", type=Path, help="csv: filename,label (DATA/labels.csv)")


def load(
    paths: Sequence[Path],
    labels: Sequence[int],
    decode: Callable[[Path], np.ndarray],
    kind: str,
    share: int,
    args: argparse.Namespace,
) -> tuple[Set, Set]:
    """Load labelled images: those to train on, and those held out.

    In each class, one image in ``share`` is held out; the seed decides which. Both parts are sets
    of their own on the disk, so that neither must fit in memory. ``decode``, ``kind``: see
    ``cache.load``. ``args``: of ``flags.command_line``. Raises InputError as ``loop.held_out`` and
    ``cache.load`` do.
    """
    every = torch.tensor(labels)
    held = loop.held_out(every, args.seed, share)

    def part(chosen: Tensor, what: str) -> Set:
        own = [path for path, is_in in zip(paths, chosen.tolist(), strict=True) if is_in]
        return cache.load(own, decode, f"{kind}-{what}", args.data_memory), every[chosen]

    return part(~held, "kept"), part(held, "held")
