"""Train problem 1's MobileNetV2: ``python3 -m p1.train --model A --recipe report``."""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, cache, checkpoint, devices, mixing, optim, processes
from core.cli import InputError, Parser, say, training_flags
from core.optim import update_average, warmed_up
from core.provenance import digest
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run
from p1 import data
from p1.model import build, load_pretrained, logits, pretrained_file
from p1.recipes import RECIPES, Recipe


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--model",
        choices=["A", "B", "C"],
        default="A",
        help="A: from scratch, B: pre-trained, C: EfficientNet-Lite (%(default)s)",
    )
    parser.add_argument("--recipe", choices=list(RECIPES), default="report", help="%(default)s")
    parser.add_argument(
        "--pretrained",
        help="initial weights; B: file of a state dict or a checkpoint of p1; C: imagenet",
    )
    training_flags(parser, data="hw1_data/p1_data", run="runs/p1_MODEL_RECIPE")
    args = parser.parse_args()
    if args.model == "A" and args.pretrained:
        raise InputError("model A is trained from scratch: leave out --pretrained, or --model B")
    if args.model == "B" and not args.pretrained:
        raise InputError("model B needs --pretrained FILE (bash hw1_download.sh pretrained)")
    if args.model not in RECIPES[args.recipe]:
        others = ", ".join(name for name, models in RECIPES.items() if args.model in models)
        raise InputError(f"no recipe {args.recipe} for model {args.model}; there are: {others}")
    return args


def main() -> None:
    args = arguments()
    recipe = RECIPES[args.recipe][args.model]
    recipe = dataclasses.replace(
        recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size
    )
    device = processes.choose(args.device)

    train_images, train_labels, _ = data.load(args.data / "train_50", args.data_memory)
    val_images, val_labels, _ = data.load(args.data / "val_50", args.data_memory)
    digests = {"train": digest(train_images, train_labels), "val": digest(val_images, val_labels)}
    train_images, train_labels = (
        cache.resident(train_images, device, args.data_memory),
        train_labels.to(device),
    )

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = build(recipe.architecture, len(data.CLASSES), recipe.drop_path)
    source = pretrained_file(network, args.pretrained) if args.pretrained else None
    if source:
        say(load_pretrained(network, checkpoint.read_weights(source), str(source)))
    network = devices.prepare(network, device)
    average = copy.deepcopy(network) if recipe.average else network
    optimizer = optim.make(
        recipe.optimiser,
        network,
        recipe.lr,
        recipe.weight_decay,
        recipe.decay_vectors,
        recipe.backbone_rate,
    )
    run = Run(
        args.run or Path(f"runs/p1_{args.model}_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data={**digests, "pretrained_file": digest(source) if source else None},
        notes={"pretrained": str(args.pretrained)},
        state={"network": network, "average": average, "optimizer": optimizer},
        watch="accuracy", fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip

    fit(
        run,
        recipe,
        network,
        average,
        optimizer,
        (train_images, train_labels),
        (val_images, val_labels),
        device,
    )


def fit(
    run: Run,
    recipe: Recipe,
    network: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_set: tuple[Tensor, Tensor],
    val_set: tuple[Tensor, Tensor],
    device: torch.device,
    classes: tuple[str, ...] = data.CLASSES,
) -> None:
    """The loop. A set is images (N, 3, 32, 32) uint8, and labels (N,) int64, the training's on ``device``."""
    images, labels = train_set
    trained = processes.wrap(network, device)
    steps = steps_per_epoch(len(images), recipe.batch_size)
    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(images), recipe.batch_size):
            if recipe.schedule == "cosine":
                factor = optim.warmup_cosine(
                    run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps
                )
                optim.set_lr(optimizer, recipe.lr * factor)
            rng = generator(*run.keys())
            inputs = augmented(cache.gather(images, index, device), recipe, rng)
            truth = labels[index.to(device)]
            if recipe.cutmix:
                inputs, partner, share = mixing.random_cutmix(inputs, 1.0, rng, recipe.cutmix)
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs).float()
            if recipe.cutmix:
                loss = mixing.cross_entropy(out, truth, partner, share, recipe.label_smoothing)
            else:
                loss = nn.functional.cross_entropy(
                    out, truth, label_smoothing=recipe.label_smoothing
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            processes.copy_buffers(network)
            if recipe.average:
                update_average(average, network, warmed_up(recipe.average, run.total_steps))
            run.step(loss=loss)
        result = evaluate(average, *val_set, recipe, device)
        run.end_epoch(
            as_checkpoint(average, recipe, classes),
            lr=optimizer.param_groups[-1]["lr"],
            accuracy=result,
        )


def augmented(images: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """(N, 3, 32, 32) uint8 to the network's input, each image with its own draws."""
    if recipe.crop_padding:
        images = augment.random_crop(images, data.SIZE, rng, padding=recipe.crop_padding)
    images = augment.to_float(augment.random_flip(images, rng))
    if any(recipe.jitter):
        images = augment.random_jitter(images, recipe.jitter, rng)
    if recipe.rotation:
        images = augment.random_rotation(images, recipe.rotation, rng)
    return augment.normalise(images, recipe.mean, recipe.std)


@torch.no_grad()
def evaluate(
    network: nn.Module, images: Tensor, labels: Tensor, recipe: Recipe, device: torch.device
) -> float:
    """Accuracy over all of ``images`` (N, 3, 32, 32) uint8, in the training's number format."""
    network.eval()
    right = torch.tensor(0)
    for batch, truth in processes.local_share(
        list(zip(images.split(100), labels.split(100), strict=True))
    ):
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(batch.to(device)), recipe.mean, recipe.std)
            right += (logits(network, inputs, recipe.flip_test).argmax(1).cpu() == truth).sum()
    return processes.total(right).item() / len(labels)


def as_checkpoint(
    network: nn.Module, recipe: Recipe, classes: tuple[str, ...]
) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p1", architecture=recipe.architecture, classes=classes, input_size=data.SIZE, mean=recipe.mean, std=recipe.std,
        flip_test=recipe.flip_test, recipe={}, scores={}, made={}, weights=network.state_dict(),
    )  # fmt: skip


if __name__ == "__main__":
    processes.entry(main)
