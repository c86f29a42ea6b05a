"""Build the report from a folder of runs: ``python3 -m report runs``.

Writes OUT/report.html, which needs no other file, and OUT/report.md with OUT/figures/. What the
report measures itself (projections, confusion matrices, masks) is cached in OUT/measures.json and
OUT/arrays/, so the next build takes seconds. Checkpoints and data may be missing:
``python3 -m report results`` builds a page from the committed logs alone.
"""

from __future__ import annotations

from pathlib import Path

from core import devices
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write, writable_folder
from report import html, markdown, original, overview, problem1, problem2, problem3, runs
from report.measures import Measures, Site
from report.page import Block

TITLE = "Deep Learning for Computer Vision, homework 1: report"


def main() -> None:
    parser = Parser(prog="report", description=__doc__)
    parser.add_argument(
        "folder",
        type=Path,
        nargs="?",
        default=Path("runs"),
        help="folder of run folders (%(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write (runs/report; of other runs runs/report_FOLDER)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("hw1_data"),
        help="folder in the course's layout (%(default)s)",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        default=list(original.MASKS),
        help="problem 3's to show (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    args = parser.parse_args()
    folder = args.folder
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give a folder that contains runs")
    logs = runs.read_all(folder)
    if not logs:
        raise InputError(
            f"no run with a finished epoch in {folder}; train one (README.md, Train) or give "
            "another folder"
        )
    own = folder.resolve() == Path("runs").resolve()
    usual = "runs/report" if own else f"runs/report_{folder.resolve().name}"
    out = writable_folder(args.out or Path(usual))
    site = Site(
        logs=logs,
        data=args.data,
        images=tuple(args.images),
        device=devices.choose(args.device),
        measures=Measures(out, fresh=args.fresh),
    )
    blocks = build(site)
    for file_name, text in (
        ("report.html", html.render(TITLE, blocks)),
        ("report.md", markdown.render(TITLE, blocks, out / "figures")),
    ):
        with atomic_write(out / file_name) as file:
            file.write(text.encode())
        say(f"{out / file_name}: {(out / file_name).stat().st_size / 1e6:.1f} MB")
    site.measures.close()


def build(site: Site) -> list[Block]:
    """Return the blocks of the whole page, in order."""
    sections = [part.section(site) for part in (problem1, problem2, problem3)]
    return [
        *overview.opening(site),
        *(block for section in sections for block in section),
        *overview.closing(site),
    ]


if __name__ == "__main__":
    entry(main)
