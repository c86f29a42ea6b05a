"""Pre-train problem 2's ResNet50 by BYOL, without labels: ``python3 -m p2.pretrain --recipe report``.

``--method supervised`` pre-trains it with labels instead, see p2/supervise.py.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from core import augment, cache, checkpoint, devices, optim, processes
from core.cli import InputError, Parser, training_flags
from core.provenance import digest
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run
from p2 import data, knn, supervise
from p2.byol import BYOL, target_decay
from p2.model import BACKBONE, FEATURES, make_backbone
from p2.recipes import PRETRAIN, PretrainRecipe, View


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--method", choices=("byol", "supervised"), default="byol", help="%(default)s"
    )
    parser.add_argument("--recipe", choices=list(PRETRAIN), default="report", help="%(default)s")
    parser.add_argument(
        "--labels",
        type=Path,
        help="csv for --method supervised: id,filename,label (DATA/mini/labels.csv)",
    )
    training_flags(parser, data="hw1_data/p2_data", run="runs/p2_METHOD_RECIPE")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.method == "supervised":
        return supervise.main(args)
    if args.labels:
        raise InputError(
            "--method byol takes no labels; leave --labels out, or add --method supervised"
        )
    recipe = PRETRAIN[args.recipe]
    recipe = dataclasses.replace(
        recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size
    )
    device = processes.choose(args.device)

    images, _ = data.load_unlabelled(args.data / "mini" / "train", args.data_memory)
    digests = {"train": digest(images)}
    images = cache.resident(images, device, args.data_memory)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    # Rank 0 probes alone: only its log has the accuracy.
    probe = (
        knn.load(args.data / "office", args.data_memory)
        if recipe.probe_every and processes.rank() == 0
        else None
    )

    torch.manual_seed(seed_of(args.seed, "weights"))
    byol = devices.prepare(BYOL(make_backbone(), FEATURES), device)
    trained = processes.wrap(byol, device)
    optimizer = optim.make(
        recipe.optimiser, byol, recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
    run = Run(
        args.run or Path(f"runs/p2_byol_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data={**digests, "probe": knn.identity(probe)}, state={"byol": byol, "optimizer": optimizer, "plateau": plateau},
        watch="loss", better=min, fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip

    for epoch in run.epochs(recipe.epochs, recipe.patience, patience_from=recipe.plateau_from):
        byol.train()
        for index in run.batches(
            len(images), recipe.batch_size, at_least=2
        ):  # for the projector's BatchNorm
            if recipe.schedule == "cosine":
                factor = optim.warmup_cosine(
                    run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps
                )
                optim.set_lr(optimizer, recipe.lr * factor)
            batch = augment.to_float(cache.gather(images, index, device))
            views = [
                view(batch, how, recipe, generator(*run.keys(), name))
                for how, name in zip(recipe.views, ("view 1", "view 2"), strict=True)
            ]
            with devices.autocast(device, recipe.bf16):
                loss, spread = trained(*views)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            processes.copy_buffers(byol)
            byol.update_target(
                target_decay(
                    recipe.target_decay,
                    recipe.target_schedule,
                    run.total_steps,
                    recipe.epochs * steps,
                )
            )
            run.step(loss=loss, spread=spread)
        measured = {"lr": optimizer.param_groups[0]["lr"]}
        if recipe.schedule == "plateau" and epoch >= recipe.plateau_from:
            plateau.step(run.mean("loss"))
        if probe and ((epoch + 1) % recipe.probe_every == 0 or epoch + 1 == recipe.epochs):
            measured["knn"] = knn.accuracy(byol.backbone, probe, recipe, device)
        run.end_epoch(as_checkpoint(byol, recipe), **measured)


def view(images: Tensor, how: View, recipe: PretrainRecipe, rng: torch.Generator) -> Tensor:
    """One view of a batch (N, 3, 128, 128) float 0..1, normalised; each image with its own draws."""
    if not how.crop_last:
        images = augment.random_resized_crop(images, data.SIZE, rng, scale=how.crop_scale)
    images = augment.random_flip(images, rng)
    images = augment.random_jitter(images, how.jitter, rng, p=how.jitter_p)
    images = augment.random_grey(images, how.grey_p, rng)
    images = augment.random_blur(images, how.blur_size, how.blur_sigma, how.blur_p, rng)
    images = augment.random_solarize(images, how.solarize_p, rng)
    if how.crop_last:
        images = augment.random_resized_crop(images, data.SIZE, rng, scale=how.crop_scale)
    return augment.normalise(images, recipe.mean, recipe.std)


def as_checkpoint(byol: BYOL, recipe: PretrainRecipe) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p2", architecture=BACKBONE, classes=(), input_size=data.SIZE, mean=recipe.mean, std=recipe.std,
        flip_test=False, recipe={}, scores={}, made={}, weights=byol.backbone.state_dict(),
    )  # fmt: skip


if __name__ == "__main__":
    processes.entry(main)
