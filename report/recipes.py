"""Recipes in words: one table for the recipes of all problems, from the run.json of each run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from report import charts
from report.measures import Site
from report.page import Code, Drawing, Part, Parts, Table, logged
from report.runs import RunLog, joined
from training.provenance import machines


def _or_none(template: str = "{:g}") -> Callable[[Any], str]:
    return lambda value: template.format(value) if value else "none"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) if any(values) else "none"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _range(values: Sequence[float]) -> str:
    return "all" if tuple(values) == (1, 1) else "{:g} to {:g}".format(*values)


def _one_of(**words: str) -> Callable[[Any], str]:
    return lambda value: words.get(str(value), str(value))


WORDS: dict[str, tuple[str, Callable[[Any], str]]] = {  # setting -> (name, how to write its value)
    "architecture": ("network", str),
    "batch_size": ("batch size", str),
    "crop_padding": ("random crop", _or_none("after padding by {}")),
    "crop": (
        "training input",
        lambda side: f"random {side}×{side} crop" if side else "whole image",
    ),
    "crop_scale": ("random crop, share of the area", _range),
    "crop_last": ("order of the crop", lambda last: "last" if last else "first"),
    "symmetry": ("symmetries", _one_of(square="all eight of the square", flip="left-right flip")),
    "jitter": ("jitter: brightness, contrast, saturation, hue", _list),
    "jitter_p": ("jitter, probability", "{:g}".format),
    "rotation": ("random rotation", _or_none("up to {:g}° either way")),
    "grey_p": ("grey, probability", "{:g}".format),
    "blur_size": ("blur, kernel", "{} px".format),
    "blur_sigma": ("blur, sigma in pixels", _range),
    "blur_p": ("blur, probability", "{:g}".format),
    "solarize_p": ("solarize, probability", "{:g}".format),
    "mean": ("mean of the channels", _list),
    "std": ("standard deviation of the channels", _list),
    "crop_area": (
        "share of an image's area that is cropped and resized",
        lambda area: _range(area) if any(area) else "none: cropped without resizing",
    ),
    "cutmix": ("CutMix, probability", _or_none()),
    "ignore_unknown": (
        "pixels of class unknown",
        lambda out: f"{'not ' if out else ''}in the loss",
    ),
    "balance": ("pixels of a class count by its share to the power of", _or_none("-{:g}")),
    "jaccard": ("weight of the soft Jaccard term", _or_none()),
    "label_smoothing": ("label smoothing", _or_none()),
    "optimiser": ("optimiser", str),
    "drop_path": ("drop path, probability at the last block", _or_none()),
    "lr": ("learning rate", "{:g}".format),
    "backbone_rate": ("factor on the backbone's learning rate", "{:g}".format),
    "schedule": (
        "schedule",
        _one_of(plateau="divided by 10 in the 11th epoch in a row without a lower training loss"),
    ),
    "plateau_from": ("plateau and patience count from epoch", _or_none("{}")),
    "warmup_epochs": ("warm-up, epochs", _or_none()),
    "weight_decay": ("weight decay", _or_none()),
    "decay_vectors": ("weight decay of biases and BatchNorm", _yes),
    "patience": ("patience, epochs", _or_none("{}")),
    "target_decay": ("target's decay", "{:g}".format),
    "target_schedule": ("target's decay over time", _one_of(cosine="to 1 by a cosine")),
    "average": (
        "averaged weights",
        lambda decay: "mean over all steps" if decay == 1 else _or_none("decay {:g}")(decay),
    ),
    "flip_test": ("averaged with the mirror image at validation", _yes),
    "rotate_test": ("averaged over four quarter turns at validation", _yes),
    "statistics": ("BatchNorm's statistics of the averaged weights, batches", _or_none("{}")),
    "test_scales": ("image sizes at validation", _list),
    "bf16": (
        "number format",
        lambda bf16: "bfloat16 if the machine supports it" if bf16 else "float32",
    ),
    "size": ("side of the network's input", "{} px".format),
    "late_size": ("side in the last epochs", "{} px".format),
    "late_epochs": ("number of these last epochs", _or_none("{}")),
    "probe_every": ("epochs between two kNN probes", _or_none("{}")),
}
LOSS = (
    " It is the mean over the steps of an epoch, on augmented images, of all that the recipe adds "
    "up. So the losses of different recipes cannot be compared."
)
ELSEWHERE = {"name", "model", "epochs", "views"}  # settings shown in another row or table


def in_words(settings: dict[str, Any]) -> dict[str, str]:
    """Describe the settings of a recipe, or of a view of BYOL: name -> value in words.

    A setting that is not in ``WORDS``, or has a value that ``WORDS`` does not expect, is shown
    unchanged.
    """
    said = {}
    for name in [*WORDS, *sorted(settings.keys() - WORDS.keys() - ELSEWHERE)]:
        if name in settings:
            what, words = WORDS.get(name, (name.replace("_", " "), str))
            try:
                said[what] = words(settings[name])
            except (TypeError, ValueError, IndexError):
                said[what] = str(settings[name])
    return said


def made(site: Site, run: RunLog, start: Parts) -> dict[str, Parts]:
    """Describe how a run was made. ``start``: its initial weights, in words."""
    recipe = run.metadata["recipe"]
    minutes = {"minutes": sum(line.get("seconds", 0) for line in run.history) / 60}
    log = [run.folder / "log.jsonl"]
    timed = site.measures.of(f"{run.name}/minutes", log, lambda: minutes)
    return {
        "run": Code(run.name),
        "recipe": str(recipe.get("name", "-")),
        "initial weights": start,
        "epochs": (logged(run, run.last, "epoch", 0), f" of {recipe['epochs']}"),
        "steps": logged(run, run.last, "steps", 0) if "steps" in run.last else "-",
        **in_words(recipe),
        "seed": str(run.metadata["seed"]),
        "machine": machines(run.metadata),
        "PyTorch": run.metadata["torch"],
        "minutes": timed.value("minutes", 0),
    }


def curves(site: Site, runs: Mapping[str, RunLog], score: str) -> Iterator[Drawing]:
    """Plot loss, ``score`` and learning rate over the epochs; a constant rate is left out.

    A run that continues another one of the same model goes on where that one ends.
    """
    chains = {name: site.chain(run) for name, run in runs.items()}
    for value, what in (
        ("loss", "Training loss"),
        (score, f"Validation {score.replace('mean_iou', 'mean IoU')}"),
        ("lr", "Learning rate at the last step of each epoch"),
    ):
        series = {name: joined(chain, value) for name, chain in chains.items()}
        series = {name: one for name, one in series.items() if one[0]}
        if not series or value == "lr" and all(len(set(ys)) == 1 for _, ys in series.values()):
            continue
        caption: list[Part] = [what, " of "]
        for name in series:
            caption += ["; " if len(caption) > 2 else "", f"{name} (", *through(chains[name]), ")"]
        caption.append(f".{LOSS if value == 'loss' else ''}")
        used = tuple(run for name in series for run in chains[name])
        figure = charts.lines(series, x="epoch", y=what.partition(" at ")[0])
        yield Drawing(figure, tuple(caption), f"{what} by epoch: {', '.join(series)}", used)


def through(chain: Sequence[RunLog]) -> list[Part]:
    """Name the runs of a ``report.runs.lineage``, one after the other."""
    parts: list[Part] = []
    for run in chain:
        parts += [", then " if parts else "", Code(run.name)]
    return parts


def table(
    caption: Parts,
    columns: Mapping[str, Mapping[str, Parts]],
    runs: Iterable[RunLog] = (),
    corner: str = "",
) -> Table:
    """Put named ``columns`` side by side; "-" where a column lacks a row."""
    settings = dict.fromkeys(setting for column in columns.values() for setting in column)
    rows = [
        {corner: setting} | {name: column.get(setting, "-") for name, column in columns.items()}
        for setting in settings
    ]
    return Table(caption, rows, tuple(runs))
