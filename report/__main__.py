"""Build the report from whatever runs there are: ``python3 -m report --runs runs --out runs/report``.

Writes OUT/report.html, which needs no other file, and OUT/report.md with OUT/figures/. What the report measures itself
(projections, confusions, masks) is kept in OUT/measures.json and OUT/arrays/, so that the next time takes seconds.
"""

from __future__ import annotations

from pathlib import Path

from core import devices
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write, writable_folder
from report import html, markdown, overview, problem1, problem2, problem3, runs
from report.measures import Measures, Site
from report.page import Block

TITLE = "Deep Learning for Computer Vision, homework 1: report"


def main() -> None:
    parser = Parser(prog="report", description=__doc__)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of run folders (%(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/report"), help="folder to write (%(default)s)"
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
        default=["0013", "0062", "0104"],
        help="problem 3's to show (%(default)s)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    args = parser.parse_args()
    if not args.runs.is_dir():
        raise InputError(f"no folder {args.runs}; name one with --runs")
    logs = runs.read_all(args.runs)
    if not logs:
        raise InputError(
            f"no run with a finished epoch in {args.runs}; train one (README.md, Train) or name another --runs"
        )
    writable_folder(args.out)
    site = Site(
        runs=args.runs, logs=logs, data=args.data, images=tuple(args.images), device=devices.choose(args.device),
        measures=Measures(args.out, fresh=args.fresh),
    )  # fmt: skip
    blocks = build(site)
    for name, text in (
        ("report.html", html.render(TITLE, blocks)),
        ("report.md", markdown.render(TITLE, blocks, args.out / "figures")),
    ):
        with atomic_write(args.out / name) as file:
            file.write(text.encode())
        say(f"{args.out / name}: {(args.out / name).stat().st_size / 1e6:.1f} MB")
    site.measures.close()


def build(site: Site) -> list[Block]:
    """The page's blocks."""
    sections = [part.section(site) for part in (problem1, problem2, problem3)]
    return [
        *overview.opening(site),
        *(block for section in sections for block in section),
        *overview.closing(site),
    ]


if __name__ == "__main__":
    entry(main)
