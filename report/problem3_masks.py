"""The second part of problem 3's section: masks at three stages of training, the hardest class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from p3 import data, inference
from prediction.predictor import Predictor
from report import problem3_figures as figures
from report import problem3_predictions as predictions
from report.measures import Computed, Measured, Site
from report.original import MASK_STAGES
from report.page import Block, Drawing, Gap, Grid, Heading, Layers, Part, Parts, Table, Text, logged
from report.runs import RunLog

FETCH = "bash hw1_download.sh data"


def masks(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    if not runs:
        return
    yield Heading("Masks at the first, middle and last stage of training", 3)
    folder = site.data / "p3_data" / "validation"
    paths = {name: folder / f"{name}_sat.jpg" for name in site.images}
    there = {
        name: path
        for name, path in paths.items()
        if path.is_file() and path.with_name(data.mask_name(path.name)).is_file()
    }
    absent = [name for name in paths if name not in there]
    if absent:
        yield Gap(
            f"the masks of validation {', '.join(absent)}, as the image or its true mask is not in "
            f"{folder}.",
            FETCH,
        )
    if there:
        yield Text(
            "Validation images, their true masks, and the masks that the checkpoints of up to "
            "three epochs predict, in float32. The last layer compares the first of these epochs "
            "with the last: which pixels became right and which became wrong. Scores are for the "
            "single image. The accuracy leaves out the pixels whose true class is unknown."
        )
    for model in sorted(runs, reverse=True):
        run, stages = runs[model], runs[model].stages()
        if not stages:
            yield Gap(
                f"the masks of model {model}: the checkpoints of {run.name} are not here.",
                run.metadata["command"],
            )
        elif there:
            yield from staged(site, model, run, stages, there)


def staged(
    site: Site, model: str, run: RunLog, stages: dict[int, Path], paths: dict[str, Path]
) -> Iterator[Block]:
    """Show every image with its masks, and how its pixels changed from first stage to last."""
    found = {}
    for epoch, file in stages.items():
        # The checkpoint is loaded only if one of its masks is not cached.
        predict = cache(lambda file=file: inference.predictor(file, site.device)[0])
        for name, path in paths.items():
            found[name, epoch] = masked(
                site, f"{run.name}/epoch_{epoch:04d}/mask_{name}", file, path, predict
            )
    lines = {line["epoch"]: line for line in run.history}
    of_set: list[Part] = [f"Model {model} on the whole validation set, as logged:"]
    for epoch in stages:
        of_set += [
            f"{' ' if epoch == min(stages) else ', '}epoch {epoch} mean IoU ",
            logged(run, lines[epoch], "mean_iou"),
        ]
    *first, last = MASK_STAGES
    original = (
        f" The original report gives {', '.join(map(str, first))} and {last} for the three stages "
        "of its model B."
    )
    yield Text(*of_set, ".", *([original] if model == "B" else []))
    first, last = min(stages), max(stages)
    shares = {name: changed(site, run, stages, path, name, found) for name, path in paths.items()}
    yield Grid(
        *(
            layers(
                model,
                run,
                name,
                path,
                {epoch: found[name, epoch] for epoch in stages},
                shares[name],
            )
            for name, path in paths.items()
        )
    )
    kinds = [
        kind
        for kind in predictions.CHANGES
        if any(one.numbers[key(kind)] for one in shares.values())
    ]
    yield Table(
        f"Model {model}, shares of the pixels of each image: right or wrong at epoch {first}"
        + (f" and at epoch {last}." if last > first else ", the only epoch that was kept."),
        ("image", *kinds),
        [(name, *(one.value(key(kind)) for kind in kinds)) for name, one in shares.items()],
        (run,),
    )


def masked(
    site: Site, name: str, file: Path, path: Path, predict: Callable[[], Predictor]
) -> Measured:
    """Predict the mask of an image with a checkpoint, and score it."""

    def compute() -> Computed:
        image, truth = predictions.read_pair(path)
        mask = predictions.mask(predict(), image)
        return predictions.scores(truth, mask) | {"mask": mask}

    return site.measures.of(name, [file, path, path.with_name(data.mask_name(path.name))], compute)


def changed(
    site: Site,
    run: RunLog,
    stages: dict[int, Path],
    path: Path,
    name: str,
    found: dict[tuple[str, int], Measured],
) -> Measured:
    """Measure the share of an image's pixels in each of ``predictions.CHANGES``, and map them."""
    first, last = min(stages), max(stages)

    def compute() -> Computed:
        _, truth = predictions.read_pair(path)
        which = predictions.changes(
            truth, found[name, first].arrays["mask"], found[name, last].arrays["mask"]
        )
        shares = {key(kind): np.mean(which == k) for k, kind in enumerate(predictions.CHANGES)}
        return shares | {"changes": which}

    files = [stages[first], stages[last], path, path.with_name(data.mask_name(path.name))]
    return site.measures.of(
        f"{run.name}/epochs_{first:04d}_{last:04d}/changes_{name}", files, compute
    )


def layers(
    model: str, run: RunLog, name: str, path: Path, found: dict[int, Measured], change: Measured
) -> Layers:
    """Stack the image, its true mask, the mask of each epoch, and the map of changes."""
    image, truth = predictions.read_pair(path)
    drawn = {"image": image, "truth": data.colours_of(truth)}
    caption: list[Part] = [f"Validation {name}, model {model}."]
    for epoch, one in found.items():
        drawn[f"epoch {epoch}"] = data.colours_of(one.arrays["mask"])
        told = {"mean_iou": "mean IoU", "accuracy": "accuracy"}
        caption.append(f" Epoch {epoch}: ")
        for index, score in enumerate(score for score in told if score in one.numbers):
            caption += [", " if index else "", f"{told[score]} ", one.value(score)]
        caption.append(".")
    which = change.arrays["changes"]
    drawn["errors"] = figures.change_map(which)
    occurring = np.unique(np.concatenate([truth, *(one.arrays["mask"] for one in found.values())]))
    legend = {data.CLASSES[index]: figures.hexadecimal(data.COLOURS[index]) for index in occurring}
    legend |= {
        f"errors: {predictions.CHANGES[index]}": figures.CHANGE_COLOURS[index]
        for index in np.unique(which)
    }
    return Layers(drawn, tuple(caption), f"Validation {name}", (run,), legend)


def hardest(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    """Show the class with the lowest IoU in the last epoch, and what it is taken for.

    The IoU is from the log, the rest from a confusion matrix.
    """
    if not runs:
        return
    model = max(runs)  # later letters stand for better networks
    run, folder = runs[model], site.data / "p3_data" / "validation"
    known = {
        name: run.last[f"iou_{name}"]
        for name in data.CLASSES[: data.UNKNOWN]
        if f"iou_{name}" in run.last
    }
    hard = min(known, key=known.__getitem__)
    yield Heading("The hardest class", 3)
    said: list[Part] = [
        f"Model {model} finds {hard} hardest: in the log of the last epoch, this class has the "
        "lowest IoU, "
    ]
    said += [logged(run, run.last, f"iou_{hard}"), "."]
    file = run.checkpoints().get(run.last["epoch"])
    if file is None or not folder.is_dir():
        yield Text(*said)
        what = f"the confusion matrix of model {model}"
        if file is None:
            yield Gap(
                f"{what}: the last checkpoint of {run.name} is not here.", run.metadata["command"]
            )
        if not folder.is_dir():
            yield Gap(f"{what}: there is no folder {folder}.", FETCH)
        return

    def compute() -> Computed:
        counts = predictions.confusion(inference.predictor(file, site.device)[0], folder)
        mean, ious = data.mean_iou(counts)
        numbers = {"mean_iou": mean, "images": len(data.list_images(folder))}
        counts = counts.numpy()
        for true, name in enumerate(data.CLASSES):
            numbers[f"share_of_{name}"] = counts[true].sum() / counts.sum()
            if counts[:, true].any():
                numbers[f"precision_of_{name}"] = counts[true, true] / counts[:, true].sum()
            for other, part in zip(data.CLASSES, predictions.rows_of(counts)[true], strict=True):
                numbers[f"{name}_as_{other}"] = part
        numbers |= {
            f"iou_{name}": iou
            for name, iou in zip(data.CLASSES[: data.UNKNOWN], ious, strict=True)
            if not math.isnan(iou)
        }
        return numbers | {"counts": counts}

    measured = site.measures.of(
        f"{run.name}/epoch_{run.last['epoch']:04d}/confusion", [file, folder], compute
    )
    yield Text(*said, *taken_for(hard, measured))
    bf16 = (
        "logged during training, which may have computed in bfloat16"
        if run.metadata["recipe"]["bf16"]
        else "logged"
    )
    yield Text(
        f"The matrix is for epoch {run.last['epoch']} of {run.name}",
        *measured.words(
            " over all {images:0} validation images, computed in float32 as in hw1_3.sh. Its mean "
            "IoU is {mean_iou} "
        ),
        f"({bf16}: ",
        logged(run, run.last, "mean_iou"),
        ").",
    )
    caption = (
        "Each row shows, in per cent, which classes were predicted for the pixels of one true "
        "class. A dot means less than half a per cent."
    )
    figure = figures.matrix(predictions.rows_of(measured.arrays["counts"]))
    yield Drawing(
        figure, caption, f"Confusion matrix of model {model} over the validation images", (run,)
    )


def taken_for(hard: str, measured: Measured) -> Parts:
    """Return sentences about what the pixels of the class ``hard`` are predicted as."""
    ways = {
        other: measured.numbers[f"{hard}_as_{other}"] for other in data.CLASSES if other != hard
    }
    order = sorted((other for other in ways if ways[other] > 0), key=lambda other: -ways[other])[:3]
    said: list[Part] = [
        " Its share of all validation pixels is ",
        measured.value(f"share_of_{hard}", 3),
        ". Of its pixels, the share ",
    ]
    said += [measured.value(f"{hard}_as_{hard}", 3), " is found"]
    for index, other in enumerate(order):
        said += [
            ", " if index else "; the others are mostly taken for ",
            f"{other} (",
            measured.value(f"{hard}_as_{other}", 3),
            ")",
        ]
    said.append(".")
    if f"precision_of_{hard}" in measured.numbers:
        said += [
            f" Of the pixels predicted as {hard}, the share ",
            measured.value(f"precision_of_{hard}", 3),
            " is correct.",
        ]
    return tuple(said)


def key(kind: str) -> str:
    return kind.replace(" ", "_")
