"""The second part of problem 3's section: masks at three stages of training, the hardest class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from p3 import data, inference
from prediction.predictor import Predictor
from report import problem3_figures as figures
from report import problem3_predictions as predictions
from report.measures import FETCH, Computed, Measured, Site
from report.original import MASK_STAGES
from report.page import Block, Drawing, Gap, Grid, Heading, Layers, Part, Table, Text, logged
from report.recipes import through
from report.runs import RunLog, Stage, kept_stages, runs_of


def masks(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
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
        run = runs[model]
        stages = kept_stages(site.chain(run))
        if not stages:
            yield Gap(
                f"the masks of model {model}: the checkpoints of {run.name} are not here.",
                run.metadata["command"],
            )
        elif there:
            yield from staged(site, model, stages, there)


def staged(
    site: Site, model: str, stages: dict[int, Stage], paths: dict[str, Path]
) -> Iterator[Block]:
    """Show every image with its masks, and how its pixels changed from first stage to last."""
    found: dict[str, dict[int, Measured]] = {name: {} for name in paths}
    for epoch, stage in stages.items():
        # The checkpoint is loaded only if one of its masks is not cached.
        predict = cache(lambda file=stage.path: inference.predictor(file, site.device)[0])
        for name, path in paths.items():
            key = f"{stage.key}/mask_{name}"
            found[name][epoch] = masked(site, key, stage.path, path, predict)
    chain = runs_of(stages)
    of_set: list[Part] = []
    for epoch, stage in stages.items():
        of_set += [
            f"{',' if of_set else ''} epoch {epoch} mean IoU ",
            logged(stage.run, stage.line, "mean_iou"),
        ]
    *others, best = MASK_STAGES
    original = (
        f" The original report gives {', '.join(map(str, others))} and {best} for the three stages "
        "of its model B."
    )
    yield Text(
        f"Model {model} on the whole validation set, as logged by ",
        *through(chain),
        ":",
        *of_set,
        f".{original if model == 'B' else ''}",
    )
    first, last = min(stages), max(stages)
    changes = {}
    for name, path in paths.items():
        key = f"{stages[last].key}/since_{stages[first].key}/changes_{name}"
        files = [stages[first].path, stages[last].path]
        changes[name] = changed(site, key, files, path, found[name][first], found[name][last])
    yield Grid(
        *(
            layers(f"Validation {name}", model, chain, path, found[name], changes[name])
            for name, path in paths.items()
        )
    )
    kinds = [
        kind
        for kind in predictions.CHANGES
        if any(one.numbers[in_key(kind)] for one in changes.values())
    ]
    yield Table(
        f"Model {model}, shares of the pixels of each image: right or wrong at epoch {first}"
        + (f" and at epoch {last}." if last > first else ", the only epoch that was kept."),
        [
            {"image": name} | {kind: one.value(in_key(kind)) for kind in kinds}
            for name, one in changes.items()
        ],
        tuple(chain),
    )


def masked(
    site: Site, key: str, file: Path, path: Path, predict: Callable[[], Predictor]
) -> Measured:
    """Predict the mask of an image with a checkpoint, and score it."""

    def compute() -> Computed:
        image, truth = predictions.read_pair(path)
        mask = predictions.mask(predict(), image)
        return predictions.scores(truth, mask) | {"mask": mask}

    return site.measures.of(key, [file, path, *data.masks([path])], compute)


def changed(
    site: Site, key: str, files: list[Path], path: Path, first: Measured, last: Measured
) -> Measured:
    """Measure the share of an image's pixels in each of ``predictions.CHANGES``, and map them."""

    def compute() -> Computed:
        _, truth = predictions.read_pair(path)
        which = predictions.changes(truth, first.arrays["mask"], last.arrays["mask"])
        shares = {in_key(kind): np.mean(which == k) for k, kind in enumerate(predictions.CHANGES)}
        return shares | {"changes": which}

    return site.measures.of(key, [*files, path, *data.masks([path])], compute)


def in_key(kind: str) -> str:
    return kind.replace(" ", "_")


def layers(
    title: str,
    model: str,
    chain: list[RunLog],
    path: Path,
    found: dict[int, Measured],
    change: Measured,
) -> Layers:
    """Stack the image, its true mask, the mask of each epoch, and the map of changes."""
    image, truth = predictions.read_pair(path)
    drawn = {"image": image, "truth": data.colours_of(truth)}
    caption: list[Part] = [f"{title}, model {model}."]
    for epoch, one in found.items():
        drawn[f"epoch {epoch}"] = data.colours_of(one.arrays["mask"])
        scores = {"mean_iou": "mean IoU {mean_iou}", "accuracy": "accuracy {accuracy}"}
        told = ", ".join(words for name, words in scores.items() if name in one.numbers)
        caption += one.words(f" Epoch {epoch}: {told}.")
    which = change.arrays["changes"]
    drawn["errors"] = figures.change_map(which)
    occurring = np.unique(np.concatenate([truth, *(one.arrays["mask"] for one in found.values())]))
    legend = {data.CLASSES[index]: f"#{bytes(data.COLOURS[index]).hex()}" for index in occurring}
    legend |= {
        f"errors: {predictions.CHANGES[index]}": figures.CHANGE_COLOURS[index]
        for index in np.unique(which)
    }
    return Layers(drawn, tuple(caption), title, tuple(chain), legend)


def hardest(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    """Show the class with the lowest IoU in the last epoch, and what it is taken for.

    The IoU is from the log, the rest from a confusion matrix.
    """
    model = max(runs)  # later letters stand for better networks
    run, folder = runs[model], site.data / "p3_data" / "validation"
    known = [name for name in data.CLASSES[: data.UNKNOWN] if f"iou_{name}" in run.last]
    hard = min(known, key=lambda name: run.last[f"iou_{name}"])
    yield Heading("The hardest class", 3)
    said = (
        f"Model {model} finds {hard} hardest: in the log of the last epoch, this class has the "
        "lowest IoU, ",
        logged(run, run.last, f"iou_{hard}"),
        ".",
    )
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
        found = predictions.confusion(inference.predictor(file, site.device)[0], folder)
        mean, _ = data.mean_iou(found)
        counts = found.numpy()
        shares = predictions.rows_of(counts)
        numbers = {"mean_iou": mean, "images": len(data.list_images(folder)), "counts": counts}
        for k, name in enumerate(data.CLASSES):
            numbers[f"share_of_{name}"] = counts[k].sum() / counts.sum()
            if counts[:, k].any():
                numbers[f"precision_of_{name}"] = counts[k, k] / counts[:, k].sum()
            as_others = zip(data.CLASSES, shares[k], strict=True)
            numbers |= {f"{name}_as_{other}": share for other, share in as_others}
        return numbers

    measured = site.measures.of(f"{run.key()}/confusion", [file, folder], compute)
    yield Text(*said, *taken_for(hard, measured))
    bf16 = run.metadata["recipe"]["bf16"]
    yield Text(
        f"The matrix is for epoch {run.last['epoch']} of {run.name}",
        *measured.words(
            " over all {images:0} validation images, computed in float32 as in hw1_3.sh. Its mean "
            "IoU is {mean_iou} (logged"
        ),
        f"{' during training, which may have computed in bfloat16' if bf16 else ''}: ",
        logged(run, run.last, "mean_iou"),
        ").",
    )
    yield Drawing(
        figures.matrix(predictions.rows_of(measured.arrays["counts"])),
        "Each row shows, in per cent, which classes were predicted for the pixels of one true "
        "class. A dot means less than half a per cent.",
        f"Confusion matrix of model {model} over the validation images",
        (run,),
    )


def taken_for(hard: str, measured: Measured) -> tuple[Part, ...]:
    """Return sentences about what the pixels of the class ``hard`` are predicted as."""
    shares = {other: measured.numbers[f"{hard}_as_{other}"] for other in data.CLASSES}
    others = [other for other in shares if other != hard and shares[other] > 0]
    most = sorted(others, key=shares.__getitem__, reverse=True)[:3]
    template = (
        " Its share of all validation pixels is {share_of_HARD:3}. Of its pixels, the share "
        "{HARD_as_HARD:3} is found"
    )
    if most:
        named = ", ".join(f"{other} ({{HARD_as_{other}:3}})" for other in most)
        template += f"; the others are mostly taken for {named}"
    template += "."
    if f"precision_of_{hard}" in measured.numbers:
        template += " Of the pixels predicted as HARD, the share {precision_of_HARD:3} is correct."
    return measured.words(template.replace("HARD", hard))
