"""Train problem 1's networks: ``python3 -m p1.train --model A --recipe original``."""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import augment, checkpoint, devices
from core.cli import InputError, say
from core.randomness import generator, seed_of, steps_per_epoch
from p1 import data
from p1.model import build, load_pretrained
from p1.recipes import RECIPES, Recipe
from training import cache, flags, loop, mixing, optim, preview, processes
from training.provenance import digest, initial_weights
from training.recipes import choose_recipe
from training.run import Run


def arguments() -> tuple[argparse.Namespace, Recipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p1_data", run="runs/p1_MODEL_RECIPE")
    parser.add_argument(
        "--model",
        choices=["A", "B", "C"],
        default="A",
        help="A: from scratch, B: pre-trained, C: EfficientNet-Lite (%(default)s)",
    )
    parser.add_argument(
        "--pretrained",
        help="initial weights; A: a checkpoint of model A, to train it further; B: a state dict "
        "file or a checkpoint of p1; C: imagenet, or a checkpoint of model C; none: random weights "
        "(as the recipe says)",
    )
    flags.tune_flag(parser)
    args = parser.parse_args()
    recipes = {name: models[args.model] for name, models in RECIPES.items() if args.model in models}
    recipe = choose_recipe(parser, args, recipes, f"p1_{args.model}")
    named = args.pretrained or recipe.pretrained
    if args.model == "B" and named in ("", "none") and not args.preview:
        raise InputError(
            "model B needs initial weights: run python3 -m p1.pretrain --recipe hour and use "
            "--recipe hour, or name a file with --pretrained (see p1/README.md)"
        )
    return args, recipe


def main() -> None:
    args, recipe = arguments()
    device = processes.choose(args.device)
    source = None if args.preview else flags.initial_weights(args, recipe, recipe.architecture)
    if source and args.model == "A":
        require_from_scratch(source)
    weights = checkpoint.read_weights(source) if source else None

    images, labels, _ = data.load(args.data / "train_50", args.data_memory)
    if args.tune:
        (images, labels), (val_images, val_labels) = loop.split_for_tune(images, labels, args.seed)
    else:
        val_images, val_labels, _ = data.load(args.data / "val_50", args.data_memory)
    if args.preview:
        return show(args, recipe, images, labels, data.CLASSES)

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = build(recipe.architecture, len(data.CLASSES), recipe.drop_path)
    if weights is not None:
        say(load_pretrained(network, weights, str(source), whole=args.model == "A"))
    fit(
        args,
        recipe,
        f"p1_{args.model}",
        network,
        (images, labels),
        (val_images, val_labels),
        data.CLASSES,
        device,
        identity={"pretrained_file": digest(source) if source else None},
        notes=initial_weights(args.pretrained, source),
    )


def require_from_scratch(source: Path) -> None:
    """Raise InputError unless ``source`` is a checkpoint of model A itself.

    The score of model A stands for training from scratch, on problem 1's images alone.
    """
    saved = checkpoint.load(source, "p1")
    if saved.recipe.get("model") != "A" or saved.classes != data.CLASSES:
        raise InputError(
            f"{source} is not a checkpoint of model A, which is trained from scratch; "
            "omit --pretrained, or use --model B"
        )


def fit(
    args: argparse.Namespace,
    recipe: Recipe,
    prefix: str,
    network: nn.Module,
    train_set: tuple[Tensor, Tensor],
    val_set: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    device: torch.device,
    identity: dict[str, Any],
    notes: dict[str, Any],
) -> None:
    """The training loop.

    Each set is images (N, 3, 32, 32) uint8 and labels (N,) int64, on the CPU. ``prefix`` begins
    the run folder's name. ``identity`` and ``notes`` tell ``training.run.Run`` more about the data.
    """
    digests = {"train": digest(*train_set), "val": digest(*val_set)}
    images = cache.resident(train_set[0], device, args.data_memory)
    labels = train_set[1].to(device)
    steps = steps_per_epoch(len(images), recipe.batch_size)

    network = devices.prepare(network, device)
    average = copy.deepcopy(network) if recipe.average else network
    trained = processes.wrap(network, device)
    optimizer = loop.make_optimizer(network, recipe)
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        flags.run_folder(args, prefix, recipe),
        recipe=recipe,
        data=digests | identity,
        notes=notes,
        model=loop.checkpoint_fields("p1", recipe.architecture, classes, data.SIZE, recipe),
        state=loop.state(network=network, average=average, optimizer=optimizer, scaler=scaler),
        device=device,
        watch="accuracy",
        **flags.run_options(args),
    )

    def inputs_of(index: Tensor, rng: torch.Generator) -> Tensor:
        return mixed(cache.gather(images, index, device), recipe, rng)[0]

    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(images), recipe.batch_size) if recipe.lr else ():
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            batch, truth = cache.gather(images, index, device), labels[index.to(device)]
            inputs, partner, share = mixed(batch, recipe, generator(*run.keys()))
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs).float()
            loss = mixing.cross_entropy(out, truth, partner, share, recipe.label_smoothing)
            decay = optim.warmed_up(recipe.average, run.total_steps)
            loop.step(loss, network, optimizer, scaler, average=average, decay=decay)
            run.step(loss=loss)
        run.begin_evaluation()
        if recipe.statistics:
            loop.measure_statistics(
                average, inputs_of, len(images), recipe, device, run.seed, run.epoch
            )
        result = loop.accuracy(average, *val_set, recipe, device)
        run.end_epoch(average.state_dict(), lr=optimizer.param_groups[-1]["lr"], accuracy=result)


def mixed(images: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3, 32, 32) uint8 -> the network's float32 input, after augmentation and CutMix.

    Also each image's partner and own share: see ``mixing.random_cutmix``.
    """
    return mixing.random_cutmix(augmented(images, recipe, rng), rng, recipe.cutmix)


def augmented(images: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """(N, 3, 32, 32) uint8 -> the network's float32 input, with random draws for each image."""
    if recipe.crop_padding:
        images = augment.random_crop(images, data.SIZE, rng, padding=recipe.crop_padding)
    images = augment.to_float(augment.random_flip(images, rng))
    if any(recipe.jitter):
        images = augment.random_jitter(images, recipe.jitter, rng)
    if recipe.rotation:
        images = augment.random_rotation(images, recipe.rotation, rng)
    return augment.normalise(images, recipe.mean, recipe.std)


def show(
    args: argparse.Namespace,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
) -> None:
    """Write ``--preview``'s picture of labelled images (N, 3, 32, 32) uint8."""
    index, keys = loop.first_batch(len(images), recipe.batch_size, args.seed)
    inputs, partner, share = mixed(images[index], recipe, generator(*keys))
    captions = [classes[k] for k in labels[index].tolist()]
    if recipe.cutmix:
        captions = [
            f"{own} {part:.0%}" + (f", {captions[other]} {1 - part:.0%}" if part < 1 else "")
            for own, other, part in zip(captions, partner.tolist(), share.tolist(), strict=True)
        ]
    preview.write(args, preview.pictures(inputs, recipe.mean, recipe.std), captions)


if __name__ == "__main__":
    processes.entry(main)
