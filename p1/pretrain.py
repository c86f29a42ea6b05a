"""Train initial weights for model B: ``python3 -m p1.pretrain --recipe hour``.

The published weights were trained on CIFAR-100, which contains problem 1's validation images. This
program trains the same network on other images: by default problem 2's ``mini`` at 32x32, or any
folder with a csv of labels. In each class, one image in 20 is held out to measure the accuracy; the
seed decides which.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from core.randomness import seed_of
from p1 import data
from p1.model import build
from p1.recipes import PRETRAIN, Recipe
from p1.train import fit, show
from prediction.tables import classes_of, read_labelled
from training import cache, flags, loop, processes
from training.recipes import choose_recipe

HOLD_OUT = 20


def arguments() -> tuple[argparse.Namespace, Recipe]:
    parser = flags.command_line(
        __doc__, data="hw1_data/p2_data/mini", run="runs/p1_pretrain_RECIPE"
    )
    parser.add_argument("--labels", type=Path, help="csv: filename,label (DATA/labels.csv)")
    args = parser.parse_args()
    return args, choose_recipe(parser, args, PRETRAIN, "p1_pretrain")


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)

    table, folder = args.labels or args.data / "labels.csv", args.data / "train"
    names, paths = read_labelled(table, folder)
    classes = classes_of(names)
    labels = torch.tensor([classes.index(name) for name in names])
    held = loop.held_out(labels, args.seed, HOLD_OUT)
    # Two sets on the disk, so that neither must fit in memory: see --data-memory.
    kept_paths = [path for path, out in zip(paths, held, strict=True) if not out]
    held_paths = [path for path, out in zip(paths, held, strict=True) if out]
    images = cache.load(kept_paths, data.decode, f"{data.KIND}-kept", args.data_memory)
    val_images = cache.load(held_paths, data.decode, f"{data.KIND}-held", args.data_memory)
    if args.preview:
        return show(args, recipe, images, labels[~held], classes)

    torch.manual_seed(seed_of(args.seed, "weights"))
    fit(
        args,
        recipe,
        "p1_pretrain",
        build(recipe.architecture, len(classes)),
        (images, labels[~held]),
        (val_images, labels[held]),
        classes,
        device,
        identity={},
        notes={},
    )


if __name__ == "__main__":
    processes.entry(main)
