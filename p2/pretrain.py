"""Pre-train problem 2's ResNet50 with BYOL, without labels: ``python3 -m p2.pretrain``.

``p2.supervise`` pre-trains it with labels instead.
"""

from __future__ import annotations

import argparse
import dataclasses

import torch
from torch import Tensor

from core import augment, devices
from core.randomness import generator, seed_of, steps_per_epoch
from p2 import data, knn
from p2.byol import BYOL, target_decay
from p2.model import BACKBONE, FEATURES, make_backbone
from p2.recipes import PRETRAIN, PretrainRecipe, View
from training import cache, flags, loop, optim, preview, processes
from training.provenance import digest
from training.recipes import choose_recipe
from training.run import Run


def arguments() -> tuple[argparse.Namespace, PretrainRecipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p2_data", run="runs/p2_byol_RECIPE")
    args = parser.parse_args()
    return args, choose_recipe(parser, args, PRETRAIN, "p2_byol")


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)

    images, _ = data.load_unlabelled(args.data / "mini" / "train", args.data_memory)
    digests = {"train": digest(images)}
    images = cache.resident(images, device, args.data_memory)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    if args.preview:
        index, keys = loop.first_batch(len(images), recipe.batch_size, args.seed)
        views = both_views(cache.gather(images, index, device), recipe, keys, recipe.size_in(0))
        shown = [preview.pictures(made, recipe.mean, recipe.std) for made in views]
        return preview.write(args, torch.cat(shown, 2))
    processes.check_batch(len(images), recipe.batch_size)  # for the projector's BatchNorm
    probe = knn.load(args.data / "office", args.data_memory) if recipe.probe_every else None

    torch.manual_seed(seed_of(args.seed, "weights"))
    byol = devices.prepare(BYOL(make_backbone(), FEATURES), device)
    trained = processes.wrap(byol, device)
    optimizer = loop.make_optimizer(byol, recipe)
    plateau = optim.plateau(optimizer, recipe.schedule)
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        flags.run_folder(args, "p2_byol", recipe),
        recipe=recipe,
        data={**digests, "probe": knn.identity(probe)},
        model=loop.checkpoint_fields("p2", BACKBONE, (), data.SIZE, recipe),
        state=loop.state(byol=byol, optimizer=optimizer, plateau=plateau, scaler=scaler),
        device=device,
        watch="loss",
        better=min,
        **flags.run_options(args),
    )

    for epoch in run.epochs(recipe.epochs, recipe.patience, patience_from=recipe.plateau_from):
        byol.train()
        for index in run.batches(len(images), recipe.batch_size):
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            batch = cache.gather(images, index, device)
            views = both_views(batch, recipe, run.keys(), recipe.size_in(epoch))
            with devices.autocast(device, recipe.bf16):
                loss, spread = trained(*views)
            loop.step(loss, byol, optimizer, scaler)
            byol.update_target(
                target_decay(
                    recipe.target_decay,
                    recipe.target_schedule,
                    run.total_steps,
                    recipe.epochs * steps,
                )
            )
            run.step(loss=loss, spread=spread)
        run.begin_evaluation()
        measured = {"lr": optimizer.param_groups[0]["lr"]}
        if plateau and epoch >= recipe.plateau_from:
            plateau.step(run.mean("loss"))
        is_probed = recipe.probe_every and (epoch + 1) % recipe.probe_every == 0
        if probe and (is_probed or epoch + 1 == recipe.epochs):
            measured["knn"] = knn.accuracy(byol.backbone, probe, recipe, device)
        run.end_epoch(byol.backbone.state_dict(), **measured)


def both_views(
    images: Tensor, recipe: PretrainRecipe, keys: tuple[int | str, ...], size: int
) -> list[Tensor]:
    """The two views, (N, 3, size, size) float32 each, of images (N, 3, 128, 128) uint8.

    ``keys`` identify the random draws, see ``core.randomness.generator``.
    """
    batch = augment.to_float(images)
    return [
        view(batch, how, recipe, generator(*keys, name), size)
        for how, name in zip(recipe.views, ("view 1", "view 2"), strict=True)
    ]


def view(
    images: Tensor,
    how: View,
    recipe: PretrainRecipe,
    rng: torch.Generator,
    size: int = data.SIZE,
) -> Tensor:
    """One view of a batch (N, 3, 128, 128) float 0..1: (N, 3, size, size) float32, normalised.

    Every image gets its own random draws. The blur is defined for 128 pixels; it is scaled to the
    view's size if the view is cropped and resized first.
    """
    if not how.crop_last:
        images = augment.random_resized_crop(images, size, rng, scale=how.crop_scale)
        how = blurred_for(how, size)
    images = augment.random_flip(images, rng)
    images = augment.random_jitter(images, how.jitter, rng, p=how.jitter_p)
    images = augment.random_grey(images, how.grey_p, rng)
    images = augment.random_blur(images, how.blur_size, how.blur_sigma, how.blur_p, rng)
    images = augment.random_solarize(images, how.solarize_p, rng)
    if how.crop_last:
        images = augment.random_resized_crop(images, size, rng, scale=how.crop_scale)
    return augment.normalise(images, recipe.mean, recipe.std)


def blurred_for(how: View, size: int) -> View:
    """``how`` with the blur's kernel and sigma scaled from 128 pixels to a view of ``size``."""
    if size == data.SIZE:
        return how
    scale = size / data.SIZE
    low, high = how.blur_sigma
    kernel = 2 * round((how.blur_size * scale - 1) / 2) + 1  # odd
    return dataclasses.replace(
        how, blur_size=max(1, kernel), blur_sigma=(low * scale, high * scale)
    )


if __name__ == "__main__":
    processes.entry(main)
