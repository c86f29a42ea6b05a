"""Train problem 3's networks: ``python3 -m p3.train --model B --recipe report``."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, cache, checkpoint, devices, optimiser, processes
from core.average import update_average, warmed_up
from core.cli import InputError, training_flags
from core.provenance import digest
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run
from p3 import data
from p3.model import ARCHITECTURES, OF_MODEL, load_pretrained, logits
from p3.recipes import RECIPES, Recipe


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=list(OF_MODEL), default="B", help="A: FCN32s, B: DeepLabv3 (%(default)s)"
    )
    parser.add_argument("--recipe", choices=list(RECIPES), default="report", help="%(default)s")
    parser.add_argument(
        "--pretrained",
        type=Path,
        help="torchvision's state dict to start from; without it, from scratch",
    )
    training_flags(parser, data="hw1_data/p3_data", run="runs/p3_MODEL_RECIPE")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    recipe = RECIPES[args.recipe][args.model]
    recipe = dataclasses.replace(
        recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size
    )
    device = processes.choose(args.device)

    train_pairs, _ = data.load(args.data / "train", args.data_memory)
    val_pairs, _ = data.load(args.data / "validation", args.data_memory)
    if recipe.crop > min(train_pairs.shape[2:]):
        size = "x".join(map(str, train_pairs.shape[:1:-1]))
        raise InputError(
            f"recipe {recipe.name} cuts {recipe.crop}x{recipe.crop}, but the images of {args.data} are {size}"
        )
    digests = {"train": digest(train_pairs), "val": digest(val_pairs)}
    train_pairs = cache.resident(train_pairs, device, args.data_memory)
    steps = steps_per_epoch(len(train_pairs), recipe.batch_size)

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = ARCHITECTURES[OF_MODEL[args.model]]()
    if args.pretrained:
        print(load_pretrained(network, checkpoint.read(args.pretrained), str(args.pretrained)))
    network = devices.prepare(network, device)
    average = copy.deepcopy(network) if recipe.average else network
    trained = processes.wrap(network, device)
    optimizer = optimiser.make(
        recipe.optimiser, network, recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
    run = Run(
        args.run or Path(f"runs/p3_{args.model}_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data={**digests, "pretrained_file": digest(args.pretrained) if args.pretrained else None},
        notes={"pretrained": str(args.pretrained)},
        state={"network": network, "average": average, "optimizer": optimizer, "plateau": plateau},
        watch="mean_iou", fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip

    at_least = (
        2 if args.model == "B" else 1
    )  # DeepLabv3 pools an image to one pixel before a BatchNorm
    ignored = (
        data.UNKNOWN if recipe.ignore_unknown else -100
    )  # -100: torch's default, which no pixel has
    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(train_pairs), recipe.batch_size, at_least=at_least):
            if recipe.schedule == "cosine":
                factor = optimiser.warmup_cosine(
                    run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps
                )
                optimiser.set_lr(optimizer, recipe.lr * factor)
            images, truth = augmented(
                cache.gather(train_pairs, index, device), recipe, generator(*run.keys())
            )
            with devices.autocast(device, recipe.bf16):
                out = trained(images)
            loss = cross_entropy(out.float(), truth, ignored)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            processes.copy_buffers(network)
            if recipe.average:
                update_average(average, network, warmed_up(recipe.average, run.total_steps))
            run.step(loss=loss)
        lr = optimizer.param_groups[0]["lr"]
        if recipe.schedule == "plateau":
            plateau.step(run.mean("loss"))
        score, ious = evaluate(average, val_pairs, recipe, device)
        known = [
            (name, iou)
            for name, iou in zip(data.CLASSES[: data.UNKNOWN], ious, strict=True)
            if not math.isnan(iou)
        ]
        per_class = {f"iou_{name}": iou for name, iou in known}
        run.end_epoch(as_checkpoint(average, recipe), lr=lr, mean_iou=score, **per_class)


def cross_entropy(out: Tensor, truth: Tensor, ignored: int) -> Tensor:
    """The mean over all pixels but those of class ``ignored``, of logits (N, classes, H, W) and truth (N, H, W) int64.

    0 where there are no other pixels. Processes have differing numbers of such pixels, so the mean of their means would be
    another: each gives its sum, in such a part that the mean over the processes is the whole batch's.
    """
    counted = processes.total((truth != ignored).sum()).clamp(min=1)
    return (
        nn.functional.cross_entropy(out, truth, ignore_index=ignored, reduction="sum")
        * processes.world_size()
        / counted
    )


def augmented(pairs: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 4, H, W) uint8 to the network's input (N, 3, h, w) and classes (N, h, w) int64, moved together."""
    if recipe.crop:
        pairs = augment.random_crop(pairs, recipe.crop, rng)
    pairs = (
        augment.random_symmetry(pairs, rng)
        if recipe.symmetry == "square"
        else augment.random_flip(pairs, rng)
    )
    images, truth = data.split(pairs)
    images = augment.to_float(images)
    if any(recipe.jitter):
        images = augment.random_jitter(images, recipe.jitter, rng)
    return augment.normalise(images, recipe.mean, recipe.std), truth


@torch.no_grad()
def evaluate(
    network: nn.Module, pairs: Tensor, recipe: Recipe, device: torch.device
) -> tuple[float, list[float]]:
    """Mean IoU and the IoU of each class but unknown, over all pixels of (N, 4, H, W) uint8."""
    network.eval()
    counts = torch.zeros(len(data.CLASSES), len(data.CLASSES), dtype=torch.int64)
    for batch in processes.local_share(pairs.split(4)):
        images, truth = data.split(batch.to(device))
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(images), recipe.mean, recipe.std)
            predicted = logits(network, inputs, recipe.flip_test).argmax(1)
        counts += data.confusion(truth, predicted).cpu()
    return data.mean_iou(processes.total(counts))


def as_checkpoint(network: nn.Module, recipe: Recipe) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p3", architecture=OF_MODEL[recipe.model], classes=data.CLASSES, input_size=None, mean=recipe.mean,
        std=recipe.std, flip_test=recipe.flip_test, recipe={}, scores={}, made={}, weights=network.state_dict(),
    )  # fmt: skip


if __name__ == "__main__":
    processes.entry(main)
