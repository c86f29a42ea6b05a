"""Train problem 2's classifier in one of the settings A-E: ``python3 -m p2.train --setting C --recipe report``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, checkpoint, device, optimiser
from core.cli import InputError, entry, training_flags
from core.randomness import generator, seed_of, steps_per_epoch
from core.run import Run, fingerprint
from p2 import data
from p2.model import ARCHITECTURE, Classifier, load_backbone, logits
from p2.recipes import TRANSFER, TransferRecipe
from p2.settings import SETTINGS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setting", choices=list(SETTINGS), default="C", help="%(default)s; see p2/settings.py")
    parser.add_argument("--recipe", choices=list(TRANSFER), default="report", help="%(default)s")
    parser.add_argument(
        "--backbone", type=Path,
        help="initial backbone (B and D: DATA/pretrain_model_SL.pt, C and E: runs/p2_byol_RECIPE/last.pt)",
    )  # fmt: skip
    training_flags(parser, data="hw1_data/p2_data", run="runs/p2_SETTING_RECIPE")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    setting, recipe = SETTINGS[args.setting], TRANSFER[args.recipe]
    recipe = dataclasses.replace(recipe, epochs=args.epochs or recipe.epochs, batch_size=args.batch_size or recipe.batch_size)
    where = device.choose(args.device)

    office = args.data / "office"
    images, labels, paths, classes = data.load_labelled(office / "train.csv", office / "train")
    val_images, val_labels, val_paths, _ = data.load_labelled(office / "val.csv", office / "val", classes)
    images, labels = images.to(where), labels.to(where)
    steps = steps_per_epoch(len(images), recipe.batch_size)

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = Classifier(len(classes), frozen=setting.frozen)
    start = first_weights(setting.start, args)
    if start:
        load_backbone(network.backbone, start)
    network = device.prepare(network, where)
    optimizer = optimiser.make(recipe.optimiser, network, recipe.lr, recipe.weight_decay, recipe.decay_vectors)
    run = Run(
        args.run or Path(f"runs/p2_{setting.name}_{recipe.name}"), recipe=recipe, seed=args.seed, where=where,
        data={"setting": setting.name, "train": fingerprint(paths), "val": fingerprint(val_paths), "backbone": str(start)},
        state={"network": network, "optimizer": optimizer},
        watch="accuracy", fresh=args.fresh, max_minutes=args.max_minutes, save_minutes=args.save_minutes,
    )  # fmt: skip

    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        for index in run.batches(len(images), recipe.batch_size):
            if recipe.schedule == "cosine":
                factor = optimiser.warmup_cosine(run.total_steps, recipe.warmup_epochs * steps, recipe.epochs * steps)
                optimiser.set_lr(optimizer, recipe.lr * factor)
            index = index.to(where)
            inputs = augmented(images[index], recipe, generator(*run.keys()))
            with device.autocast(where, recipe.bf16):
                out = network(inputs)
            loss = nn.functional.cross_entropy(out.float(), labels[index], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss=loss)
        result = evaluate(network, val_images, val_labels, recipe, where)
        run.end_epoch(as_checkpoint(network, recipe, classes), lr=optimizer.param_groups[0]["lr"], accuracy=result)


def first_weights(start: str, args: argparse.Namespace) -> Path | None:
    """The file that the setting's backbone starts from, or None. Raises InputError if --backbone has no use."""
    if start == "nothing":
        if args.backbone:
            raise InputError(f"setting {args.setting} starts from nothing; leave --backbone out")
        return None
    return (
        args.backbone
        or {
            "labels": args.data / "pretrain_model_SL.pt",
            "byol": Path(f"runs/p2_byol_{args.recipe}/last.pt"),
        }[start]
    )


def augmented(images: Tensor, recipe: TransferRecipe, rng: torch.Generator) -> Tensor:
    """(N, 3, 128, 128) uint8 to the network's input, each image with its own draws."""
    images = augment.to_float(augment.random_flip(images, rng))
    if recipe.crop_scale != (1.0, 1.0):
        images = augment.random_resized_crop(images, data.SIZE, rng, scale=recipe.crop_scale)
    return augment.normalise(images, recipe.mean, recipe.std)


@torch.no_grad()
def evaluate(network: nn.Module, images: Tensor, labels: Tensor, recipe: TransferRecipe, where: torch.device) -> float:
    """Accuracy over all of ``images`` (N, 3, 128, 128) uint8, in the training's number format."""
    network.eval()
    predicted = []
    for batch in images.split(64):
        with device.autocast(where, recipe.bf16):
            inputs = augment.normalise(augment.to_float(batch.to(where)), recipe.mean, recipe.std)
            predicted.append(logits(network, inputs, recipe.flip_test).argmax(1).cpu())
    return (torch.cat(predicted) == labels).double().mean().item()


def as_checkpoint(network: Classifier, recipe: TransferRecipe, classes: tuple[str, ...]) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        problem="p2", architecture=ARCHITECTURE, classes=classes, input_size=data.SIZE, mean=recipe.mean, std=recipe.std,
        flip_test=recipe.flip_test, recipe={}, scores={}, made={}, weights=network.state_dict(),
    )  # fmt: skip


if __name__ == "__main__":
    entry(main)
