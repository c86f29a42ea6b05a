"""Programs run in turn, what each run took, and which of their answers are the same."""

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

# Neither torch nor numpy here: a child's peak of memory, as Linux counts it, begins with the size
# of the process that starts it.
from core.cli import InputError, note

ROOT = Path(__file__).resolve().parents[1]
Command = list[object]


@dataclasses.dataclass(frozen=True)
class Use:
    """What a process took: seconds, CPU seconds of all its threads, MiB of memory at its peak."""

    wall: float
    cpu: float
    peak: float


def in_turn(
    programs: dict[str, Command], repeats: int, once: Collection[str] = ()
) -> tuple[dict[str, list[Use]], dict[str, list[str]]]:
    """Run every program ``repeats`` times in turn: what each run took, and what it printed.

    Those named in ``once`` run in the first turn only.
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
    """Run a command in the repository: what it took, its stdout. Raises InputError if it fails."""
    # python3 is the one that runs this.
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
    """Share of equal labels of two csv files. Raises InputError if they name other files."""
    first, second = (labels(path) for path in (ours, theirs))
    same_names(first, second)
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
    pairs = list(itertools.zip_longest(first, second))  # a line beside none is not equal
    return sum(a == b for a, b in pairs) / len(pairs)


def same_names(ours: Iterable[str], theirs: Iterable[str]) -> None:
    if differing := sorted(set(ours) ^ set(theirs)):
        raise InputError(
            f"only one of the two programs answered for {differing[0]} "
            f"({len(differing)} such files)"
        )
