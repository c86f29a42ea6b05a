"""Make initial weights for model B: ``python3 -m p1.pretrain --recipe hour``.

The published weights were trained on CIFAR-100, which problem 1's validation images are part of. These
come from the same network trained on other images: a folder and a csv that labels them, by default
problem 2's ``mini``, at 32x32. One in ``HOLD_OUT`` images of each class is kept out of the training to
measure the accuracy on; the seed draws which.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from core import cache, devices, optim, processes
from core.cli import InputError, Parser, training_flags
from core.files import natural
from core.predictions import locate, read_rows
from core.provenance import digest
from core.randomness import generator, seed_of
from core.run import Run
from p1 import data
from p1.model import mobilenet_v2
from p1.recipes import PRETRAIN
from p1.train import fit

HOLD_OUT = 20


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--recipe", choices=list(PRETRAIN), default="report", help="%(default)s")
    parser.add_argument("--labels", type=Path, help="csv: filename,label (DATA/labels.csv)")
    training_flags(parser, data="hw1_data/p2_data/mini", run="runs/p1_pretrain_RECIPE")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    recipe = PRETRAIN[args.recipe]
    recipe = dataclasses.replace(
        recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size
    )
    device = processes.choose(args.device)

    table, folder = args.labels or args.data / "labels.csv", args.data / "train"
    rows = read_rows(table, ("filename", "label"))
    paths = locate(table, folder, rows)
    names = [row["label"] for row in rows]
    classes = tuple(sorted(set(names), key=natural))
    labels = torch.tensor([classes.index(name) for name in names])
    held = hold_out(labels, args.seed)
    if not held.any():
        raise InputError(f"{table} names no label twice; of two images, one is to measure on")
    kept_paths = [path for path, out in zip(paths, held, strict=True) if not out]
    held_paths = [path for path, out in zip(paths, held, strict=True) if out]
    train_images = cache.load(kept_paths, data.decode, f"{data.KIND}-kept", args.data_memory)
    val_images = cache.load(held_paths, data.decode, f"{data.KIND}-held", args.data_memory)
    digests = {
        "train": digest(train_images, labels[~held]),
        "val": digest(val_images, labels[held]),
    }
    train_images, train_labels = (
        cache.resident(train_images, device, args.data_memory),
        labels[~held].to(device),
    )

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = devices.prepare(mobilenet_v2(len(classes)), device)
    average = copy.deepcopy(network) if recipe.average else network
    optimizer = optim.make(
        recipe.optimiser, network, recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    run = Run(
        args.run or Path(f"runs/p1_pretrain_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data=digests,
        state={"network": network, "average": average, "optimizer": optimizer},
        watch="accuracy", fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip
    train_set, val_set = (train_images, train_labels), (val_images, labels[held])
    fit(run, recipe, network, average, optimizer, train_set, val_set, device, classes)


def hold_out(labels: Tensor, seed: int) -> Tensor:
    """Which images are measured on, (N,) bool: one in HOLD_OUT of each class of ``labels`` (N,) int64.

    Of a class of two or more at least one; of a single image none.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        index = (labels == label).nonzero().flatten()
        count = max(round(len(index) / HOLD_OUT), 1) if len(index) > 1 else 0
        drawn = torch.randperm(len(index), generator=generator(seed, "hold-out", label))
        held[index[drawn[:count]]] = True
    return held


if __name__ == "__main__":
    processes.entry(main)
