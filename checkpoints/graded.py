"""Score a checkpoint as the graders do: run their script on the validation images, then score."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from core.cli import InputError

ROOT = Path(__file__).resolve().parents[1]
SCORE = r"(?:accuracy|mean_iou): (\S+)"  # as the scoring programs print it


def graded(checkpoint: Path, problem: str, data: Path) -> tuple[float, int] | None:
    """The accuracy or mean IoU, 0..1, and the number of validation images.

    None if ``data``, a folder in the course's layout, does not contain these images. The script
    runs on the CPU. Raises InputError with the script's error message if the script fails.
    """
    with tempfile.TemporaryDirectory(prefix="graded.") as folder:
        answers = Path(folder, "answers")
        images, script, scoring = graders_commands(problem, data, answers)
        if not images.is_dir():
            return None
        options = ["--checkpoint", checkpoint, "--device", "cpu", "--max-minutes", "inf"]
        _run(*script, *options)
        printed = _run(*scoring)
        count = len(list(answers.iterdir())) if problem == "p3" else _number(r"of (\d+);", printed)
        return _number(SCORE, printed), int(count)


def graders_commands(
    problem: str, data: Path, answers: Path, table: Path | None = None
) -> tuple[Path, list[object], list[object]]:
    """The validation images of ``problem`` in ``data``, and the commands to predict and to score.

    Run the commands in the repository. The first one writes ``answers``. ``table``: the csv that
    problem 2's script reads (``val.csv``).
    """
    if problem == "p1":
        images = data / "p1_data" / "val_50"
        script, scoring = [images, answers], ["-m", "p1.score", answers, images]
    elif problem == "p2":
        truth = data / "p2_data" / "office" / "val.csv"
        images = truth.with_suffix("")
        script, scoring = [table or truth, images, answers], ["-m", "p2.score", answers, truth]
    else:
        images = data / "p3_data" / "validation"
        script = [images, answers]
        scoring = ["mean_iou_evaluate.py", "-g", images, "-p", answers]
    return images, ["bash", f"hw1_{problem[1]}.sh", *script], ["python3", *scoring]


def _run(*command: object) -> str:
    # The scripts run the python3 of PATH, which must be this one.
    own = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ended = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=os.environ | {"PATH": own},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"status {ended.returncode}"]
        raise InputError(f"the validation images were not scored: {lines[-1]}")
    return ended.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    assert found, f"no score in {text!r}"
    return float(found[1])
