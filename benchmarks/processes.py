"""Run programs in turn, measure each run, and compare their answers."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable
from pathlib import Path

# Do not import torch or numpy here: Linux counts the size of the parent process in a child's peak
# memory.
from core.cli import InputError, note

ROOT = Path(__file__).resolve().parents[1]
Command = list[object]


@dataclasses.dataclass(frozen=True)
class Use:
    """What a process used: seconds, CPU seconds of all its threads, peak memory in MiB."""

    wall: float
    cpu: float
    peak: float


def in_turn(
    programs: dict[str, Command], repeats: int, once: Collection[str] = ()
) -> tuple[dict[str, list[Use]], dict[str, list[str]]]:
    """Run every program ``repeats`` times in turn; return what each run used and printed.

    Programs named in ``once`` run in the first turn only.
    """
    runs: dict[str, list[Use]] = {name: [] for name in programs}
    printed: dict[str, list[str]] = {name: [] for name in programs}
    for turn in range(repeats):
        for name, command in programs.items():
            if turn and name in once:
                continue
            use, text = measure(name, command)
            runs[name].append(use)
            printed[name].append(text)
            note(f"run {turn + 1} of {repeats}: {name} {use.wall:.2f} s")
    return runs, printed


def measure(name: str, command: Command) -> tuple[Use, str]:
    """Run a command in the repository; return its use and stdout. Raises InputError if it fails."""
    # Make python3 the interpreter that runs this program.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
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


# --- comparing ------------------------------------------------------------------------------------


def same_rows(ours: Path, theirs: Path) -> float:
    """The share of equal labels in two csv files. Raises InputError if the file names differ."""
    first, second = (labels(path) for path in (ours, theirs))
    same_names(first, second)
    return sum(first[name] == second[name] for name in first) / len(first)


def labels(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["filename"]: row["label"] for row in csv.DictReader(file)}


def same_pixels(ours: Path, theirs: Path) -> float:
    """The share of equal pixels in two mask folders. Raises InputError if names or sizes differ."""
    import numpy as np
    from PIL import Image

    names = sorted(path.name for path in ours.iterdir())
    same_names(names, [path.name for path in theirs.iterdir()])
    equal = count = 0
    for name in names:
        first, second = (np.asarray(Image.open(folder / name)) for folder in (ours, theirs))
        if first.shape != second.shape:
            raise InputError(f"the two programs' {name} differ in size; nothing can be compared")
        pixels = (first == second).all(axis=-1)
        equal, count = equal + int(pixels.sum()), count + pixels.size
    return equal / count


def same_lines(ours: str, theirs: str) -> float:
    """The share of equal lines in two texts; empty lines do not count."""
    first, second = ([line for line in text.splitlines() if line] for text in (ours, theirs))
    pairs = list(itertools.zip_longest(first, second))  # a surplus line is not equal to anything
    return sum(a == b for a, b in pairs) / len(pairs)


def same_names(ours: Iterable[str], theirs: Iterable[str]) -> None:
    if differing := sorted(set(ours) ^ set(theirs)):
        raise InputError(
            f"only one of the two programs answered for {differing[0]} "
            f"({len(differing)} such files)"
        )
