"""The README's tables of results, from the committed logs: ``python3 -m results``.

Each folder here holds the ``run.json`` and ``log.jsonl`` of a run, as its training wrote them; ``measures.json`` is what
``python3 -m report`` measured of these runs.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from core.cli import say
from report.overview import ROWS, choice, marks, missing, shown
from report.runs import RunLog, read_all

HEADER = ("run", "recipe", "what", "last epoch", "best epoch", "minutes", "machine")
WORDS = {"mean_iou": "mIoU", "accuracy": "accuracy", "loss": "training loss"}


def glance(folder: Path = Path(__file__).parent) -> str:
    """A Markdown table of the homework's figures: the original report's, and those of the runs in ``folder``.

    Where runs were chosen, the rule stands below.
    """
    logs = read_all(folder)
    runs = shown(logs)
    rows = [
        "| what | original report | here, last epoch | best epoch | run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row, (what, original) in ROWS.items():
        run = runs.get(row)
        cells = (
            (scored(run, run.last), scored(run, run.best), run.name)
            if run
            else (missing(row, runs)[0], "", "")
        )
        rows.append(f"| {' | '.join((what, original, *cells))} |")
    return "\n".join([*rows, *(["", rules] if (rules := choice(logs)) else [])])


def scored(run: RunLog, line: dict) -> str:
    return f"{line[run.watched]:.4f} ({line['epoch']}){marks(run)}"


def table(folder: Path = Path(__file__).parent) -> str:
    """A Markdown table with a row for every run in ``folder``."""
    rows = [HEADER, ("---",) * len(HEADER), *map(row, read_all(folder))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(run: RunLog) -> tuple[str, ...]:
    device = run.about["device"]
    return (
        run.name,
        run.about["recipe"]["name"],
        WORDS[run.watched],
        scored(run, run.last),
        scored(run, run.best),
        f"{sum(line['seconds'] for line in run.history) / 60:.0f}",
        device.split(",")[-1].strip() if "threads" in device else device,
    )


def differences(file: Path = Path(__file__).parent / "measures.json") -> str:
    """A Markdown table with a row for every two settings of problem 2 that the report compared."""
    rows = ["| difference | points of accuracy | 95 % interval |", "| --- | --- | --- |"]
    for key, measured in json.loads(file.read_text()).items():
        if compared := re.fullmatch(r"p2_(.)_.*/minus_p2_(.)_.*", key):
            points, low, high = (measured["numbers"][name] for name in ("points", "low", "high"))
            rows.append(
                f"| {compared[1]} - {compared[2]} | {points:+.1f} | {low:+.1f} to {high:+.1f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    say("\n\n".join((glance(), differences(), table())))
