"""Train problem 2's classifier in one of the settings A-E: ``python3 -m p2.train --setting C``.

``--all-settings`` trains all five, one after another, and prints their table.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, devices
from core.cli import STOPPED, InputError, say
from core.randomness import generator, seed_of, steps_per_epoch
from p2 import data, frozen
from p2.model import Classifier, classifier_fields, load_backbone, make_backbone
from p2.recipes import TRANSFER, TransferRecipe
from p2.settings import SETTINGS, Setting
from prediction.tables import wilson
from training import cache, flags, loop, optim, preview, processes
from training.provenance import digest
from training.run import Run
from training.runfolder import start_over


def arguments() -> tuple[argparse.Namespace, TransferRecipe]:
    parser = flags.command_line(__doc__, data="hw1_data/p2_data", run="runs/p2_SETTING_RECIPE")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--setting", choices=list(SETTINGS), default="C", help="%(default)s; see p2/settings.py"
    )
    which.add_argument(
        "--all-settings", action="store_true", help="A to E, one after another, and their table"
    )
    parser.add_argument("--backbone", type=Path, help="initial backbone of the one --setting")
    parser.add_argument(
        "--labels-backbone", type=Path, help="of settings B and D (DATA/pretrain_model_SL.pt)"
    )
    parser.add_argument(
        "--byol-backbone", type=Path, help="of settings C and E (runs/p2_byol_RECIPE/last.pt)"
    )
    flags.tune_flag(parser)
    args = parser.parse_args()
    return args, flags.choose_recipe(parser, args, TRANSFER, f"p2_{args.setting}")


def main() -> None:
    args, recipe = arguments()
    if args.all_settings:
        train_all(args, recipe)
        return
    setting = SETTINGS[args.setting]
    for flag, value, start in (
        ("--labels-backbone", args.labels_backbone, "labels"),
        ("--byol-backbone", args.byol_backbone, "byol"),
    ):
        if value and setting.start != start:
            raise InputError(
                f"setting {setting.name} starts from {setting.start}; leave {flag} out"
            )
    train(setting, args, recipe)


# --- the five settings, one after another ---------------------------------------------------------


def train_all(args: argparse.Namespace, recipe: TransferRecipe) -> None:
    """Train the five settings, each in its own run folder, and print their table.

    ``--max-minutes`` is for all of them together. Settings that are done are not done again. Raises
    InputError, before any work, if initial weights are missing or unfit.
    """
    if args.backbone or args.run or args.preview:
        raise InputError(
            "--backbone, --run and --preview are for one --setting; "
            "--all-settings has --labels-backbone, --byol-backbone"
        )
    starts = {setting.name: first_weights(setting, args, recipe) for setting in SETTINGS.values()}
    refuse_missing(starts)
    for path in sorted({path for path in starts.values() if path}):
        load_backbone(make_backbone(), path)  # what does not fit is found out now, not hours later

    if args.fresh and processes.rank() == 0:
        # All at once: what goes on after a stop, without --fresh, must not take an older run.
        for setting in SETTINGS.values():
            start_over(run_folder(setting, args, recipe))
    processes.barrier()
    rows = []
    for setting in SETTINGS.values():
        say(f"setting {setting.name}")
        run, count = train(setting, args, recipe)
        rows.append(row(setting, starts[setting.name], run, count))
        why = run.asked_to_stop()
        if why and len(rows) < len(SETTINGS):  # it came too late for the run's last step
            say(f"stopped by {why} after setting {setting.name}; {run.how_to_go_on}")
            sys.exit(STOPPED)
    header = ("setting", "backbone from", "trained", "last epoch", "95 % interval", "best epoch")
    for cells in (header, ("---",) * len(header), *rows):
        say(f"| {' | '.join(cells)} |")


def refuse_missing(starts: dict[str, Path | None]) -> None:
    """Raise InputError if a file that a setting, by its name, starts from is not there."""
    missing = [f"{name}: {path}" for name, path in starts.items() if path and not path.is_file()]
    if missing:
        raise InputError(
            f"initial weights are missing, of setting {', '.join(missing)}. Make them with "
            "p2.supervise or p2.pretrain, or name others: --labels-backbone, --byol-backbone"
        )


def row(setting: Setting, start: Path | None, run: Run, count: int) -> tuple[str, ...]:
    """The setting's line of the table: accuracies on ``count`` validation images, and epochs."""
    last, best = run.history[-1], run.history[run.best_epoch() - 1]
    low, high = wilson(round(last["accuracy"] * count), count)
    return (
        setting.name,
        str(start or setting.start),
        "head only" if setting.frozen else "all",
        f"{last['accuracy']:.4f} ({last['epoch']})",
        f"{low:.3f} to {high:.3f}",
        f"{best['accuracy']:.4f} ({best['epoch']})",
    )


def run_folder(setting: Setting, args: argparse.Namespace, recipe: TransferRecipe) -> Path:
    return flags.run_folder(args, f"p2_{setting.name}", recipe)


def first_weights(
    setting: Setting, args: argparse.Namespace, recipe: TransferRecipe
) -> Path | None:
    """The file that the setting's backbone starts from, or None.

    Raises InputError if --backbone has no use.
    """
    if setting.start == "nothing":
        if args.backbone:
            raise InputError(f"setting {setting.name} starts from nothing; leave --backbone out")
        return None
    if setting.start == "labels":
        return args.backbone or args.labels_backbone or args.data / "pretrain_model_SL.pt"
    return args.backbone or args.byol_backbone or Path(f"runs/p2_byol_{recipe.name}/last.pt")


# --- one setting ----------------------------------------------------------------------------------


def train(setting: Setting, args: argparse.Namespace, recipe: TransferRecipe) -> tuple[Run, int]:
    """Train one setting, or go on: its run and the number of validation images."""
    device = processes.choose(args.device)
    start = first_weights(setting, args, recipe)
    refuse_missing({setting.name: start})

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
        show(args, recipe, images, labels, classes)
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
    optimizer = optim.make(
        recipe.optimiser, network, recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    scaler = loop.loss_scaler(device, recipe.bf16)
    run = Run(
        run_folder(setting, args, recipe),
        recipe=recipe,
        data={
            **digests,
            "setting": setting.name,
            "labels": digest(*tables),
            "backbone_file": digest(start) if start else None,
        },
        notes={"backbone": str(start)},
        model=classifier_fields(recipe, classes),
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
            result = evaluate(network, val_images, val_labels, recipe, device)
        run.end_epoch(network.state_dict(), lr=optimizer.param_groups[0]["lr"], accuracy=result)
    return run, len(val_labels)


def evaluate(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: TransferRecipe,
    device: torch.device,
) -> float:
    """Accuracy, 0..1, on images (N, 3, 128, 128) uint8 with labels (N,) int64."""
    return loop.accuracy(network, images, labels, recipe, device, batch_size=64)


def augmented(images: Tensor, recipe: TransferRecipe, rng: torch.Generator) -> Tensor:
    """(N, 3, 128, 128) uint8 to the network's input, float32, each image with its own draws."""
    images = augment.to_float(augment.random_flip(images, rng))
    if recipe.crop_scale != (1.0, 1.0):
        images = augment.random_resized_crop(images, data.SIZE, rng, scale=recipe.crop_scale)
    return augment.normalise(images, recipe.mean, recipe.std)


def show(
    args: argparse.Namespace,
    recipe: TransferRecipe,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
) -> None:
    """``--preview`` of labelled images (N, 3, 128, 128) uint8; ends the program."""
    index, keys = loop.first_batch(len(images), recipe.batch_size, args.seed)
    inputs = augmented(images[index], recipe, generator(*keys))
    shown = preview.pictures(inputs, recipe.mean, recipe.std)
    preview.write(args.preview, shown, [classes[k] for k in labels[index].tolist()])
    sys.exit(0)


if __name__ == "__main__":
    processes.entry(main)
