"""Reading what a training run wrote: its ``run.json``, ``log.jsonl`` and snapshots, as ``core.run`` leaves them."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

from core.cli import InputError
from core.run import best_line, is_over

WATCHED = {"mean_iou": max, "accuracy": max, "loss": min}  # what a run is judged by, and which way


@dataclasses.dataclass(frozen=True)
class RunLog:
    """A run as its files tell of it. ``about``: run.json. ``history``: a dict an epoch, as in log.jsonl, at least one."""

    folder: Path
    about: dict[str, Any]
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
        recipe, better = self.about["recipe"], WATCHED[self.watched]
        patience, since = recipe.get("patience", 0), recipe.get("plateau_from", 0)
        return is_over(self.history, self.watched, better, recipe["epochs"], patience, since)

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """(epochs, values) of those lines that have ``name``."""
        lines = [line for line in self.history if name in line]
        return [line["epoch"] for line in lines], [line[name] for line in lines]

    def checkpoints(self) -> dict[int, Path]:
        """The kept checkpoints by epoch: the snapshots and, as the last one, ``last.pt``. Empty where only the logs are.

        Each has its line in the log. An epoch's checkpoints are written before its line: of a run that goes on, or was
        killed between the two, a snapshot without a line is left out. ``last.pt`` may then be one epoch newer than it is
        called here, which only the file itself could tell; going on puts it right.
        """
        kept = {
            int(path.stem.split("_")[1]): path
            for path in (self.folder / "snapshots").glob("epoch_*.pt")
        }
        kept = {epoch: path for epoch, path in kept.items() if epoch <= self.last["epoch"]}
        if (self.folder / "last.pt").is_file():
            kept[self.last["epoch"]] = self.folder / "last.pt"
        return dict(sorted(kept.items()))

    def stages(self) -> dict[int, Path]:
        """Of ``checkpoints``, the first, the one nearest to the middle epoch, and the last: three, or as many as there are."""
        kept = self.checkpoints()
        if len(kept) <= 3:
            return kept
        first, last = min(kept), max(kept)
        middle = min(
            (epoch for epoch in kept if first < epoch < last),
            key=lambda epoch: abs(epoch - (first + last) / 2),
        )
        return {epoch: kept[epoch] for epoch in (first, middle, last)}


def read(folder: Path) -> RunLog:
    """Raises InputError if ``folder`` holds no run with at least one whole epoch."""
    try:
        about = json.loads((folder / "run.json").read_text())
        history = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no run that can be read ({error})") from error
    if not history or not any(name in history[-1] for name in WATCHED):
        raise InputError(f"{folder} holds a run without a finished epoch")
    return RunLog(folder, about, history)


def named(runs: list[RunLog], pattern: str) -> list[RunLog]:
    """Those of ``runs`` whose folders' names match ``pattern``, as ``p1_A_*``."""
    return [run for run in runs if fnmatch.fnmatchcase(run.name, pattern)]


def best_of(runs: list[RunLog]) -> RunLog | None:
    """Of ``runs``, all judged by the same value, the one with the best last epoch, a finished one if there is any.

    None of none.
    """
    able = [run for run in runs if run.is_finished] or runs
    return WATCHED[able[0].watched](able, key=lambda run: run.last[run.watched]) if able else None


def read_all(folder: Path, pattern: str = "*") -> list[RunLog]:
    """The runs with at least one whole epoch in the folders of ``folder`` that match ``pattern``, by name.

    Without those that ``--fresh`` has set aside, whose names end in ``.old-1`` and so on: the user has started over.
    """
    found = sorted(path.parent for path in folder.glob(f"{pattern}/log.jsonl"))
    current = [path for path in found if not re.search(r"\.old-\d+$", path.name)]
    return [read(path) for path in current if (path / "log.jsonl").read_text().strip()]
