"""The tables of results, from the committed logs: ``python3 -m results``.

Each folder here holds the ``run.json`` and ``log.jsonl`` of a run, as its training wrote them;
``measures.json`` is what ``python3 -m report`` measured of these runs. With ``--chart FOLDER`` the chart
of all scores is drawn too, as FOLDER/scores-light.svg and FOLDER/scores-dark.svg.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from core.cli import Parser, entry, say
from core.files import atomic_write, writable_folder
from report import charts
from report.overview import ROWS, chart, choice, marks, missing, original, shown
from report.runs import RunLog, read_all

FOLDER = Path(__file__).parent
HEADER = ("run", "recipe", "what", "last epoch", "best epoch", "minutes", "machine")
WORDS = {"mean_iou": "mIoU", "accuracy": "accuracy", "loss": "training loss"}


def main() -> None:
    parser = Parser(prog="results", description=__doc__)
    parser.add_argument("--chart", type=Path, metavar="FOLDER", help="draw the chart of all scores")
    args = parser.parse_args()
    if args.chart:
        drawn = chart(shown(read_all(FOLDER)))
        for theme in ("light", "dark"):
            path = writable_folder(args.chart) / f"scores-{theme}.svg"
            with atomic_write(path) as file:
                file.write(charts.standalone(drawn, dark=theme == "dark").encode())
            say(f"wrote {path}")
    else:
        say("\n\n".join((glance(), differences(), table())))


def glance(folder: Path = FOLDER) -> str:
    """A Markdown table of the homework's figures: the original report's, and those of the runs here.

    Where runs were chosen, the rule stands below.
    """
    logs = read_all(folder)
    runs = shown(logs)
    rows = [
        "| what | original report | here, last epoch | best epoch | run |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row, what in ROWS.items():
        run = runs.get(row)
        cells = (*scores(run), run.name) if run else (missing(row, runs)[0], "", "")
        rows.append(f"| {' | '.join((what, original(row), *cells))} |")
    return "\n".join([*rows, *(["", rules] if (rules := choice(logs)) else [])])


def scores(run: RunLog) -> tuple[str, str]:
    """The last epoch's score, with what has to stand beside it, and the best epoch's."""
    last, best = (f"{line[run.watched]:.4f} ({line['epoch']})" for line in (run.last, run.best))
    return f"{last}{marks(run)}", best


def table(folder: Path = FOLDER) -> str:
    """A Markdown table with a row for every run in ``folder``."""
    rows = [HEADER, ("---",) * len(HEADER), *map(row, read_all(folder))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(run: RunLog) -> tuple[str, ...]:
    device = run.metadata["device"]
    return (
        run.name,
        run.metadata["recipe"]["name"],
        WORDS[run.watched],
        *scores(run),
        f"{sum(line['seconds'] for line in run.history) / 60:.0f}",
        device.split(",")[-1].strip() if "threads" in device else device,
    )


def differences(file: Path = FOLDER / "measures.json") -> str:
    """A Markdown table with a row for every two settings of problem 2 that the report compared."""
    rows = ["| difference | points of accuracy | 95 % interval |", "| --- | --- | --- |"]
    for key, measured in json.loads(file.read_text()).items():
        if compared := re.fullmatch(r"p2_(.)_.*/minus_p2_(.)_.*", key):
            points, low, high = (measured["numbers"][name] for name in ("points", "low", "high"))
            interval = f"{low:+.1f} to {high:+.1f}"
            rows.append(f"| {compared[1]} - {compared[2]} | {points:+.1f} | {interval} |")
    return "\n".join(rows)


if __name__ == "__main__":
    entry(main)
