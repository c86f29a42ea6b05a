"""Pre-train problem 2's ResNet50 with the labels of ``mini``: ``python3 -m p2.supervise``.

Settings B and D start from its backbone if the course's ``pretrain_model_SL.pt`` is not available.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from core import devices
from core.randomness import generator, seed_of, steps_per_epoch
from p2 import data, knn
from p2.model import BACKBONE, Classifier
from p2.recipes import SUPERVISED, TransferRecipe
from p2.train import augmented
from training import cache, flags, loop, preview, processes
from training.provenance import digest
from training.recipes import choose_recipe
from training.run import Run


def arguments() -> tuple[argparse.Namespace, TransferRecipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p2_data", run="runs/p2_supervised_RECIPE")
    parser.add_argument("--labels", type=Path, help="csv: id,filename,label (DATA/mini/labels.csv)")
    flags.tune_flag(parser)
    args = parser.parse_args()
    return args, choose_recipe(parser, args, SUPERVISED, "p2_supervised")


def main() -> None:
    """Train; log the loss, the accuracy on the training images and the kNN probe's accuracy.

    With ``--tune``, log the accuracy on the held-out images instead of the probe's, which is
    measured on the validation images.
    """
    args, recipe = arguments()
    device = processes.choose(args.device)

    table = args.labels or args.data / "mini" / "labels.csv"
    images, labels, _, classes = data.load_labelled(
        table, args.data / "mini" / "train", memory=args.data_memory
    )
    val_images, val_labels = images[:0], labels[:0]
    if args.tune:
        (images, labels), (val_images, val_labels) = loop.split_for_tune(images, labels, args.seed)
    if args.preview:
        return preview.labelled(args, recipe, images, labels, classes, augmented)
    digests = {"train": digest(images, labels), "labels": digest(table)}
    if args.tune:
        digests["val"] = digest(val_images, val_labels)
    images, labels = cache.resident(images, device, args.data_memory), labels.to(device)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    probe = None if args.tune else knn.load(args.data / "office", args.data_memory)

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = devices.prepare(Classifier(len(classes)), device)
    trained = processes.wrap(network, device)
    optimizer = loop.make_optimizer(network, recipe)
    scaler = loop.loss_scaler(device, recipe.bf16)
    fields = loop.checkpoint_fields("p2", BACKBONE, (), data.SIZE, recipe)
    run = Run(
        flags.run_folder(args, "p2_supervised", recipe),
        recipe=recipe,
        data={**digests, "probe": knn.identity(probe)},
        model=fields | {"flip_test": False},  # it gives features, not logits
        state=loop.state(network=network, optimizer=optimizer, scaler=scaler),
        device=device,
        watch="accuracy" if args.tune else "loss",
        better=max if args.tune else min,
        **flags.run_options(args),
    )

    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(images), recipe.batch_size):
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            inputs = augmented(cache.gather(images, index, device), recipe, generator(*run.keys()))
            truth = labels[index.to(device)]
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs)
            loss = nn.functional.cross_entropy(
                out.float(), truth, label_smoothing=recipe.label_smoothing
            )
            loop.step(loss, network, optimizer, scaler)
            run.step(loss=loss, train_accuracy=(out.argmax(1) == truth).float().mean())
        run.begin_evaluation()
        measured = {"lr": optimizer.param_groups[0]["lr"]}
        if args.tune:
            measured["accuracy"] = loop.accuracy(network, val_images, val_labels, recipe, device)
        if probe:  # in every epoch: cheap, just forward passes over a few thousand images
            measured["knn"] = knn.accuracy(network.backbone, probe, recipe, device)
        run.end_epoch(network.backbone.state_dict(), **measured)


if __name__ == "__main__":
    processes.entry(main)
