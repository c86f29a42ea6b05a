"""Print the tables of results, made from the committed logs: ``python3 -m results``.

Each folder here contains the ``run.json`` and ``log.jsonl`` that a training wrote;
``measures.json`` contains what ``python3 -m report`` measured for these runs. ``--write`` updates
the tables in README.md and results/README.md, between the marks that name them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from core.cli import InputError, Parser, entry, say
from core.files import atomic_write
from report.overview import ROWS, WORDS, choice, missing, original, shown
from report.runs import RunLog, lineage, read_all
from training.provenance import machines

FOLDER = Path(__file__).parent
PAGES = (FOLDER.parent / "README.md", FOLDER / "README.md")
HEADER = ("run", "recipe", "what", "last epoch", "best epoch", "minutes", "machine")


def main() -> None:
    parser = Parser(prog="results", description=__doc__)
    parser.add_argument("--write", action="store_true", help="update the tables in the pages")
    args = parser.parse_args()
    tables = {
        "scores": glance(),
        "stages": stages(),
        "differences": differences(),
        "runs": table(),
    }
    if not args.write:
        say("\n\n".join(tables.values()))
        return
    for page in PAGES:
        text = with_tables(page.read_text(encoding="utf-8"), tables, page)
        with atomic_write(page) as file:
            file.write(text.encode())
        say(f"wrote {page.relative_to(FOLDER.parent)}")


def with_tables(text: str, tables: dict[str, str], source: Path) -> str:
    """``text`` with each table updated between the marks ``<!-- NAME -->`` and ``<!-- end -->``.

    Raises InputError if the page ``source`` has a mark for an unknown table, or no marks.
    """

    def made_anew(found: re.Match) -> str:
        if found[1] not in tables:
            raise InputError(
                f"{source} has marks for an unknown table {found[1]!r}; "
                f"choose from {', '.join(tables)}"
            )
        return f"<!-- {found[1]} -->\n{tables[found[1]]}\n<!-- end -->"

    text, count = re.subn(r"<!-- (\w+) -->\n.*?<!-- end -->", made_anew, text, flags=re.DOTALL)
    if not count:
        raise InputError(
            f"{source} has no marks for a table, such as <!-- scores --> and <!-- end -->"
        )
    return text


def glance(folder: Path = FOLDER) -> str:
    """A Markdown table of the homework's scores: the original report's and those of our runs.

    If runs were selected, the rule is given below the table.
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


def stages(folder: Path = FOLDER) -> str:
    """A Markdown table of the runs, one after another, that made the weights shown by ``glance``.

    Without the models that a single run made.
    """
    logs = read_all(folder)
    rows = ["| what | runs, with their epochs | epochs | minutes |", "| --- | --- | --- | --- |"]
    for row, run in shown(logs).items():
        chain = lineage(logs, run)
        if len(chain) == 1:
            continue
        named = [f"{one.name} ({one.trained_epochs or 'no step'})" for one in chain]
        epochs = sum(one.trained_epochs for one in chain)
        minutes = sum(line["seconds"] for one in chain for line in one.history) / 60
        rows.append(f"| {ROWS[row]} | {', '.join(named)} | {epochs} | {minutes:.0f} |")
    return "\n".join(rows)


def scores(run: RunLog) -> tuple[str, str]:
    """The last epoch's score with its notes, and the best epoch's score."""
    last, best = (f"{line[run.watched]:.4f} ({line['epoch']})" for line in (run.last, run.best))
    return f"{last}{run.marks}", best


def table(folder: Path = FOLDER) -> str:
    """A Markdown table with a row for each run in ``folder``."""
    rows = [HEADER, ("---",) * len(HEADER), *map(row, read_all(folder))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def row(run: RunLog) -> tuple[str, ...]:
    return (
        run.name,
        run.metadata["recipe"]["name"],
        WORDS[run.watched],
        *scores(run),
        f"{sum(line['seconds'] for line in run.history) / 60:.0f}",
        machines(run.metadata, short=True),
    )


def differences(file: Path = FOLDER / "measures.json") -> str:
    """A Markdown table with a row for each pair of settings that the report compared."""
    rows = ["| difference | points of accuracy | 95 % interval |", "| --- | --- | --- |"]
    for key, measured in json.loads(file.read_text()).items():
        if compared := re.fullmatch(r"p2_(.)_.*/minus_p2_(.)_.*", key):
            points, low, high = (measured["numbers"][name] for name in ("points", "low", "high"))
            interval = f"{low:+.1f} to {high:+.1f}"
            rows.append(f"| {compared[1]} - {compared[2]} | {points:+.1f} | {interval} |")
    return "\n".join(rows)


if __name__ == "__main__":
    entry(main)
