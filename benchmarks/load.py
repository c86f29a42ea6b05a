"""Measure memory and open files as the number of images grows: ``python3 -m benchmarks.load``.

Each of the graders' scripts runs on a tenth of ``IMAGES`` and on all of them; they are links to a
few drawn images. Problem 1 runs with model A, the others with their default networks. Mirror images
and turns are off, because this measures memory and not speed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.__main__ import draw
from benchmarks.processes import ROOT
from core.cli import InputError, Parser, entry, say

IMAGES = {"p1": 100_000, "p2": 20_000, "p3": 2_000}
DIFFERENT = 20  # drawn images; the others are links to them
CHECKPOINTS = {"p1": "p1_a.pt", "p2": "p2_c.pt", "p3": "p3_c.pt"}
EVERY = 0.2  # seconds between two counts of the open files


def main() -> None:
    parser = Parser(prog="benchmarks.load", description=__doc__)
    parser.add_argument("problems", nargs="*", metavar="PROBLEM", help=f"{', '.join(IMAGES)} (all)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the images (%(default)s)"
    )
    args = parser.parse_args()
    if foreign := set(args.problems) - set(IMAGES):
        parser.error(
            f"unknown problem {', '.join(sorted(foreign))}; choose from {', '.join(IMAGES)}"
        )
    say("| problem | images | seconds | peak MiB | most open files |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="load.") as folder:
        for problem in args.problems or IMAGES:
            images = Path(folder, problem)
            draw(problem, images, DIFFERENT)
            for count in (IMAGES[problem] * args.share / 10, IMAGES[problem] * args.share):
                source = Path(folder, f"{problem}_{count:.0f}")
                draw("grown", source, max(2, round(count)), images)
                say(f"| {problem} | {max(2, round(count)):,} | {observed(problem, source)} |")


def observed(problem: str, images: Path) -> str:
    """The table cells for one run of the problem's script. Raises InputError if it fails."""
    table = [images.with_suffix(".csv")] if problem == "p2" else []
    output = images.with_name(f"{images.name}_out")
    command = ["bash", ROOT / f"hw1_{problem[1]}.sh", *table, images, output, "--device", "cpu"]
    command += ["--no-flip", *(["--no-rotate"] if problem == "p3" else []), "--max-minutes", "inf"]
    command += ["--checkpoint", ROOT / "checkpoints" / CHECKPOINTS[problem]]
    start, files, status = time.perf_counter(), 0, None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=errors
        )
        while status is None:
            time.sleep(EVERY)
            files = max(files, open_files(process.pid))
            ended, ended_with, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                status = process.returncode = os.waitstatus_to_exitcode(ended_with)
        if status:
            errors.seek(0)
            raise InputError(f"hw1_{problem[1]}.sh: {errors.read().decode(errors='replace')}")
    seconds = time.perf_counter() - start
    return f"{seconds:.0f} | {usage.ru_maxrss / 1024:.0f} | {files}"


def open_files(process: int) -> int:
    """How many files a process has open; the script ends in ``exec``, so it keeps bash's id."""
    try:
        return len(os.listdir(f"/proc/{process}/fd"))
    except OSError:  # the process has ended
        return 0


if __name__ == "__main__":
    entry(main)
