"""Train initial weights for model B: ``python3 -m p1.pretrain --recipe hour``.

The published weights were trained on CIFAR-100, which contains problem 1's validation images. This
program trains the same network on other images: by default problem 2's ``mini`` at 32x32, or any
folder with a csv of labels. In each class, one image in 20 is held out to measure the accuracy; the
seed decides which.
"""

from __future__ import annotations

import argparse

import torch

from core.randomness import seed_of
from p1 import data
from p1.model import build
from p1.recipes import PRETRAIN, Recipe
from p1.train import fit, show
from prediction.tables import classes_of, read_labelled
from training import flags, labelled, processes
from training.recipes import choose_recipe

HOLD_OUT = 20  # one image in so many of each class


def arguments() -> tuple[argparse.Namespace, Recipe]:
    parser = flags.command_line(
        __doc__, data="hw1_data/p2_data/mini", run="runs/p1_pretrain_RECIPE"
    )
    labelled.labels_flag(parser)
    args = parser.parse_args()
    return args, choose_recipe(parser, args, PRETRAIN, "p1_pretrain")


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)

    names, paths = read_labelled(args.labels or args.data / "labels.csv", args.data / "train")
    classes = classes_of(names)
    labels = [classes.index(name) for name in names]
    train_set, val_set = labelled.load(paths, labels, data.decode, data.KIND, HOLD_OUT, args)
    if args.preview:
        return show(args, recipe, *train_set, classes)

    torch.manual_seed(seed_of(args.seed, "weights"))
    fit(
        args,
        recipe,
        "p1_pretrain",
        build(recipe.architecture, len(classes)),
        train_set,
        val_set,
        classes,
        device,
        identity={},
        notes={},
    )


if __name__ == "__main__":
    processes.entry(main)
