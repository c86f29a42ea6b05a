"""Measure our programs beside others, whole processes in turn: ``python3 -m benchmarks inference|metric ...``.

Every program is run ``--repeats`` times, one after the other (A B A B ...), so that a machine that is slow for a while is slow
for all of them. A line a program says the medians of wall time, of CPU time (user and system, all threads) and of the peak
of resident memory; the medians of our time by its time in the same turn; and the share of its answers that are ours.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

# Neither torch nor numpy here: a child's peak of memory, as Linux counts it, begins with the size of the process that
# starts it.
from core.cli import InputError, Parser, entry, positive

ROOT = Path(__file__).resolve().parents[1]
NAIVE_BATCH = {"p1": 32, "p2": 32, "p3": 8}
HEADER = f"{'program':<9}{'wall s':>9}{'CPU s':>9}{'peak MiB':>10}{'ours / it: wall':>17}{'CPU':>7}{'identical':>11}"


@dataclasses.dataclass(frozen=True)
class Use:
    """What a process took: seconds of wall time, seconds of CPU time in all its threads, MiB of memory at its peak."""

    wall: float
    cpu: float
    peak: float


def main() -> None:
    args = arguments()
    what = f"{args.problem} inference" if args.what == "inference" else args.what
    cores, load = os.cpu_count(), os.getloadavg()[0]
    print(
        f"{what}: medians over {args.repeats} turns, on {cores} cores with a load of {load:.1f} before",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="benchmarks.") as folder:
        programs, identical = (inference if args.what == "inference" else metric)(
            args, Path(folder)
        )
        runs, printed = in_turn(programs, args.repeats)
        shares = identical(printed)
    print(table(runs, shares))


def arguments() -> argparse.Namespace:
    parser = Parser(prog="python3 -m benchmarks", description=__doc__)
    what = parser.add_subparsers(dest="what", required=True)
    ours = what.add_parser("inference", help="hw1_N.sh beside the naive way, on the CPU")
    ours.add_argument("--problem", choices=list(NAIVE_BATCH), default="p1", help="%(default)s")
    ours.add_argument("--checkpoint", type=Path, required=True)
    ours.add_argument("--images", type=Path, required=True, help="folder of images")
    ours.add_argument("--table", type=Path, help="p2: csv with the columns id and filename")
    ours.add_argument("--batch-size", type=positive, help="of the naive way (p1 and p2 32, p3 8)")
    masks = what.add_parser(
        "metric", help="mean_iou_evaluate.py beside decoding alone and the naive way"
    )
    masks.add_argument(
        "-g", "--labels", type=Path, required=True, metavar="FOLDER", help="the true masks, *.png"
    )
    masks.add_argument(
        "-p",
        "--pred",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the predicted masks, same names",
    )
    for command in (ours, masks):
        command.add_argument(
            "--repeats", type=positive, default=3, help="of every program (%(default)s)"
        )
    args = parser.parse_args()
    if args.what == "inference" and (args.problem == "p2") != (args.table is not None):
        raise InputError("--table CSV belongs to --problem p2, and p2 needs it")
    return args


Programs = dict[str, list[object]]  # commands by name, ours first
Shares = Callable[
    [dict[str, str]], dict[str, float]
]  # from what each printed: share of answers that are ours


def inference(args: argparse.Namespace, folder: Path) -> tuple[Programs, Shares]:
    images, checkpoint = args.images.resolve(), args.checkpoint.resolve()
    ours, naive = folder / "ours", folder / "naive"
    table = [args.table.resolve()] if args.table else []
    batch_size = args.batch_size or NAIVE_BATCH[args.problem]
    programs = {
        "ours": ["bash", f"hw1_{args.problem[1]}.sh", *table, images, ours, "--checkpoint", checkpoint, "--device", "cpu"],
        "naive": [
            "python3", "-m", "benchmarks.naive", args.problem, "--checkpoint", checkpoint, "--images", images,
            "--output", naive, "--batch-size", batch_size, *(["--table", *table] if table else []),
        ],
    }  # fmt: skip
    share = same_pixels if args.problem == "p3" else same_rows
    return programs, lambda printed: {"naive": share(ours, naive)}


def metric(args: argparse.Namespace, folder: Path) -> tuple[Programs, Shares]:
    folders = ["-g", args.labels.resolve(), "-p", args.pred.resolve()]
    programs = {
        "ours": ["python3", "mean_iou_evaluate.py", *folders],
        "decode": ["python3", "-m", "benchmarks.metric", "decode", *folders],
        "naive": ["python3", "-m", "benchmarks.metric", "naive", *folders],
    }
    return programs, lambda printed: {"naive": same_lines(printed["ours"], printed["naive"])}


# --- running ----------------------------------------------------------------------------------------------------------


def in_turn(programs: Programs, repeats: int) -> tuple[dict[str, list[Use]], dict[str, str]]:
    """Run every program ``repeats`` times in turn: what each run took, and what each program printed last."""
    runs: dict[str, list[Use]] = {name: [] for name in programs}
    printed = {}
    for turn in range(repeats):
        for name, command in programs.items():
            use, printed[name] = measure(name, command)
            runs[name].append(use)
            print(f"run {turn + 1} of {repeats}: {name} {use.wall:.2f} s", file=sys.stderr)
    return runs, printed


def measure(name: str, command: list[object]) -> tuple[Use, str]:
    """Run a command in the repository to its end: what it took, and its stdout. Raises InputError if it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # python3 is the one that runs this
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, "PATH": path},
            stdout=out,
            stderr=err,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            said = err.read().decode(errors="replace").strip().splitlines() or ["nothing on stderr"]
            raise InputError(
                f"the program {name!r} ended with status {process.returncode}: {said[-1]}"
            )
        return Use(
            wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        ), out.read().decode()


def table(runs: dict[str, list[Use]], shares: dict[str, float]) -> str:
    """A line a program; ours is the first of ``runs``."""
    ours = next(iter(runs.values()))
    lines = [HEADER]
    for name, uses in runs.items():
        wall, cpu, peak = (
            median(getattr(use, field) for use in uses) for field in ("wall", "cpu", "peak")
        )
        by_wall = median(mine.wall / its.wall for mine, its in zip(ours, uses, strict=True))
        by_cpu = median(mine.cpu / its.cpu for mine, its in zip(ours, uses, strict=True))
        same = f"{100 * shares[name]:.3f} %" if name in shares else "-"
        lines.append(
            f"{name:<9}{wall:9.2f}{cpu:9.2f}{peak:10.0f}{by_wall:17.3f}{by_cpu:7.3f}{same:>11}"
        )
    return "\n".join(lines)


# --- comparing --------------------------------------------------------------------------------------------------------


def same_rows(ours: Path, theirs: Path) -> float:
    """Share of equal labels of two csv files with the columns filename and label. Raises InputError at other names."""
    first, second = (labels(path) for path in (ours, theirs))
    same_names(first.keys(), second.keys())
    return sum(first[name] == second[name] for name in first) / len(first)


def labels(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["filename"]: row["label"] for row in csv.DictReader(file)}


def same_pixels(ours: Path, theirs: Path) -> float:
    """Share of equal pixels of two folders of masks. Raises InputError at other names or sizes."""
    import numpy as np
    from PIL import Image

    names = sorted(path.name for path in ours.iterdir())
    same_names(names, [path.name for path in theirs.iterdir()])
    equal = count = 0
    for name in names:
        first, second = (np.asarray(Image.open(folder / name)) for folder in (ours, theirs))
        if first.shape != second.shape:
            raise InputError(
                f"the two programs' {name} are not of one size; nothing can be compared"
            )
        pixels = (first == second).all(axis=-1)
        equal, count = equal + int(pixels.sum()), count + pixels.size
    return equal / count


def same_lines(ours: str, theirs: str) -> float:
    """Share of equal lines of two texts; empty ones do not count."""
    first, second = ([line for line in text.splitlines() if line] for text in (ours, theirs))
    return sum(a == b for a, b in zip(first, second, strict=False)) / max(len(first), len(second))


def same_names(ours: object, theirs: object) -> None:
    if differing := sorted(set(ours) ^ set(theirs)):
        raise InputError(
            f"only one of the two programs answered for {differing[0]} ({len(differing)} such files)"
        )


if __name__ == "__main__":
    sys.argv[0] = "benchmarks"
    entry(main)
