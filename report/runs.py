"""Reads what ``training.run`` wrote for a run: ``run.json``, ``log.jsonl`` and checkpoints."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core import files
from core.cli import InputError
from training import provenance
from training.history import best_line, is_over

WATCHED = {"mean_iou": max, "accuracy": max, "loss": min}  # runs are judged by the first they log
RECORDED = {  # fields that run.json must have, and their types
    "recipe": dict, "data": dict, "seed": int, "command": str, "commit": str, "device": str,
    "torch": str,
}  # fmt: skip
CHOICE = (
    "If a model has several runs, the one shown is the finished run with the best last epoch among "
    "those whose initial weights had not seen the validation images. This choice looks at "
    "validation scores, so it is slightly optimistic."
)


@dataclasses.dataclass(frozen=True)
class RunLog:
    """A run, as read from its files.

    ``metadata``: run.json. ``history``: the lines of log.jsonl, one dict an epoch, at least one.
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
    def is_tuned(self) -> bool:
        """Whether ``--tune`` was given: then the scores are those of held-out training images."""
        return "--tune" in self.metadata["command"].split()

    @property
    def is_finished(self) -> bool:
        """Whether the run completed its recipe's epochs or was stopped early by its patience."""
        recipe, better = self.metadata["recipe"], WATCHED[self.watched]
        patience, since = recipe.get("patience", 0), recipe.get("plateau_from", 0)
        return is_over(self.history, self.watched, better, recipe["epochs"], patience, since)

    @property
    def pretrained(self) -> str | None:
        """The initial weights as named by ``--pretrained``; None if they were random."""
        source = self.metadata["data"].get("pretrained", "None")
        return None if source in ("None", None) else str(source)

    @property
    def is_contaminated(self) -> bool:
        """Whether the weights descend from CIFAR-100 weights, directly or through other runs.

        All images of problem 1 are in CIFAR-100's training split. Such weights are recognised by
        the sha256 in run.json. Older runs did not record it: for them the file of the weights is
        hashed if it still exists; if not, its name decides.
        """
        data = dict(self.metadata["data"])
        if self.pretrained and not data.get("pretrained_sha256"):
            data["pretrained_sha256"] = sha256(Path(self.pretrained))
        return provenance.is_contaminated(data)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the last epoch, which may be missing."""
        return self.folder / "last.pt"

    def key(self, epoch: int | None = None) -> str:
        """Return the name under which the report keeps what it measures at ``epoch`` (the last)."""
        return f"{self.name}/epoch_{epoch or self.last['epoch']:04d}"

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Return (epochs, values) of the lines that have ``name``."""
        lines = [line for line in self.history if name in line]
        return [line["epoch"] for line in lines], [line[name] for line in lines]

    def checkpoints(self) -> dict[int, Path]:
        """Return epoch -> checkpoint: the snapshots and, for the last epoch, ``last.pt``.

        Empty if only the logs are here. The checkpoints of an epoch are written before its line in
        the log. So a run that is still training, or was killed in between, may have a snapshot
        without a line; it is left out. ``last.pt`` may then be one epoch newer than stated here,
        which only the file itself could tell; resuming the run corrects this.
        """
        last = self.last["epoch"]
        names = {
            path.stem.split("_")[1]: path for path in (self.folder / "snapshots").glob("epoch_*.pt")
        }
        found = {int(name): path for name, path in names.items() if name.isdigit()}
        kept = {epoch: found[epoch] for epoch in sorted(found) if epoch <= last}
        if self.checkpoint.is_file():
            kept[last] = self.checkpoint
        return kept

    @property
    def marks(self) -> str:
        """Notes to append to the run's score, each with a leading comma; usually empty."""
        seen = ", contaminated" if self.is_contaminated else ""
        seen += ", on held-out training images" if self.is_tuned else ""
        if self.is_finished:
            return seen
        epochs = self.metadata["recipe"]["epochs"]
        return f"{seen}, unfinished: epoch {self.last['epoch']} of {epochs}"

    @property
    def trained_epochs(self) -> int:
        """The number of epochs with steps: 0 if the recipe only measures BatchNorm's statistics."""
        return self.last["epoch"] if self.metadata["recipe"].get("lr", 1) else 0


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A checkpoint that was kept at the end of an epoch.

    ``line``: the epoch's line in the log of ``run``.
    """

    run: RunLog
    line: dict[str, Any]
    path: Path

    @property
    def key(self) -> str:
        """The name under which the report keeps what it measures."""
        return self.run.key(self.line["epoch"])


@functools.cache
def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; "" if the file cannot be read."""
    try:
        return files.sha256(path)
    except OSError:
        return ""


def read(folder: Path) -> RunLog:
    """Read the run in ``folder``.

    Raises InputError if the run cannot be read, is broken, or has no finished epoch.
    """
    try:
        metadata = json.loads((folder / "run.json").read_text())
        history = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} contains no readable run ({error})") from error
    if fault := _fault_of(metadata):
        raise InputError(f"{folder / 'run.json'} {fault}; remove or rename the folder")
    for number, line in enumerate(history, 1):
        if not isinstance(line, dict) or type(line.get("epoch")) is not int:
            fault = "has no epoch"
        elif wrong := [name for name in line if type(line[name]) not in (int, float)]:
            fault = f"says {line[wrong[0]]!r:.40} for {wrong[0]}, which is not a number"
        if fault:
            raise InputError(f"{folder / 'log.jsonl'} line {number} {fault}")
    if not history or not any(name in history[-1] for name in WATCHED):
        raise InputError(f"{folder} contains a run without a finished epoch")
    run = RunLog(folder, metadata, history)
    if missing := [line["epoch"] for line in history if run.watched not in line]:
        raise InputError(f"{folder / 'log.jsonl'} has no {run.watched} for epoch {missing[0]}")
    return run


def _fault_of(metadata: Any) -> str:
    """Say what is wrong with the content of a run.json; "" if nothing is."""
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
    for name, usual in (("epochs", None), ("patience", 0), ("plateau_from", 0)):
        if type(metadata["recipe"].get(name, usual)) is not int:
            return f"has a recipe whose {name} is not a whole number"
    return ""


def named(runs: list[RunLog], pattern: str) -> list[RunLog]:
    """Return the ``runs`` whose folder names match ``pattern``, such as ``p1_A_*``."""
    return [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]


def best_of(runs: list[RunLog]) -> RunLog | None:
    """Return the run to show for a model, by the rule ``CHOICE``; None if ``runs`` is empty.

    All ``runs`` must be judged by the same logged value. A run with ``--tune`` or one whose last
    value is NaN is chosen only if all are like that.
    """
    runs = [run for run in runs if not run.is_tuned] or runs
    runs = [run for run in runs if not math.isnan(run.last[run.watched])] or runs
    runs = [run for run in runs if not run.is_contaminated] or runs
    runs = [run for run in runs if run.is_finished] or runs
    if not runs:
        return None
    return WATCHED[runs[0].watched](runs, key=lambda run: run.last[run.watched])


def lineage(logs: list[RunLog], run: RunLog) -> list[RunLog]:
    """Return the runs among ``logs`` that led to ``run``, oldest first, and ``run`` itself.

    A run continues another one if its initial weights are that run's.
    """
    chain = [run]
    while (before := _continued(logs, chain[0])) and before not in chain:
        chain.insert(0, before)
    return chain


def _continued(logs: list[RunLog], run: RunLog) -> RunLog | None:
    name = Path(run.pretrained or "").parent.name
    if found := next((log for log in logs if log.name == name), None):
        return found
    # A copy of a run's weights, as in checkpoints/: it is known by what that run started from,
    # unless several runs started from the same file.
    start = next(iter(run.metadata["data"].get("pretrained_before", [])), None)
    known = [log for log in logs if log.metadata["data"].get("pretrained_sha256") == start]
    return known[0] if start and len(known) == 1 else None


def of_one_model(chain: list[RunLog]) -> list[RunLog]:
    """Return a ``lineage`` without the runs at its start that trained another model.

    A run's name begins with its problem and model, as in ``p1_A_hour``.
    """
    model = chain[-1].name.split("_")[:2]
    return list(itertools.dropwhile(lambda run: run.name.split("_")[:2] != model, chain))


def joined(chain: list[RunLog], name: str) -> tuple[list[int], list[float]]:
    """Return (epochs, values) of ``name`` in runs that continue one another.

    The epochs are counted through all runs. The value of a run that takes no step replaces that of
    the epoch before.
    """
    values: dict[int, float] = {}
    for run, offset in _with_offsets(chain):
        for epoch, value in zip(*run.column(name), strict=True):
            values[offset + min(epoch, run.trained_epochs)] = value
    return list(values), list(values.values())


def kept_stages(chain: list[RunLog]) -> dict[int, Stage]:
    """Return the first, a middle and the last checkpoint of runs that continue one another.

    The keys are epochs, counted as in ``joined``. Returns all checkpoints if there are at most
    three; otherwise, the middle one is the one nearest the middle epoch.
    """
    kept: dict[int, Stage] = {}
    for run, offset in _with_offsets(chain):
        lines = {line["epoch"]: line for line in run.history}
        for epoch, path in run.checkpoints().items():
            if epoch in lines:
                kept[offset + min(epoch, run.trained_epochs)] = Stage(run, lines[epoch], path)
    if len(kept) <= 3:
        return kept
    first, *between, last = kept
    middle = min(between, key=lambda epoch: abs(epoch - (first + last) / 2))
    return {epoch: kept[epoch] for epoch in (first, middle, last)}


def runs_of(stages: dict[int, Stage]) -> list[RunLog]:
    """Return the runs of ``kept_stages``, each once."""
    return list({stage.run.name: stage.run for stage in stages.values()}.values())


def _with_offsets(chain: list[RunLog]) -> Iterator[tuple[RunLog, int]]:
    """Yield each run with the number of epochs that the runs before it trained."""
    offset = 0
    for run in chain:
        yield run, offset
        offset += run.trained_epochs


def read_all(folder: Path) -> list[RunLog]:
    """Read the runs in the subfolders of ``folder``, sorted by name.

    Runs without a finished epoch are left out. So are those that ``--fresh`` set aside, whose names
    end in ``.old-1`` and so on: the user has started over.
    """
    folders = sorted(path.parent for path in folder.glob("*/log.jsonl"))
    current = [path for path in folders if not re.search(r"\.old-\d+$", path.name)]
    return [read(path) for path in current if (path / "log.jsonl").stat().st_size]
