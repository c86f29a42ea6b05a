"""The README's table of results, from the committed logs: ``python3 -m results``.

Each folder here holds the ``run.json`` and ``log.jsonl`` of a run, as its training wrote them.
"""

from __future__ import annotations

import json
from pathlib import Path

HEADER = ("run", "recipe", "what", "last epoch", "best epoch", "minutes", "machine")
WATCHED = {"mean_iou": "mIoU", "accuracy": "accuracy", "loss": "training loss"}


def table(folder: Path = Path(__file__).parent) -> str:
    """A Markdown table with a row for every run in ``folder``."""
    rows = [HEADER, ("---",) * len(HEADER)]
    rows += [row(path.parent) for path in sorted(folder.glob("*/log.jsonl"))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(run: Path) -> tuple[str, ...]:
    about = json.loads((run / "run.json").read_text())
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    watched = next(name for name in WATCHED if name in log[-1])
    best = (min if watched == "loss" else max)(log, key=lambda line: line[watched])
    return (
        run.name,
        about["recipe"]["name"],
        WATCHED[watched],
        f"**{log[-1][watched]:.4f}** ({log[-1]['epoch']})",
        f"{best[watched]:.4f} ({best['epoch']})",
        f"{sum(line['seconds'] for line in log) / 60:.0f}",
        about["device"].split(",")[-1].strip() if "threads" in about["device"] else about["device"],
    )


if __name__ == "__main__":
    print(table())
