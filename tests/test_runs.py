"""Reading runs: what is finished is what ``core.run`` would not go on with, and what was set aside stays so."""

import dataclasses
import json
import math

import pytest
import torch
from conftest import metadata

from core.run import Run
from core.runfolder import set_aside
from report import runs as runlog

pytestmark = pytest.mark.usefixtures("quick")


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int
    patience: int
    plateau_from: int


def write_run(folder, accuracies, epochs=None, patience=0):
    (folder / "snapshots").mkdir(parents=True)
    (folder / "run.json").write_text(
        json.dumps(metadata({"epochs": epochs or len(accuracies), "patience": patience}))
    )
    lines = ({"epoch": k + 1, "accuracy": accuracy} for k, accuracy in enumerate(accuracies))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("epochs", "patience", "plateau_from", "ended"),
    [
        (10, 0, 0, 10),
        (10, 2, 0, 4),
        (10, 2, 2, 6),
        (10, 2, 4, 7),
        (10, 3, 3, 7),
        (10, 2, 9, 10),
        (3, 2, 0, 3),
    ],
)
def test_a_run_is_finished_exactly_when_its_loop_ends(
    tmp_path, epochs, patience, plateau_from, ended
):
    scores = [1.0, 3.0, math.nan, 3.0, 2.0, 2.0, 2.0, 4.0, 1.0, 1.0]
    model = {
        "problem": "p1",
        "architecture": "none",
        "classes": (),
        "input_size": None,
        "mean": (0.5,) * 3,
        "std": (1.0,) * 3,
        "flip_test": False,
    }
    recipe = Recipe(epochs, patience, plateau_from)
    run = Run(
        tmp_path,
        recipe=recipe,
        data={},
        model=model,
        seed=0,
        state={},
        device=torch.device("cpu"),
        watch="accuracy",
    )
    for epoch in run.epochs(recipe.epochs, recipe.patience, recipe.plateau_from):
        assert epoch == 0 or not runlog.read(tmp_path).is_finished
        run.end_epoch({"w": torch.zeros(1)}, accuracy=scores[epoch])
    read = runlog.read(tmp_path)
    assert read.is_finished and read.last["epoch"] == ended
    assert read.best["epoch"] == run.best_epoch()


def test_every_kept_checkpoint_has_its_line_in_the_log(tmp_path):
    folder = write_run(tmp_path / "run", [0.1, 0.2])
    for name in (
        "snapshots/epoch_0001.pt",
        "snapshots/epoch_0003.pt",
        "last.pt",
    ):  # killed before the third line
        (folder / name).write_bytes(b"")
    assert runlog.read(folder).checkpoints() == {
        1: folder / "snapshots/epoch_0001.pt",
        2: folder / "last.pt",
    }


def test_a_run_that_was_set_aside_is_not_read(tmp_path):
    older = write_run(tmp_path / "p1_A_hour", [0.9])
    assert set_aside(older).name == "p1_A_hour.old-1"
    write_run(older, [0.1])
    write_run(tmp_path / "p1_A_hour.older", [0.2])
    assert [run.name for run in runlog.read_all(tmp_path, "p1_A_*")] == [
        "p1_A_hour",
        "p1_A_hour.older",
    ]


def test_of_several_runs_the_best_of_those_that_are_finished_is_shown(tmp_path):
    unfinished = runlog.read(write_run(tmp_path / "a", [0.9], epochs=2))
    finished = [
        runlog.read(write_run(tmp_path / name, [score]))
        for name, score in (("b", 0.2), ("c", 0.5), ("d", 0.4))
    ]
    assert runlog.best_of([unfinished, *finished]).name == "c"
    assert runlog.best_of([unfinished]).name == "a" and runlog.best_of([]) is None
