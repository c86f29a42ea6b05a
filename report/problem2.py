"""The section on problem 2: the pre-training, and the settings A to E compared image by image.

The part on pre-training is in ``problem2_pretraining``, that on the settings' differences in
``problem2_differences``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.cli import Parser
from p2.recipes import PRETRAIN, SUPERVISED
from p2.settings import SETTINGS
from report import problem2_figures as figures
from report.measures import Computed, Measured, Site
from report.original import SCORES
from report.page import Block, Code, Drawing, Gap, Grid, Heading, Table, Text, scored, unfinished
from report.problem2_differences import differences, together
from report.problem2_pretraining import (
    STARTS,
    TRAIN,
    interval,
    method,
    office,
    pretrained,
    validation,
)
from report.runs import RunLog
from training.provenance import ALIASES


def section(site: Site) -> list[Block]:
    runs = site.named("p2_*")
    settings = figures.comparable(runs)
    done = {name: run for name, run in settings.items() if run.is_finished}
    measured = {
        name: answered(site, run)
        for name, run in done.items()
        if office(site) and run.checkpoint.is_file()
    }
    return [
        Heading("Problem 2: pre-training without labels, and five settings"),
        Text(
            "A ResNet50 is pre-trained on the images of mini, either by BYOL, without labels, or "
            "in the usual way, with labels. Then it learns the classes of office in five settings, "
            "A to E. The scores here are for the data in hw1_data's p2_data. The project's own "
            "p2_data is a stand-in (Tiny-ImageNet and Caltech-101), so its scores cannot be "
            "compared one by one with the original report's, which are for the course's data.",
        ),
        *method(site),
        *pretrained(site, figures.pretraining(runs, settings)),
        *compared(site, settings, measured),
        *differences(site, done, measured),
        *curves(settings),
        *together(site, done, measured),
    ]


def train_command(name: str, settings: dict[str, RunLog]) -> str:
    """Return the command that trains setting ``name`` so that it can be compared with ``settings``.

    It uses the backbone of another setting with the same start. If there is none, the command does
    the pre-training first.
    """
    metadata = next(
        (run.metadata for run in settings.values()),
        {"recipe": {"name": "hour"}, "seed": 0, "command": ""},
    )
    recipe, seed, start = metadata["recipe"]["name"], metadata["seed"], SETTINGS[name].start
    flags = changes(metadata["command"], f"p2_{name}_{recipe}")
    command = " ".join(
        [
            f"python3 -m p2.train --setting {name} --recipe {recipe}",
            *([f"--seed {seed}"] if seed else []),
            *flags,
        ]
    )
    if start == "nothing":
        return command
    for other, run in settings.items():
        if SETTINGS[other].start == start:
            return f"{command} --backbone {shlex.quote(run.metadata['data']['backbone'])}"
    method, recipes = {"labels": ("supervised", SUPERVISED), "byol": ("byol", PRETRAIN)}[start]
    recipe = ALIASES.get(recipe, recipe)
    learned = recipe if recipe in recipes else "hour"
    data = [flag for flag in flags if flag.startswith("--data ")]
    before = " ".join([TRAIN[start].format(recipe=learned), *data])
    return f"{before} && {command} --backbone runs/p2_{method}_{learned}/last.pt"


def changes(command: str, name: str) -> list[str]:
    """Return the flags of a training's ``command`` that another setting needs too.

    They change the data set or the recipe. If the run was not in the usual folder, the other run,
    called ``name``, is to be next to it.
    """
    parser = Parser(add_help=False, allow_abbrev=False)
    for flag in ("--data", "--epochs", "--batch-size", "--run"):
        parser.add_argument(flag)
    parser.add_argument("--set", action="append", default=[])
    used, _ = parser.parse_known_args(shlex.split(command))
    flags = [
        ("--data", used.data),
        ("--epochs", used.epochs),
        ("--batch-size", used.batch_size),
        *(("--set", change) for change in used.set),
        ("--run", str(Path(used.run).parent / name) if used.run else None),
    ]
    return [f"{flag} {shlex.quote(value)}" for flag, value in flags if value]


def compared(
    site: Site, settings: dict[str, RunLog], measured: dict[str, Measured]
) -> Iterator[Block]:
    yield Heading("Settings A to E", 3)
    for name in SETTINGS:
        run = settings.get(name)
        if run is None:
            yield Gap(
                f"a run of setting {name} with the same recipe, seed and data as the others.",
                train_command(name, settings),
            )
        elif not run.is_finished:
            yield unfinished(run, ", and stays out of the differences")
    if not settings:
        return
    rows = []
    for name, run in settings.items():
        setting, backbone = SETTINGS[name], Code(run.metadata["data"]["backbone"])
        rows.append(
            {
                "setting": name,
                "pre-trained": STARTS[setting.start],
                "trained": "head only" if setting.frozen else "all",
                "last epoch": scored(run, run.last, "accuracy"),
                "95 % interval": interval(site, run, "accuracy"),
                "float32": measured[name].value("accuracy") if name in measured else "-",
                "best epoch": scored(run, run.best, "accuracy"),
                "original report": f"{SCORES[f'p2_{name}'].value:.4f}",
                "initial weights": "-" if setting.start == "nothing" else backbone,
            }
        )
    yield Table(
        "Validation accuracy, with the epoch in brackets. The interval is Wilson's, for the last "
        "epoch. The column float32 shows the accuracy of last.pt, computed as hw1_2.sh does; "
        "training may have computed in bfloat16. The best epoch was chosen on the same images, so "
        "its accuracy is too optimistic. All rows share one recipe, one seed, and the same "
        "training and validation images.",
        rows,
        tuple(settings.values()),
    )


def answered(site: Site, run: RunLog) -> Measured:
    """Predict the labels of office/val with the run's last.pt, and compare them with the truth."""
    made_from = [run.checkpoint, *validation(site)]

    def compute() -> Computed:
        labels, truth = figures.answers(*made_from, site.device)
        accuracy = np.mean(labels == truth)
        return {"accuracy": accuracy, "images": len(truth), "labels": labels, "truth": truth}

    return site.measures.of(f"{run.key()}/answers", made_from, compute)


def curves(settings: dict[str, RunLog]) -> Iterator[Block]:
    drawn = {name: run for name, run in settings.items() if len(run.history) > 1}
    if not drawn:
        return
    yield Heading("Training of the settings", 3)
    runs, names = tuple(drawn.values()), ", ".join(drawn)
    yield Grid(
        *(
            Drawing(
                figures.setting_curves(drawn, name, what),
                f"{what.capitalize()} of {names}.",
                f"{what} by epoch: {names}",
                runs,
            )
            for name, what in (("accuracy", "validation accuracy"), ("loss", "training loss"))
        )
    )
