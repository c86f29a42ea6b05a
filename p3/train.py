"""Train problem 3's networks: ``python3 -m p3.train --model B --recipe report``."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, cache, checkpoint, devices, optim, processes
from core.cli import InputError, Parser, say, training_flags
from core.optim import update_average, warmed_up
from core.provenance import digest
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run
from p3 import data
from p3.model import OF_MODEL, build, load_pretrained, logits, pretrained_file
from p3.recipes import RECIPES, Recipe


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "--model",
        choices=list(OF_MODEL),
        default="B",
        help="A: FCN32s, B: DeepLabv3, C: DeepLabv3+ (%(default)s)",
    )
    parser.add_argument("--recipe", choices=list(RECIPES), default="report", help="%(default)s")
    parser.add_argument(
        "--pretrained",
        help="A, B: file of torchvision's state dict to start from; C: imagenet; without it, from scratch",
    )
    training_flags(parser, data="hw1_data/p3_data", run="runs/p3_MODEL_RECIPE")
    args = parser.parse_args()
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
    network = build(OF_MODEL[args.model], drop_path=recipe.drop_path)
    source = pretrained_file(network, args.pretrained)
    if source:
        say(load_pretrained(network, checkpoint.read_weights(source), str(source)))
    network = devices.prepare(network, device)
    average = copy.deepcopy(network) if recipe.average else network
    trained = processes.wrap(network, device)
    optimizer = optim.make(
        recipe.optimiser,
        network,
        recipe.lr,
        recipe.weight_decay,
        recipe.decay_vectors,
        recipe.backbone_rate,
    )
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)
    run = Run(
        args.run or Path(f"runs/p3_{args.model}_{recipe.name}"), recipe=recipe, seed=args.seed, device=device,
        data={**digests, "pretrained_file": digest(source) if source else None},
        notes={"pretrained": str(args.pretrained)},
        state={"network": network, "average": average, "optimizer": optimizer, "plateau": plateau},
        watch="mean_iou", fresh=args.fresh, stop_at=args.stop_at, save_minutes=args.save_minutes,
    )  # fmt: skip

    # DeepLabv3 and DeepLabv3+ pool an image to one pixel before a BatchNorm.
    at_least = 1 if args.model == "A" else 2
    ignored = (
        data.UNKNOWN if recipe.ignore_unknown else -100
    )  # -100: torch's default, which no pixel has
    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(train_pairs), recipe.batch_size, at_least=at_least):
            if recipe.schedule == "cosine":
                factor = optim.warmup_cosine(
                    run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps
                )
                optim.set_lr(optimizer, recipe.lr * factor)
            images, truth = augmented(
                cache.gather(train_pairs, index, device), recipe, generator(*run.keys())
            )
            with devices.autocast(device, recipe.bf16):
                out = trained(images)
            loss = cross_entropy(out.float(), truth, ignored)
            if recipe.jaccard:
                loss = loss + recipe.jaccard * soft_jaccard(out.float(), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            processes.copy_buffers(network)
            if recipe.average:
                update_average(average, network, warmed_up(recipe.average, run.total_steps))
            run.step(loss=loss)
        lr = optimizer.param_groups[-1]["lr"]  # of what is no backbone
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


def soft_jaccard(out: Tensor, truth: Tensor) -> Tensor:
    """1 - the mean IoU of the softmax's probabilities, over the classes but unknown that occur.

    Rahman & Wang 2016, "Optimizing Intersection-Over-Union in Deep Neural Networks", section 3, over
    all pixels of the batch together. Unknown pixels do not count. Logits (N, classes, H, W), truth (N,
    H, W) int64.
    """
    probabilities = out.softmax(1)[:, : data.UNKNOWN] * (truth != data.UNKNOWN)[:, None]
    is_class = nn.functional.one_hot(truth, len(data.CLASSES)).movedim(-1, 1)[:, : data.UNKNOWN]
    both = (probabilities * is_class).sum((0, 2, 3))
    of_class = is_class.sum((0, 2, 3))
    ious = both / (probabilities.sum((0, 2, 3)) + of_class - both).clamp(min=1)
    occurs = of_class > 0
    return 1 - (ious * occurs).sum() / occurs.sum().clamp(min=1)


def augmented(pairs: Tensor, recipe: Recipe, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 4, H, W) uint8 to the network's input (N, 3, h, w) and classes (N, h, w) int64, moved together."""
    if recipe.crop and not recipe.crop_area[1]:
        pairs = augment.random_crop(pairs, recipe.crop, rng)
    pairs = (
        augment.random_symmetry(pairs, rng)
        if recipe.symmetry == "square"
        else augment.random_flip(pairs, rng)
    )
    images, truth = data.split(pairs)
    images = augment.to_float(images)
    if recipe.crop_area[1]:
        box = augment.random_box(images, rng, recipe.crop_area)
        images = augment.resized_crop(images, *box, recipe.crop)
        truth = augment.resized_crop_nearest(truth[:, None], *box, recipe.crop)[:, 0]
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
            out = logits(network, inputs, recipe.flip_test, recipe.test_scales)
            predicted = out.argmax(1)
        counts += data.confusion(truth, predicted).cpu()
    return data.mean_iou(processes.total(counts))


def as_checkpoint(network: nn.Module, recipe: Recipe) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p3", architecture=OF_MODEL[recipe.model], classes=data.CLASSES, input_size=None, mean=recipe.mean,
        std=recipe.std, flip_test=recipe.flip_test, recipe={}, scores={}, made={}, weights=network.state_dict(),
        test_scales=recipe.test_scales,
    )  # fmt: skip


if __name__ == "__main__":
    processes.entry(main)
