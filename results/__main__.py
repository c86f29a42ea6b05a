"""The README's table of results, from the committed logs: ``python3 -m results``.

Each folder here holds the ``run.json`` and ``log.jsonl`` of a run, as its training wrote them.
"""

from __future__ import annotations

from pathlib import Path

from core.runlog import RunLog, read_all

HEADER = ("run", "recipe", "what", "last epoch", "best epoch", "minutes", "machine")
WORDS = {"mean_iou": "mIoU", "accuracy": "accuracy", "loss": "training loss"}


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
        f"**{run.last[run.watched]:.4f}** ({run.last['epoch']})",
        f"{run.best[run.watched]:.4f} ({run.best['epoch']})",
        f"{sum(line['seconds'] for line in run.history) / 60:.0f}",
        device.split(",")[-1].strip() if "threads" in device else device,
    )


if __name__ == "__main__":
    print(table())
