"""Kill trainings at random moments and compare their ends: ``python3 -m tests.crash``.

Each of the four training loops runs once unbroken. Then the same run is killed by SIGKILL
``--kills`` times and started again, each time after 0.2 to 1.0 times as long as an unbroken run
takes. In the end all that it leaves (the state, the checkpoints, the log) must be the unbroken
run's, but for times and commands. On the CPU.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from core.cli import InputError, Parser, entry, positive
from demo.draw import Parameters, draw_all

ROOT = Path(__file__).resolve().parents[1]
DRAWING = Parameters(
    p1_train=2, p1_val=1, p2_unlabelled=24, p2_train=1, p2_val=1, p3_train=8, p3_val=2, size=64
)
VOLATILE = ("seconds", "command")
SHARED = ("--device", "cpu", "--save-minutes", "0")  # saves after every step
LOOPS = {
    "p1": "p1.train p1_data --recipe hour --epochs 3 --batch-size 20",
    "byol": "p2.pretrain p2_data --recipe hour --epochs 2 --batch-size 8",
    "p2": "p2.train p2_data --recipe hour --setting A --epochs 2 --batch-size 16",
    "p3": "p3.train p3_data --recipe original --epochs 4 --batch-size 2",
}


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument("--kills", type=positive, default=25, help="of each loop (%(default)s)")
    parser.add_argument("--loops", nargs="+", choices=list(LOOPS), default=list(LOOPS), help="all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    survived = 0
    with tempfile.TemporaryDirectory(prefix="crash.") as folder:
        draw_all(Path(folder) / "data", DRAWING)
        for loop in args.loops:
            survived += hold(loop, Path(folder), args.kills, moments)
    total = args.kills * len(args.loops)
    print(f"{survived} of {total} kills survived, each end bit-identical to the unbroken run's")
    return 0 if survived == total else 1


def hold(loop: str, folder: Path, kills: int, moments: random.Random) -> int:
    """Kill and resume one loop. Returns the kills survived; 0 if the end differs."""
    start = time.monotonic()
    unbroken, broken = folder / f"{loop}_unbroken", folder / f"{loop}_broken"
    finish(begin(loop, folder, unbroken))
    length = time.monotonic() - start
    done = 0
    while done < kills:
        from_the_start, began = not broken.exists(), time.monotonic()
        process = begin(loop, folder, broken)
        try:
            process.wait(timeout=moments.uniform(0.2, 1.0) * length)
            finish(process)  # it had come to its end before: begin it anew
            if difference := differing(unbroken, broken):
                print(f"{loop}: after {done} kills, {difference}")
                return 0
            shutil.rmtree(broken)
            if from_the_start:
                length = min(
                    length, time.monotonic() - began
                )  # the machine was busier when it was measured
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            done += 1
    finish(begin(loop, folder, broken))
    difference = differing(unbroken, broken)
    print(
        f"{loop}: {done} kills, {difference or 'the end is bit-identical'} "
        f"({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    return 0 if difference else done


def begin(loop: str, folder: Path, run: Path) -> subprocess.Popen:
    module, data, *flags = LOOPS[loop].split()
    places = ["--data", folder / "data" / data, "--run", run]
    command = [sys.executable, "-m", module, *places, *flags, *SHARED]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> None:
    error = process.communicate()[1].decode()
    if process.returncode != 0:
        raise InputError(f"a training ended with status {process.returncode}: {error[-300:]}")


def differing(unbroken: Path, broken: Path) -> str:
    """In words, where the two runs' files differ; empty if they do not."""
    return next(iter(_differing(contents(unbroken), contents(broken), "run")), "")


def contents(run: Path) -> dict[str, object]:
    """All that a run has left but ``run.json``, which tells of its starts, by the files' names."""
    files = {
        str(path.relative_to(run)): torch.load(path, weights_only=True)
        for path in run.rglob("*.pt")
    }
    lines = (run / "log.jsonl").read_text().splitlines()
    return files | {"log.jsonl": [json.loads(line) for line in lines]}


def _differing(one: object, other: object, name: str) -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        keys = [key for key in one if key not in VOLATILE]
        return [
            found for key in keys for found in _differing(one[key], other[key], f"{name}.{key}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [
            found
            for k, pair in enumerate(zip(one, other, strict=True))
            for found in _differing(*pair, f"{name}.{k}")
        ]
    same = (
        torch.equal(one, other)
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
        else one == other
    )
    return [] if same else [f"{name} differs"]


if __name__ == "__main__":
    entry(main)
