"""The whole homework on drawn images, in minutes on a CPU: ``bash demo.sh``.

First, in seconds, the demo runs the shipped checkpoints with the three graders' scripts on a few
drawn images and scores them. Then it draws a small data set, trains each problem briefly, runs the
scripts with the new checkpoints, makes the report page and prints a table.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checkpoints.graded import SCORE, graders_commands
from core.cli import InputError, Parser, entry, say
from demo.draw import Parameters, draw_all

ROOT = Path(__file__).resolve().parents[1]
FIRST = Parameters(
    p1_train=1, p1_val=2, p2_unlabelled=1, p2_train=1, p2_val=1, p3_train=1, p3_val=12
)
DRAWING = Parameters(
    p1_train=20,
    p1_val=10,
    p2_unlabelled=256,
    p2_classes=10,
    p2_train=24,
    p2_val=10,
    p3_train=48,
    p3_val=12,
)
SILENCE = 8.0  # at most so many seconds without a line of output
# Results on two CPU cores with bfloat16. In so short a training, other rounding changes the score
# by several points.
EXPECTED = {"p1": "about 0.3", "p2": "about 0.3", "p3": "about 0.7"}


class Alive:
    """Says what is running and for how long, after every ``SILENCE`` seconds without output."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = self._spoke = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Alive:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def spoke(self) -> None:
        """Note that a line was just printed."""
        self._spoke = time.monotonic()

    def _watch(self) -> None:
        while not self._ended.wait(max(0.05, self._spoke + SILENCE - time.monotonic())):
            now = time.monotonic()
            if now - self._spoke >= SILENCE:
                say(f"... {self._what}: {now - self._start:.0f} s so far")
                self._spoke = now


class Demo:
    """Runs commands, shows them as a user would type them, and collects the table's rows."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[tuple[str, str, str, str]] = [("what", "expected", "result", "seconds")]

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Say that ``what`` begins, and record in the table how long it took."""
        start = time.perf_counter()
        say(f"\n--- {what}")
        yield
        self.rows.append((what, "", "", f"{time.perf_counter() - start:.0f}"))

    def draw(self, name: str, parameters: Parameters) -> Path:
        """Draw into the folder ``name``, unless that is done already; return the folder."""
        folder = self.out / name
        with self.timed(f"draw {name}/"), Alive(f"drawing {folder}"):
            draw_all(folder, parameters)
        return folder

    def run(self, what: str, *command: object) -> str:
        """Run a command in the repository, show its stdout, and return it.

        ``what``: the command in words. Raises InputError if the command fails.
        """
        words = [str(word) for word in command]
        say(f"\n$ {shlex.join(words)}")
        lines = []
        with (
            Alive(what) as alive,
            subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process,
        ):
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    say(line.rstrip("\n"))
                    alive.spoke()
                    lines.append(line)
            except SystemExit:  # SIGTERM; the command gets Ctrl-C itself
                process.terminate()
                raise
        if process.returncode != 0:
            raise InputError(f"'{shlex.join(words)}' ended with status {process.returncode}")
        return "".join(lines)

    def train(self, name: str, module: str, *flags: object) -> Path:
        """Train, or resume, unless the run is finished already; return the run's folder."""
        folder = self.out / "runs" / name
        data = self.out / "data" / f"{module[:2]}_data"
        command = ["python3", "-m", module, "--recipe", "demo", "--data", data, "--run", folder]
        with self.timed(f"train {name}"):
            self.run(f"training {name}", *command, *flags)
        return folder

    def grade(self, what: str, expected: str, data: Path, checkpoint: Path) -> None:
        """Run the graders' script with a checkpoint on ``data``, and record its score.

        ``data``: a drawn folder. The name of the checkpoint's file or folder gives the problem.
        """
        name = (
            checkpoint.stem if checkpoint.parent.name == "checkpoints" else checkpoint.parent.name
        )
        script, score = self._graders(name, data)
        start = time.perf_counter()
        say(f"\n--- {what}")
        self.run(f"hw1_{name[1]}.sh", *script, "--checkpoint", checkpoint)
        printed = self.run("scoring", *score)
        found = re.search(SCORE, printed)
        came_out = f"{float(found[1]):.3f}" if found else "nothing"
        self.rows.append((what, expected, came_out, f"{time.perf_counter() - start:.0f}"))

    def _graders(self, name: str, data: Path) -> tuple[list[object], list[object]]:
        """The commands to predict and to score with the run or checkpoint ``name``."""
        answers, table = self.out / "answers" / name, None
        if name.startswith("p2"):
            table = answers.with_name(f"{name}_asked.csv")
            without_labels(data / "p2_data" / "office" / "val.csv", table)
        answers = answers.with_name(f"{name}_masks" if name.startswith("p3") else f"{name}.csv")
        _, script, scoring = graders_commands(name[:2], data, answers, table)
        return script, scoring


def without_labels(table: Path, asked: Path) -> None:
    """Copy a csv with its labels replaced by ``None``, like the graders' csv."""
    with table.open(newline="") as source, asked.open("w", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        for k, row in enumerate(csv.reader(source)):
            writer.writerow(row if k == 0 else [*row[:2], "None"])


def main() -> None:
    parser = Parser(prog="demo.sh", description=__doc__)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "demo_out",
        help="output folder (%(default)s); a second run continues there",
    )
    out = parser.parse_args().out.resolve()
    start = time.perf_counter()
    (out / "answers").mkdir(parents=True, exist_ok=True)
    demo = Demo(out)

    show_shipped(demo)
    train_all(demo)
    show_report(demo)

    widths = [max(len(row[k]) for row in demo.rows) for k in range(4)]
    say("")
    for row in demo.rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        say("  ".join(cells).rstrip())
    minutes = (time.perf_counter() - start) / 60
    say(f"\ndone in {minutes:.1f} minutes on {os.cpu_count()} cores; everything is in {out}")
    say(f"open in a browser: {out / 'report' / 'report.html'}")


def show_shipped(demo: Demo) -> None:
    """Grade the shipped checkpoints on a few drawn images.

    Problems 1 and 2 can only reach chance, because the drawn classes are not those they were
    trained on. The scenes do have problem 3's classes.
    """
    data = demo.draw("first", FIRST)
    expected = {"p1": "about chance", "p2": "about chance", "p3": ""}
    for shipped in json.loads((ROOT / "checkpoints" / "manifest.json").read_text())["checkpoints"]:
        name = shipped["name"]
        what = f"{name}, shipped, on a few drawn images"
        demo.grade(what, expected[name[:2]], data, ROOT / "checkpoints" / name)


def train_all(demo: Demo) -> None:
    """Train each problem on drawn images, and grade it on other images of the same classes."""
    data = demo.draw("data", DRAWING)
    run = demo.train("p1_A_demo", "p1.train", "--model", "A")
    demo.grade("p1 A, trained here (chance 0.020)", EXPECTED["p1"], data, run / "last.pt")
    byol = demo.train("p2_byol_demo", "p2.pretrain")
    run = demo.train("p2_C_demo", "p2.train", "--setting", "C", "--backbone", byol / "last.pt")
    demo.grade("p2 C, trained here (chance 0.100)", EXPECTED["p2"], data, run / "last.pt")
    run = demo.train("p3_C_demo", "p3.train", "--model", "C")
    demo.grade("p3 C, trained further from p3_c.pt", EXPECTED["p3"], data, run / "last.pt")


def show_report(demo: Demo) -> None:
    """Make the report page of the runs, with three of the scenes."""
    scenes = sorted((demo.out / "data" / "p3_data" / "validation").glob("*_sat.jpg"))[:3]
    shown = [path.name.split("_")[0] for path in scenes]
    folders = [demo.out / "runs", "--out", demo.out / "report"]
    command = ["python3", "-m", "report", *folders, "--data", demo.out / "data"]
    with demo.timed("make the report"):
        demo.run("making the report", *command, "--images", *shown)


if __name__ == "__main__":
    sys.argv[0] = "demo.sh"
    entry(main)
