"""What the report draws and measures for problem 2: the method, curves, probes and predictions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from core import devices, images
from core.randomness import seed_of
from p2 import data, knn
from p2.byol import BYOL
from p2.inference import predictor
from p2.model import BACKBONE, FEATURES, load_backbone, make_backbone
from p2.recipes import ORIGINAL_PRETRAIN
from p2.settings import SETTINGS
from prediction.tables import classes_of, read_labelled, read_rows, wilson
from report import charts
from report.runs import RunLog
from training.provenance import digest, fingerprint

# Pairs of settings whose difference answers a question.
COMPARED = {
    "B - A": "with labels against nothing",
    "C - A": "BYOL against nothing",
    "C - B": "BYOL against with labels",
    "B - D": "all against the head only, with labels",
    "C - E": "all against the head only, BYOL",
}


# --- the method -----------------------------------------------------------------------------------


def networks() -> BYOL:
    """Build BYOL as ``p2.pretrain`` does, but without memory for its weights: to count them."""
    with torch.device("meta"):
        return BYOL(make_backbone(), FEATURES)


def parts(byol: BYOL) -> dict[str, nn.Module]:
    return {
        "backbone": byol.online[0],
        "projector": byol.online[1],
        "predictor": byol.predictor,
        "target": byol.target,
    }


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def parameters(byol: BYOL) -> dict[str, float]:
    """Count the parameters of each part; ``trained`` counts all that have gradients."""
    counts = {name: count(part) for name, part in parts(byol).items()}
    return counts | {"trained": sum(p.numel() for p in byol.parameters() if p.requires_grad)}


def widths(mlp: nn.Module) -> list[int]:
    """Return the sizes of the vectors before, between and after a module's linear layers."""
    layers = [module for module in mlp.modules() if isinstance(module, nn.Linear)]
    return [layers[0].in_features, *(layer.out_features for layer in layers)]


def method(byol: BYOL) -> Figure:
    """Draw BYOL's two networks, with sizes read from the modules.

    Grill et al. 2020, section 3.1 and figure 2.
    """
    figure, axes = charts.panel(4.0, 5.3, axes=False)
    width, tall, left, right = 1.6, 0.72, 0.08, 2.32
    bottoms = {"backbone": 3.14, "projector": 2.2, "predictor": 1.26}
    charts.box(axes, 1.2, 4.86, 1.6, 0.34, f"image, {data.SIZE} x {data.SIZE}")
    loss = "loss: 2 - 2 cos(prediction, target)"
    charts.box(axes, 0.35, 0.34, 3.3, 0.5, loss, "plus the same with the views swapped")
    trained = f"online: {parameters(byol)['trained'] / 1e6:.1f} M, by gradient"
    columns = (
        (left, (*byol.online, byol.predictor), trained),
        (right, (*byol.target,), "target: by EMA"),
    )
    for k, (x, modules, how) in enumerate(columns):
        middle, above = x + width / 2, 4.08
        charts.arrow(axes, (1.7 + 0.6 * k, 4.86), (middle, above + 0.34))
        charts.box(axes, x, above, width, 0.34, f"view {k + 1}")
        # The target network has no predictor.
        for (name, bottom), module in zip(bottoms.items(), modules, strict=False):
            if name == "backbone":
                kind = BACKBONE.removesuffix("_backbone")
                sizes = f"{kind}, {widths(modules[1])[0]} features"
            else:
                sizes = " → ".join(map(str, widths(module)))
            detail = f"{sizes}\n{count(module) / 1e6:.1f} M parameters"
            charts.arrow(axes, (middle, above), (middle, bottom + tall))
            charts.box(axes, x, bottom, width, tall, name, detail, series=k)
            above = bottom
        charts.arrow(axes, (middle, above), (middle, 0.84))
        charts.label(axes, middle, 0.16, how, size=8.5, colour=charts.SERIES[k])
    for name in ("backbone", "projector"):
        y = bottoms[name] + tall / 2
        charts.arrow(axes, (left + width, y), (right, y))
        charts.label(axes, 2.0, y + 0.07, "EMA", va="bottom")
    x = right + width / 2
    axes.plot((x - 0.3, x + 0.3), (1.5, 1.5), color=charts.SERIES[1], linewidth=2.2)
    charts.label(axes, x - 0.38, 1.5, "stop-gradient", ha="right")
    return figure


# --- curves ---------------------------------------------------------------------------------------


def setting_curves(runs: dict[str, RunLog], name: str, label: str) -> Figure:
    """Plot a logged value of the settings over the epochs.

    A setting always has the same colour, whichever others are shown.
    """
    figure, axes = charts.panel()
    for setting, run in runs.items():
        colour = charts.SERIES[list(SETTINGS).index(setting)]
        axes.plot(*run.column(name), label=setting, color=colour, marker="o", markersize=3.5)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    charts.legend(
        axes,
        ncols=len(runs),
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        handlelength=1.2,
        columnspacing=1.0,
    )
    return figure


def difference_chart(differences: dict[str, tuple[float, float, float]]) -> Figure:
    """Draw a dot and an interval for each named difference (difference, low, high) in points.

    Intervals that contain 0 are grey.
    """
    figure, axes = charts.panel(4.2, 0.9 + 0.38 * len(differences))
    for k, (difference, low, high) in enumerate(differences.values()):
        colour = charts.SERIES[0] if is_clear(low, high) else charts.MUTED
        axes.plot((low, high), (k, k), color=colour, linewidth=2.2, solid_capstyle="butt")
        axes.plot(difference, k, "o", color=colour, markersize=6)
    axes.axvline(0, color=charts.INK, linewidth=1)
    axes.set(
        yticks=range(len(differences)),
        yticklabels=list(differences),
        xlabel="points of accuracy, with 95 % interval",
    )
    axes.set_ylim(len(differences) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=charts.INK)
    axes.grid(visible=False, axis="y")
    return figure


def is_clear(low: float, high: float) -> bool:
    """Whether a difference is called clear, that is, its interval does not contain 0."""
    return low > 0 or high < 0


# --- measures -------------------------------------------------------------------------------------


def answers(
    path: Path, table: Path, folder: Path, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that a checkpoint predicts for the images of a csv, and the true labels.

    Both are (N,) arrays of str, in the order of the csv file. Predictions follow the steps of
    ``p2.inference``, in float32. Raises InputError if ``path`` is not a classifier of problem 2 or
    if an image cannot be read.
    """
    truth, paths = read_labelled(table, folder)
    predict, classes, _ = predictor(path, device)
    batches = images.load(paths, data.decode, folder.name).split(
        16 if device.type == "cpu" else 128
    )
    best = np.concatenate([predict(batch).argmax(1) for batch in batches])
    return np.array(classes)[best], np.array(truth)


def digests(office: Path) -> set[str]:
    """Return the digests by which a run.json may refer to ``office/val``.

    Newer runs hash the images and labels, older ones the names, sizes and times of the files.
    """
    table = office / "train.csv"
    rows = read_rows(table, ("label",)) if table.is_file() else []
    classes = classes_of([row["label"] for row in rows])
    pixels, labels, paths, _ = data.load_labelled(office / "val.csv", office / "val", classes)
    return {digest(pixels, labels), fingerprint(paths)}


def first_backbone(seed: int) -> nn.Module:
    """Return the backbone of a pre-training with ``seed`` before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "weights"))
        return make_backbone()


def probed(
    run: RunLog, path: Path | None, probe: knn.Probe, device: torch.device
) -> dict[str, float]:
    """Return the accuracy of a kNN probe, ``knn``, and its interval, ``low`` to ``high``.

    ``path``: the file of the backbone; None for the random backbone that ``run`` started from. The
    number format and normalisation are those of ``run``, as in the probes that it logs.
    """
    backbone = first_backbone(run.metadata["seed"])
    if path:
        load_backbone(backbone, path)
    # The probe reads only these three settings.
    inputs = {name: run.metadata["recipe"][name] for name in ("mean", "std", "bf16")}
    recipe = dataclasses.replace(ORIGINAL_PRETRAIN, **inputs)
    accuracy = knn.accuracy(devices.prepare(backbone, device), probe, recipe, device)
    low, high = wilson(round(accuracy * len(probe.val_labels)), len(probe.val_labels))
    return {"knn": accuracy, "low": low, "high": high}


# --- which runs are compared ----------------------------------------------------------------------


def comparable(runs: list[RunLog]) -> dict[str, RunLog]:
    """Return the runs to compare, setting -> run, A to E: all with one recipe, seed and data.

    Of several such groups, it is the one with the most finished settings, then the most settings,
    then the most epochs. If a group has several runs of a setting, a finished one is preferred,
    then the one in the default folder, ``p2_SETTING_RECIPE``.
    """
    groups: dict[str, dict[str, list[RunLog]]] = {}
    for run in runs:
        about, setting = run.metadata, run.metadata["data"].get("setting")
        if setting in SETTINGS and not run.is_tuned:
            shared = about["recipe"], about["seed"], about["data"]["train"], about["data"]["val"]
            groups.setdefault(str(shared), {}).setdefault(setting, []).append(run)

    def rank(run: RunLog) -> tuple[bool, bool]:
        usual = f"p2_{run.metadata['data']['setting']}_{run.metadata['recipe']['name']}"
        return run.is_finished, run.name == usual

    def size(group: dict[str, RunLog]) -> tuple[int, int, int]:
        finished = sum(run.is_finished for run in group.values())
        return finished, len(group), sum(len(run.history) for run in group.values())

    chosen = (
        {setting: max(group[setting], key=rank) for setting in SETTINGS if setting in group}
        for group in groups.values()
    )
    return max(chosen, key=size, default={})


def other_starts(settings: dict[str, RunLog]) -> list[str]:
    """Return those of ``COMPARED`` that have the same start but used different backbones.

    Their run.json says which backbone each of them used.
    """
    found = []
    for name in COMPARED:
        pair = name.split(" - ")
        if set(pair) <= settings.keys() and SETTINGS[pair[0]].start == SETTINGS[pair[1]].start:
            first, second = (settings[setting].metadata["data"] for setting in pair)
            # Older runs did not record the digest of the backbone's file, only its name.
            digested = "backbone_file" in first.keys() & second.keys()
            what = "backbone_file" if digested else "backbone"
            if first[what] != second[what]:
                found.append(name)
    return found


def pretraining(runs: list[RunLog], settings: dict[str, RunLog]) -> dict[str, RunLog]:
    """Return the pre-training run of each start: byol, labels.

    It is the run that ``settings`` started from, or the longest if there is none.
    """
    kinds = {
        "byol": lambda about: "views" in about["recipe"],
        "labels": lambda about: "labels" in about["data"],
    }
    used = {Path(run.metadata["data"]["backbone"]).parent.name for run in settings.values()}
    found = {}
    for start, is_one in kinds.items():
        # Runs of the settings have labels too, so they are left out.
        of_kind = [
            run for run in runs if "setting" not in run.metadata["data"] and is_one(run.metadata)
        ]
        if of_kind:
            found[start] = max(of_kind, key=lambda run: (run.name in used, run.last["steps"]))
    return found
