"""A checkpoint's score as graders measure it: their script on the validation images, then the
scoring program.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from core.cli import InputError

ROOT = Path(__file__).resolve().parents[1]


def graded(checkpoint: Path, problem: str, data: Path) -> tuple[float, int] | None:
    """The accuracy or mean IoU, 0..1, and the number of validation images; None if these are not
    in ``data``, a folder in the course's layout.

    Takes as long as the script does, on the CPU. Raises InputError with the script's own line if it
    refuses the images or the checkpoint.
    """
    with tempfile.TemporaryDirectory(prefix="graded.") as folder:
        answers = Path(folder, "answers")
        if problem == "p1":
            images = data / "p1_data" / "val_50"
            script, scored = [images, answers], ["-m", "p1.score", answers, images]
        elif problem == "p2":
            images, table = data / "p2_data" / "office" / "val", data / "p2_data/office/val.csv"
            script, scored = [table, images, answers], ["-m", "p2.score", answers, table]
        else:
            images = data / "p3_data" / "validation"
            script, scored = [images, answers], ["mean_iou_evaluate.py", "-g", images]
            scored += ["-p", answers]
        if not images.is_dir():
            return None
        options = ["--checkpoint", checkpoint, "--device", "cpu", "--max-minutes", "inf"]
        _run("bash", ROOT / f"hw1_{problem[1]}.sh", *script, *options)
        printed = _run(sys.executable, *scored)
        count = len(list(answers.iterdir())) if problem == "p3" else _number(r"of (\d+);", printed)
        return _number(r"(?:accuracy|mean_iou): ([\d.]+)", printed), int(count)


def _run(*command: object) -> str:
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        raise InputError(f"the validation images were not scored: {lines[-1]}")
    return ended.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"no score in {text!r}"
    return float(found[1])
