"""Train problem 2's classifier in one of the settings A-E: ``python3 -m p2.train --setting C``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, devices
from core.cli import InputError
from core.randomness import generator, seed_of, steps_per_epoch
from p2 import data, frozen
from p2.model import ARCHITECTURE, Classifier, load_backbone
from p2.recipes import PRETRAIN, SUPERVISED, TRANSFER, TransferRecipe
from p2.settings import SETTINGS, Setting
from training import cache, flags, loop, preview, processes
from training.provenance import digest
from training.recipes import choose_recipe
from training.run import Run


def arguments() -> tuple[argparse.Namespace, TransferRecipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p2_data", run="runs/p2_SETTING_RECIPE")
    parser.add_argument(
        "--setting", choices=list(SETTINGS), default="C", help="see p2/settings.py (%(default)s)"
    )
    parser.add_argument(
        "--backbone",
        type=Path,
        help="initial backbone; B, D: DATA/pretrain_model_SL.pt or, if that is missing, "
        "runs/p2_supervised_RECIPE/last.pt; C, E: runs/p2_byol_RECIPE/last.pt",
    )
    flags.tune_flag(parser)
    args = parser.parse_args()
    return args, choose_recipe(parser, args, TRANSFER, f"p2_{args.setting}")


def initial_backbone(
    setting: Setting, args: argparse.Namespace, recipe: TransferRecipe
) -> Path | None:
    """The file with the initial weights of the setting's backbone; None for random weights.

    Raises InputError if the file is missing, or if ``--backbone`` is given but the setting does
    not use one.
    """
    if setting.start == "nothing":
        if args.backbone:
            raise InputError(f"setting {setting.name} starts from random weights; omit --backbone")
        return None
    if args.backbone:
        if not args.backbone.is_file():
            raise InputError(f"no file {args.backbone}; correct --backbone, or omit it")
        return args.backbone
    path, command = Path(f"runs/p2_byol_{recipe.name}/last.pt"), "p2.pretrain"
    has_recipe = recipe.name in PRETRAIN
    if setting.start == "labels":
        path, command = args.data / "pretrain_model_SL.pt", "p2.supervise"
        has_recipe = recipe.name in SUPERVISED
        if not path.is_file():  # the course's backbone
            path = Path(f"runs/p2_supervised_{recipe.name}/last.pt")
    if not path.is_file():
        make = f"make it with python3 -m {command} --recipe {recipe.name}, or "
        raise InputError(
            f"setting {setting.name} starts from {path}, which does not exist; "
            f"{make if has_recipe else ''}choose a backbone with --backbone"
        )
    return path


def main() -> None:
    args, recipe = arguments()
    setting = SETTINGS[args.setting]
    device = processes.choose(args.device)
    start = None if args.preview else initial_backbone(setting, args, recipe)

    office = args.data / "office"
    images, labels, _, classes = data.load_labelled(
        office / "train.csv", office / "train", memory=args.data_memory
    )
    tables = [office / "train.csv"]
    if args.tune:
        (images, labels), (val_images, val_labels) = loop.split_for_tune(images, labels, args.seed)
    else:
        tables.append(office / "val.csv")
        val_images, val_labels, _, _ = data.load_labelled(
            tables[1], office / "val", classes, args.data_memory
        )
    if args.preview:
        return preview.labelled(args, recipe, images, labels, classes, augmented)
    digests = {"train": digest(images, labels), "val": digest(val_images, val_labels)}
    images, labels = cache.resident(images, device, args.data_memory), labels.to(device)
    steps = steps_per_epoch(len(images), recipe.batch_size)

    torch.manual_seed(seed_of(args.seed, "weights"))
    network = Classifier(len(classes), frozen=setting.frozen)
    if start:
        load_backbone(network.backbone, start)
    network = devices.prepare(network, device)
    head_only = frozen.applies(setting.frozen, recipe)
    trained = processes.wrap(network.head if head_only else network, device)
    optimizer = loop.make_optimizer(network, recipe)
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        flags.run_folder(args, f"p2_{setting.name}", recipe),
        recipe=recipe,
        data={
            **digests,
            "setting": setting.name,
            "labels": digest(*tables),
            "backbone_file": digest(start) if start else None,
        },
        notes={"backbone": str(start)},
        model=loop.checkpoint_fields("p2", ARCHITECTURE, classes, data.SIZE, recipe),
        state=loop.state(network=network, optimizer=optimizer, scaler=scaler),
        device=device,
        watch="accuracy",
        **flags.run_options(args),
    )

    features = val_features = torch.empty(0)
    for _ in run.epochs(recipe.epochs, recipe.patience):
        network.train()
        if head_only and not len(features):
            features = frozen.both_features(network.backbone, images, recipe, device)
            val_features = frozen.both_features(network.backbone, val_images, recipe, device)
        for index in run.batches(len(images), recipe.batch_size):
            loop.set_learning_rate(optimizer, recipe, run.total_steps, steps)
            rng = generator(*run.keys())
            if head_only:
                inputs = frozen.drawn(features, index, rng)
            else:
                inputs = augmented(cache.gather(images, index, device), recipe, rng)
            with devices.autocast(device, recipe.bf16):
                out = trained(inputs)
            loss = nn.functional.cross_entropy(
                out.float(), labels[index.to(device)], label_smoothing=recipe.label_smoothing
            )
            loop.step(loss, network, optimizer, scaler)
            run.step(loss=loss)
        run.begin_evaluation()
        if head_only:
            result = frozen.accuracy(network.head, val_features, val_labels, recipe, device)
        else:
            result = loop.accuracy(network, val_images, val_labels, recipe, device)
        run.end_epoch(network.state_dict(), lr=optimizer.param_groups[0]["lr"], accuracy=result)


def augmented(images: Tensor, recipe: TransferRecipe, rng: torch.Generator) -> Tensor:
    """(N, 3, 128, 128) uint8 -> the network's float32 input, with random draws for each image."""
    images = augment.to_float(augment.random_flip(images, rng))
    if recipe.crop_scale != (1.0, 1.0):
        images = augment.random_resized_crop(images, data.SIZE, rng, scale=recipe.crop_scale)
    return augment.normalise(images, recipe.mean, recipe.std)


if __name__ == "__main__":
    processes.entry(main)
