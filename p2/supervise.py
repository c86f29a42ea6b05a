"""Pre-train problem 2's ResNet50 with the labels of ``mini``: ``python3 -m p2.pretrain --method supervised --recipe hour``.

Its backbone is what the settings B and D start from where the course's ``pretrain_model_SL.pt`` is not at hand.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn

from core import cache, checkpoint, devices, optim, processes
from core.cli import InputError
from core.provenance import digest
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run
from p2 import data, knn
from p2.model import BACKBONE, Classifier
from p2.recipes import SUPERVISED, TransferRecipe
from p2.train import augmented


def main(args: argparse.Namespace) -> None:
    """``args``: the flags of ``p2.pretrain``. The log has the loss and the accuracy on the training's own images."""
    if args.recipe not in SUPERVISED:
        raise InputError(
            f"--method supervised has no recipe {args.recipe!r}; there are {' and '.join(SUPERVISED)}"
        )
    recipe = SUPERVISED[args.recipe]
    recipe = dataclasses.replace(
        recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size
    )
    device = processes.choose(args.device)

    table = args.labels or args.data / "mini" / "labels.csv"
    images, labels, _, classes = data.load_labelled(
        table, args.data / "mini" / "train", memory=args.data_memory
    )
    digests = {"train": digest(images, labels), "labels": digest(table)}
    images, labels = cache.resident(images, device, args.data_memory), labels.to(device)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    # Rank 0 probes alone: only its log has the accuracy.
    probe = knn.load(args.data / "office", args.data_memory) if processes.rank() == 0 else None

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = devices.prepare(Classifier(len(classes)), device)
    trained = processes.wrap(network, device)
    optimizer = optim.make(
        recipe.optimiser, network, recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    run = Run(
        args.run or Path(f"runs/p2_supervised_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data={**digests, "probe": knn.identity(probe)},
        state={"network": network, "optimizer": optimizer},
        watch="loss", better=min, fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip

    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(images), recipe.batch_size):
            if recipe.schedule == "cosine":
                factor = optim.warmup_cosine(
                    run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps
                )
                optim.set_lr(optimizer, recipe.lr * factor)
            inputs = augmented(cache.gather(images, index, device), recipe, generator(*run.keys()))
            truth = labels[index.to(device)]
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs)
            loss = nn.functional.cross_entropy(
                out.float(), truth, label_smoothing=recipe.label_smoothing
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            processes.copy_buffers(network)
            run.step(loss=loss, train_accuracy=(out.argmax(1) == truth).float().mean())
        measured = {"lr": optimizer.param_groups[0]["lr"]}
        if probe:  # every epoch: it costs the passes of a few thousand images, and no gradients
            measured["knn"] = knn.accuracy(network.backbone, probe, recipe, device)
        run.end_epoch(as_checkpoint(network, recipe), **measured)


def as_checkpoint(network: Classifier, recipe: TransferRecipe) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p2", architecture=BACKBONE, classes=(), input_size=data.SIZE, mean=recipe.mean, std=recipe.std,
        flip_test=False, recipe={}, scores={}, made={}, weights=network.backbone.state_dict(),
    )  # fmt: skip
