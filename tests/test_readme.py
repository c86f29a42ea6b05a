"""The commands of README.md, typed as they stand there, but for what ``ADDED`` states.

They run one after another in a folder that looks like a clone with drawn data in ``hw1_data``. A
command that is new in README.md must get its line here.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()
ONE_EPOCH = "--set epochs=1 --device cpu"
CROP = "--set crop=64"  # the side of the drawn scenes
# Of each command what is added to it, so that it takes seconds on the drawn data.
GRADERS = {
    "bash hw1_download.sh": "",
    "bash hw1_1.sh <image folder> <output.csv>": "--device cpu",
    "bash hw1_2.sh <images.csv> <image folder> <output.csv>": "--device cpu",
    "bash hw1_3.sh <image folder> <output folder>": "--device cpu",
    "python3 mean_iou_evaluate.py -g <ground truth folder> -p <prediction folder>": "",
}
TRAINING = {
    "python3 check_data.py hw1_data": "",
    "python3 -m p1.train --model A --recipe best": f"{ONE_EPOCH} --run runs/p1_A_best",
    "python3 -m p2.pretrain --recipe original": f"{ONE_EPOCH} --run runs/p2_byol_original",
    "python3 -m p2.train --setting C --recipe original": ONE_EPOCH,
    "python3 -m p3.train --model C --recipe best": f"{ONE_EPOCH} {CROP}",
    "python3 -m report": "--device cpu",
    "python3 -m checkpoints.export --checkpoint checkpoints/p1_a.pt --onnx p1_a.onnx": "",
    "python3 -m checkpoints.ship runs/p1_A_best/last.pt p1_a.pt": "--folder shipped",
}
NOT_RUN = {
    "bash demo.sh": "it makes .venv; tests/demo runs what it calls",
    "bash test.sh": "it is what runs this test",
}
ADDED = GRADERS | TRAINING
PLACES = {  # what a stranger would write in place of the words in <>
    "hw1_1.sh": ("hw1_data/p1_data/val_50", "labels 1.csv"),
    "hw1_2.sh": ("hw1_data/p2_data/office/val.csv", "hw1_data/p2_data/office/val", "labels 2.csv"),
    "hw1_3.sh": ("hw1_data/p3_data/validation", "the masks"),
    "mean_iou_evaluate.py": ("hw1_data/p3_data/validation", "the masks"),
}
WRITTEN = {  # what some of the commands leave
    "hw1_1.sh": "labels 1.csv",
    "hw1_2.sh": "labels 2.csv",
    "hw1_3.sh": "the masks",
    "p1.train": "runs/p1_A_best/last.pt",
    "p2.pretrain": "runs/p2_byol_original/last.pt",
    "p2.train": "runs/p2_C_original_epochs=1/last.pt",
    "p3.train": "runs/p3_C_best_epochs=1_crop=64/last.pt",
    "report": "runs/report/report.html",
    "checkpoints.export": "p1_a.onnx",
    "checkpoints.ship": "shipped/p1_a.pt",
}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands():
    """The commands of all shell blocks, in their order, without comments."""
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


@pytest.fixture(scope="module")
def clone(tiny, tmp_path_factory):
    """A folder with all that a clone has, and drawn data in ``hw1_data``."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name not in ("hw1_data", "runs", "pretrained") and path.name[0] != ".":
            (folder / path.name).symlink_to(path)
    (folder / "hw1_data").symlink_to(tiny)
    (folder / "shipped").mkdir()
    shutil.copy(ROOT / "checkpoints/manifest.json", folder / "shipped")
    return folder


def run(command, clone):
    """Type one of README's commands in ``clone``; its stdout."""
    program = next(word for word in command.split()[1:] if word != "-m")
    places = iter(PLACES.get(program, ()))
    words = [
        shlex.quote(next(places)) if word.startswith("<") else word
        for word in re.findall(r"<[^>]*>|\S+", command)
    ]
    line = " ".join([*words, ADDED[command]])
    programs = Path(sys.executable).parent  # its python3 is this environment's
    done = subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        cwd=clone,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    assert (clone / WRITTEN.get(program, "")).exists(), line
    return done.stdout


def test_every_command_of_the_readme_is_known_here_and_none_is_left_over():
    assert sorted(commands()) == sorted([*ADDED, *NOT_RUN])


def test_the_readme_can_be_read_in_one_go():
    assert len(README.splitlines()) <= 130


def test_every_file_and_flag_that_the_readme_names_is_there():
    for name in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / name).exists(), name
    sources = "".join(path.read_text() for path in ROOT.glob("*/*.py"))
    flags = set(re.findall(r"`(--[a-z-]+)", README))
    assert "--recipe" in flags
    for flag in flags - {"--help"}:
        assert re.search(rf'add(_argument)?\(\s*"{flag}"', sources), flag


@pytest.mark.slow
def test_the_graders_commands_do_what_the_readme_says(clone):
    said = [run(command, clone) for command in commands() if command in GRADERS]
    assert "mean_iou: " in said[-1]
    header = [(clone / f"labels {k}.csv").read_text().splitlines()[0] for k in (1, 2)]
    assert header == ["filename,label", "id,filename,label"]


@pytest.mark.slow
def test_the_other_commands_do_what_the_readme_says(clone):
    for command in commands():
        if command in TRAINING:
            run(command, clone)


@pytest.mark.slow
def test_the_python_of_the_readme_predicts():
    import torch

    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    (block,) = blocks("python")
    names = {"images": images}
    exec(block.replace('"checkpoints/', f'"{ROOT}/checkpoints/'), names)
    assert names["logits"].shape == (2, 50)
