"""A folder of images with a csv of labels, a part of which is held out for measuring."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prediction.tables import classes_of, read_labelled
from training import cache, loop

Set = tuple[Tensor, Tensor]  # images (N, C, H, W) uint8, labels (N,) int64


def labels_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--labels``, the csv that ``load`` reads."""
    parser.add_argument("--labels", type=Path, help="csv: filename,label (DATA/labels.csv)")


def load(
    args: argparse.Namespace, decode: Callable[[Path], np.ndarray], kind: str, share: int
) -> tuple[Set, Set, tuple[str, ...]]:
    """Load the images of ``DATA/train``: those to train on, those held out, and the classes.

    In each class, one image in ``share`` is held out; the seed decides which. Both parts are sets
    of their own on the disk, so that neither must fit in memory. ``decode``, ``kind``: see
    ``cache.load``. Raises InputError as ``read_labelled``, ``loop.held_out`` and ``cache.load`` do.
    """
    names, paths = read_labelled(args.labels or args.data / "labels.csv", args.data / "train")
    classes = classes_of(names)
    labels = torch.tensor([classes.index(name) for name in names])
    held = loop.held_out(labels, args.seed, share)

    def part(chosen: Tensor, what: str) -> Set:
        own = [path for path, is_in in zip(paths, chosen.tolist(), strict=True) if is_in]
        return cache.load(own, decode, f"{kind}-{what}", args.data_memory), labels[chosen]

    return part(~held, "kept"), part(held, "held"), classes
