"""Reading what a training run wrote: its ``run.json``, ``log.jsonl`` and snapshots, as
``training.run`` leaves them.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import re
from pathlib import Path
from typing import Any

from core.cli import InputError
from training import provenance
from training.run import best_line, is_over

WATCHED = {"mean_iou": max, "accuracy": max, "loss": min}  # what a run is judged by, and which way
RECORDED = {  # what run.json has to hold, and of which type
    "recipe": dict, "data": dict, "seed": int, "command": str, "commit": str, "device": str,
    "torch": str,
}  # fmt: skip
CHOICE = (
    "Of a model's runs one is shown: from weights that have not seen the validation images, then "
    "finished, where there is such a one, then with the best last epoch. So it is chosen by a "
    "validation score."
)


@dataclasses.dataclass(frozen=True)
class RunLog:
    """A run as its files tell of it.

    ``metadata``: run.json. ``history``: a dict an epoch, as in log.jsonl, at least one.
    """

    folder: Path
    metadata: dict[str, Any]
    history: list[dict[str, Any]]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def watched(self) -> str:
        """The name of the logged value that the run is judged by."""
        return next(name for name in WATCHED if name in self.history[-1])

    @property
    def last(self) -> dict[str, Any]:
        return self.history[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The line of the first epoch with the best watched value."""
        return best_line(self.history, self.watched, WATCHED[self.watched])

    @property
    def is_finished(self) -> bool:
        """Whether it went through its recipe's epochs, or its patience ended it."""
        recipe, better = self.metadata["recipe"], WATCHED[self.watched]
        patience, since = recipe.get("patience", 0), recipe.get("plateau_from", 0)
        return is_over(self.history, self.watched, better, recipe["epochs"], patience, since)

    @property
    def pretrained(self) -> str | None:
        """The file of the initial weights, or None where they were random."""
        source = self.metadata["data"].get("pretrained", "None")
        return None if source in ("None", None) else str(source)

    @property
    def is_contaminated(self) -> bool:
        """Whether its weights go back to those of CIFAR-100, in whose training split problem 1's
        images are, through however many runs.

        Known by their sha256, which run.json tells; of older runs by that of the file, where it is
        still there, and only else by its name.
        """
        data = dict(self.metadata["data"])
        if self.pretrained and not data.get("pretrained_sha256"):
            data["pretrained_sha256"] = sha256(Path(self.pretrained))
        return provenance.is_contaminated(data)

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """(epochs, values) of those lines that have ``name``."""
        lines = [line for line in self.history if name in line]
        return [line["epoch"] for line in lines], [line[name] for line in lines]

    def checkpoints(self) -> dict[int, Path]:
        """The kept checkpoints by epoch: the snapshots and, as the last one, ``last.pt``.

        Empty where only the logs are. Each has its line in the log. An epoch's checkpoints are
        written before its line: a snapshot without a line, of a run that goes on or was killed
        between the two, is left out. ``last.pt`` may then be one epoch newer than it is called
        here, which only the file itself could tell; going on puts it right.
        """
        kept = {
            int(path.stem.split("_")[1]): path
            for path in (self.folder / "snapshots").glob("epoch_*.pt")
            if path.stem.split("_")[1].isdigit()
        }
        kept = {epoch: path for epoch, path in kept.items() if epoch <= self.last["epoch"]}
        if (self.folder / "last.pt").is_file():
            kept[self.last["epoch"]] = self.folder / "last.pt"
        return dict(sorted(kept.items()))

    def stages(self) -> dict[int, Path]:
        """Of ``checkpoints`` the first, the one nearest to the middle epoch, and the last.

        All of them where they are fewer than three.
        """
        kept = self.checkpoints()
        if len(kept) <= 3:
            return kept
        first, last = min(kept), max(kept)
        middle = min(
            (epoch for epoch in kept if first < epoch < last),
            key=lambda epoch: abs(epoch - (first + last) / 2),
        )
        return {epoch: kept[epoch] for epoch in (first, middle, last)}


@functools.cache
def sha256(path: Path) -> str:
    """The digest of a file in hexadecimal digits; "" where there is none that can be read."""
    try:
        return provenance.sha256(path)
    except OSError:
        return ""


def read(folder: Path) -> RunLog:
    """Raises InputError if ``folder`` holds no run with at least one whole epoch, or a broken
    one.
    """
    try:
        metadata = json.loads((folder / "run.json").read_text())
        history = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} holds no run that can be read ({error})") from error
    if fault := _fault_of(metadata):
        raise InputError(f"{folder / 'run.json'} {fault}; remove or rename the folder")
    for number, line in enumerate(history, 1):
        if not isinstance(line, dict) or type(line.get("epoch")) is not int:
            fault = "has no epoch"
        elif wrong := [name for name in line if type(line[name]) not in (int, float)]:
            fault = f"says {line[wrong[0]]!r:.40} for {wrong[0]}, which is no number"
        if fault:
            raise InputError(f"{folder / 'log.jsonl'} line {number} {fault}")
    if not history or not any(name in history[-1] for name in WATCHED):
        raise InputError(f"{folder} holds a run without a finished epoch")
    watched = next(name for name in WATCHED if name in history[-1])
    if missing := [line["epoch"] for line in history if watched not in line]:
        raise InputError(f"{folder / 'log.jsonl'} has no {watched} for epoch {missing[0]}")
    return RunLog(folder, metadata, history)


def _fault_of(metadata: Any) -> str:
    """What is wrong with the content of a run.json, in words; "" if nothing is."""
    if not isinstance(metadata, dict):
        return "holds no record of a run"
    for name, kind in RECORDED.items():
        if name not in metadata:
            return f"has no {name}"
        if not isinstance(metadata[name], kind):
            return f"has a {name} that is a {type(metadata[name]).__name__}"
    later = metadata.get("continued", [])
    texts = ("command", "commit")
    if not isinstance(later, list) or not all(
        isinstance(start, dict) and all(isinstance(start.get(name), str) for name in texts)
        for start in later
    ):
        return "has starts under 'continued' without command or commit"
    recipe = metadata["recipe"]
    counts = {
        "epochs": recipe.get("epochs"),
        **{k: recipe.get(k, 0) for k in ("patience", "plateau_from")},
    }
    wrong = [name for name, count in counts.items() if type(count) is not int]
    return f"has a recipe whose {wrong[0]} is no whole number" if wrong else ""


def named(runs: list[RunLog], pattern: str) -> list[RunLog]:
    """Those of ``runs`` whose folders' names match ``pattern``, as ``p1_A_*``."""
    return [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]


def best_of(runs: list[RunLog]) -> RunLog | None:
    """The run that stands for a model, by the rule ``CHOICE``; None if ``runs`` is empty.

    All ``runs`` are judged by the same logged value.
    """
    runs = [run for run in runs if not run.is_contaminated] or runs
    runs = [run for run in runs if run.is_finished] or runs
    if not runs:
        return None
    return WATCHED[runs[0].watched](runs, key=lambda run: run.last[run.watched])


def read_all(folder: Path, pattern: str = "*") -> list[RunLog]:
    """The runs with at least one whole epoch in the folders of ``folder`` that match, by name.

    Without those that ``--fresh`` has set aside, whose names end in ``.old-1`` and so on: the user
    has started over.
    """
    folders = sorted(path.parent for path in folder.glob(f"{pattern}/log.jsonl"))
    current = [path for path in folders if not re.search(r"\.old-\d+$", path.name)]
    return [read(path) for path in current if (path / "log.jsonl").read_text().strip()]
