"""Problem 1's section: both models' accuracies and how they were made, between the other two parts of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from core.predictions import wilson
from report import charts
from report import problem1_figures as figures
from report.measures import Site
from report.page import (
    Block,
    Code,
    Drawing,
    Gap,
    Grid,
    Heading,
    Parts,
    Table,
    Text,
    logged,
    unfinished,
)
from report.problem1_images import FETCH, Images, mistakes, projections, read
from report.problem1_network import network
from report.runs import RunLog, best_of

MAKE = {
    "A": "python3 -m p1.train --model A --recipe hour",
    "B": "python3 -m p1.pretrain --recipe hour && python3 -m p1.train --model B --recipe hour "
    "--pretrained runs/p1_pretrain_hour/last.pt",
}
CHOICE = (
    "Of a model's runs one is shown: from weights that have not seen the validation images, then finished, where there is such "
    "a one, then with the best last epoch. So it is chosen by a validation score."
)


def section(site: Site) -> list[Block]:
    runs = {model: run for model in MAKE if (run := chosen(site, model))}
    images = read(site)
    return [
        Heading("Problem 1: small images in 50 classes"),
        Text(
            "Each image of 32×32 pixels gets one of 50 classes, which have numbers only. The score is the accuracy on the "
            "validation images. Model A is a MobileNetV2 trained from random weights, model B the same network trained from "
            "weights that were learned elsewhere."
        ),
        *(
            Gap(f"a run of model {model}.", command)
            for model, command in MAKE.items()
            if model not in runs
        ),
        *network(site),
        *accuracies(site, runs, images),
        *implementation(site, runs),
        *curves(runs),
        *projections(site, runs.get("A"), images),
        *mistakes(site, runs.get("A"), images),
    ]


def chosen(site: Site, model: str) -> RunLog | None:
    return best_clean(site.named(f"p1_{model}_*"))


def best_clean(runs: list[RunLog]) -> RunLog | None:
    """The one of ``best_of``; one from contaminated weights only where there is no other."""
    return best_of([run for run in runs if not contaminated(run)] or runs)


def pretrained(run: RunLog) -> str | None:
    """The file of the run's initial weights, or None where they were random."""
    source = run.about["data"].get("pretrained", "None")
    return None if source == "None" else source


def contaminated(run: RunLog) -> bool:
    """Whether its initial weights are of CIFAR-100, in whose training split the validation images are."""
    return "cifar100" in (pretrained(run) or "").lower()


def maker(site: Site, run: RunLog) -> RunLog | None:
    """The pre-training that made the run's initial weights, if it is one of ``p1.pretrain`` that is here."""
    source = pretrained(run)
    of = next((log for log in site.logs if source and log.name == Path(source).parent.name), None)
    return of if of and "p1.pretrain" in of.about["command"] else None


def accuracies(site: Site, runs: dict[str, RunLog], images: Images | None) -> Iterator[Block]:
    every = {model: site.named(f"p1_{model}_*") for model in MAKE}
    yield Heading("Accuracy", 3)
    rows: list[tuple[Parts, ...]] = []
    unmatched = []
    for model, of_model in every.items():
        for run in of_model:
            bounds = interval(site, run, images)
            if images and not bounds:
                unmatched.append(run)
            best = (logged(run, run.best, "accuracy"), " (", logged(run, run.best, "epoch", 0), ")")
            last = (logged(run, run.last, "accuracy"), " (", logged(run, run.last, "epoch", 0), ")")
            rows.append(
                ((f"{model}, ", Code(run.name)), last, bounds or "-", best, start(site, run))
            )
        accuracy, epoch = figures.ORIGINAL[model]
        weights = "random" if model == "A" else "CIFAR-100: contaminated"
        rows.append((f"{model}, original report", "-", "-", f"{accuracy:.4f} ({epoch})", weights))
    yield Table(
        "Validation accuracy as logged in the training, its epoch in brackets. The interval is Wilson's, of the last epoch's. "
        "The best epoch was chosen on the same images that it is measured on, so its figure is flattering.",
        ("model", "last epoch", "95 % interval", "best epoch", "initial weights"),
        rows,
        tuple(run for of_model in every.values() for run in of_model),
    )
    if images is None and any(every.values()):
        yield Gap(
            "the intervals, as the number of validation images is not known without them.", FETCH
        )
    for run in unmatched:
        what = f"the interval of {run.name}: its accuracy is no share of the {len(images.labels)} images in {images.folder}."
        yield Gap(what, run.about["command"])
    yield from (
        unfinished(run) for of_model in every.values() for run in of_model if not run.is_finished
    )
    for model, of_model in every.items():
        if len(of_model) > 1:
            yield Text(f"Shown of model {model} below: ", Code(runs[model].name), f". {CHOICE}")
    yield Text(
        "The original's 0.9714 for B is contaminated: all images of this problem, the validation images too, are of "
        "CIFAR-100's training split, and its initial weights had been trained on that split with the labels. It is no measure "
        "of how well the network does on images that it has not seen."
    )
    for run in every["B"]:
        yield Text(*told(site, run))


def interval(site: Site, run: RunLog, images: Images | None) -> Parts | None:
    """Of the last epoch's accuracy; None without the images, or if it cannot be one of so many images."""
    if images is None:
        return None
    count, accuracy = len(images.labels), run.last["accuracy"]
    right = round(accuracy * count)
    if abs(accuracy * count - right) > 0.01:
        return None

    def compute() -> tuple[dict[str, float], dict[str, np.ndarray]]:
        low, high = wilson(right, count)
        return {"right": right, "count": count, "low": low, "high": high}, {}

    measured = site.measures.of(
        f"{run.name}/interval", [run.folder / "log.jsonl", images.folder], compute
    )
    return (measured.value("low", 3), " to ", measured.value("high", 3))


def start(site: Site, run: RunLog) -> Parts:
    """Where a run's weights came from, for a cell of a table."""
    source = pretrained(run)
    if source is None:
        return "random"
    if contaminated(run):
        return ("CIFAR-100: contaminated, ", Code(source))
    return ("another labelled set, ", Code(source)) if maker(site, run) else (Code(source),)


def told(site: Site, run: RunLog) -> tuple[Any, ...]:
    """A paragraph on the weights that a run of model B started from."""
    source, made_by = pretrained(run), maker(site, run)
    began = (Code(run.name), " starts from ", Code(source or "random weights"))
    if contaminated(run):
        return (*began, ": trained on CIFAR-100, so its figure is contaminated as the original's.")
    if made_by is None:
        return (*began, ". What these weights were trained on is not recorded in the runs here.")
    return (
        *began, ", made by ", Code(made_by.about["command"]), ": the same network trained on another labelled set, on images "
        "of which it had not seen it had the accuracy ", logged(made_by, made_by.last, "accuracy"), " in epoch ",
        logged(made_by, made_by.last, "epoch", 0), ". The classifier was replaced, all other weights were kept.",
    )  # fmt: skip


def implementation(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    if not runs:
        return
    yield Heading("Implementation", 3)
    columns = [recipe_of(site, run) for run in runs.values()]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "-") for column in columns)) for name in names]
    yield Table(
        "How the models were trained, from run.json. Every training image is mirrored with probability a half too; the loss is "
        "cross entropy; images are not resized.",
        ("", *(f"model {model}" for model in runs)),
        rows,
        tuple(runs.values()),
    )


def recipe_of(site: Site, run: RunLog) -> dict[str, Parts]:
    """What run.json says of a training, in words; a setting that has no words here stands under its own name."""
    left = dict(run.about["recipe"])
    left.pop("model", None)

    def take(name: str, words: Any = "{:g}", otherwise: str = "none") -> str:
        value = left.pop(name, None)
        return "-" if value is None else words.format(value) if value else otherwise

    def numbers(name: str) -> str:
        values = left.pop(name, None)
        return (
            "-"
            if values is None
            else ", ".join(f"{value:g}" for value in values)
            if any(values)
            else "none"
        )

    minutes = {"minutes": sum(line["seconds"] for line in run.history) / 60}
    timed = site.measures.of(
        f"{run.name}/minutes", [run.folder / "log.jsonl"], lambda: (minutes, {})
    )
    rows: dict[str, Parts] = {
        "run": (Code(run.name),),
        "recipe": take("name", "{}"),
        "initial weights": start(site, run),
        "random crop": take("crop_padding", "32×32 after padding by {}"),
        "jitter: brightness, contrast, saturation, hue": numbers("jitter"),
        "random rotation": take("rotation", "up to {:g}° either way"),
        "channels' mean": numbers("mean"),
        "channels' standard deviation": numbers("std"),
        "epochs": (logged(run, run.last, "epoch", 0), f" of {take('epochs')}"),
        "steps": logged(run, run.last, "steps", 0),
        "patience, epochs": take("patience"),
        "batch": take("batch_size"),
        "optimiser": take("optimiser", "{}"),
        "learning rate": take("lr"),
        "schedule": take("schedule", "{}"),
        "warm-up, epochs": take("warmup_epochs"),
        "weight decay": take("weight_decay"),
        "weight decay of biases and BatchNorm": take("decay_vectors", "yes", "no"),
        "label smoothing": take("label_smoothing"),
        "averaged weights": take("average", "decay {:g}"),
        "mirrored too at validation": take("flip_test", "yes", "no"),
        "number format": take("bf16", "bfloat16 where the machine has it", "float32"),
        "seed": str(run.about["seed"]),
        "machine": run.about["device"],
        "PyTorch": run.about["torch"],
        "minutes": timed.value("minutes", 0),
    }
    return rows | {name.replace("_", " "): str(value) for name, value in left.items()}


def curves(runs: dict[str, RunLog]) -> Iterator[Block]:
    if not runs:
        return
    yield Heading("Training", 3)
    drawn = []
    for name, what, unit in (
        ("loss", "Training loss", "cross entropy"),
        ("accuracy", "Validation accuracy", "accuracy"),
        ("lr", "Learning rate of an epoch's last step", "learning rate"),
    ):
        series = {
            f"model {model}": run.column(name) for model, run in runs.items() if name in run.last
        }
        if not series or (
            name == "lr" and all(len(set(values)) == 1 for _, values in series.values())
        ):
            continue
        last: list[Any] = []
        for model, run in runs.items():
            if name in run.last and name != "lr":
                last += [
                    f", model {model} " if last else ". Last: model " + model + " ",
                    logged(run, run.last, name),
                ]
        more = " It is the mean over an epoch's steps, on augmented images, with label smoothing where the recipe has it."
        caption = (what, *last, ".", more if name == "loss" else "")
        alt = f"{what} over the epochs: {', '.join(series)}"
        drawn.append(
            Drawing(charts.lines(series, x="epoch", y=unit), caption, alt, tuple(runs.values()))
        )
    yield Grid(*drawn)
