"""Reading runs: which are finished, and which were set aside."""

import dataclasses
import hashlib
import json
import math

import pytest
import torch
from conftest import ROOT, metadata, write_run

from core.cli import InputError
from report import runs as runlog
from training import provenance
from training.provenance import initial_weights
from training.run import Run
from training.runfolder import set_aside

pytestmark = pytest.mark.usefixtures("quick")


@dataclasses.dataclass(frozen=True)
class Recipe:
    epochs: int
    patience: int
    plateau_from: int


def run_of(folder, accuracies, epochs=None, patience=0):
    recipe = {"epochs": epochs or len(accuracies), "patience": patience}
    (folder / "snapshots").mkdir(parents=True)
    return write_run(folder, [{"accuracy": accuracy} for accuracy in accuracies], recipe)


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
    folder = run_of(tmp_path / "run", [0.1, 0.2])
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
    older = run_of(tmp_path / "p1_A_hour", [0.9])
    assert set_aside(older).name == "p1_A_hour.old-1"
    run_of(older, [0.1])
    run_of(tmp_path / "p1_A_hour.older", [0.2])
    assert [run.name for run in runlog.read_all(tmp_path)] == [
        "p1_A_hour",
        "p1_A_hour.older",
    ]


def test_a_log_that_is_not_text_is_one_line(tmp_path):
    (run_of(tmp_path / "p1_A_hour", [0.9]) / "log.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="contains no readable run"):
        runlog.read_all(tmp_path)


def test_a_run_on_held_out_images_or_without_a_score_is_not_shown_as_the_best(tmp_path):
    runs = [
        runlog.read(run_of(tmp_path / name, [score]))
        for name, score in (("a", float("nan")), ("b", 0.2), ("c", 0.5))
    ]
    runs[2].metadata["command"] += " --tune"
    assert runlog.best_of(runs).name == "b" and runlog.best_of(runs[2:]).name == "c"


def test_the_runs_that_a_run_continues_are_found_and_their_epochs_counted_through(tmp_path):
    def run(name, scores, start):
        folder = run_of(tmp_path / name, scores)
        about = json.loads((folder / "run.json").read_text())
        about["data"] = {"pretrained": start}
        (folder / "run.json").write_text(json.dumps(about))

    run("p3_pretrain_A_best", [0.1, 0.2], "None")
    run("p3_A_best", [0.3, 0.4, 0.5], "runs/p3_pretrain_A_best/last.pt")
    run("p3_A_long", [0.6], "elsewhere/p3_A_best/last.pt")
    run("p3_A_other", [0.7], "unknown/last.pt")
    logs = runlog.read_all(tmp_path)
    (best, long, other, pretrain) = logs
    chain = runlog.lineage(logs, long)
    assert chain == [pretrain, best, long] and runlog.lineage(logs, other) == [other]
    assert runlog.of_one_model(chain) == [best, long]
    assert runlog.of_one_model([pretrain]) == [pretrain]
    assert runlog.joined(chain[1:], "accuracy") == ([1, 2, 3, 4], [0.3, 0.4, 0.5, 0.6])
    for path in ("p3_A_best/snapshots/epoch_0001.pt", "p3_A_best/last.pt", "p3_A_long/last.pt"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    kept = runlog.kept_stages(chain[1:])
    assert {epoch: (stage.run, stage.line["epoch"]) for epoch, stage in kept.items()} == {
        1: (best, 1),
        3: (best, 3),
        4: (long, 1),
    }
    long.metadata["recipe"]["lr"] = 0.0  # no step, so its value replaces that of best's last epoch
    assert runlog.joined(chain[1:], "accuracy") == ([1, 2, 3], [0.3, 0.4, 0.6])
    assert [stage.run for stage in runlog.kept_stages(chain[1:]).values()] == [best, long]
    best.metadata["data"]["pretrained_sha256"] = "abc"
    other.metadata["data"] |= {"pretrained": "p3_a.pt", "pretrained_before": ["abc"]}
    assert runlog.lineage(logs, other) == [pretrain, best, other]  # from a copy of best's weights
    pretrain.metadata["data"]["pretrained_sha256"] = "abc"  # two runs started from the same file
    assert runlog.lineage(logs, other) == [other]
    del pretrain.metadata["data"]["pretrained_sha256"]
    long.metadata["data"]["pretrained"] = "runs/p3_A_long/last.pt"  # of its own older run
    assert runlog.lineage(logs, long) == [long]


def test_of_several_runs_the_best_of_those_that_are_finished_is_shown(tmp_path):
    unfinished = runlog.read(run_of(tmp_path / "a", [0.9], epochs=2))
    finished = [
        runlog.read(run_of(tmp_path / name, [score]))
        for name, score in (("b", 0.2), ("c", 0.5), ("d", 0.4))
    ]
    assert runlog.best_of([unfinished, *finished]).name == "c"
    assert runlog.best_of([unfinished]).name == "a" and runlog.best_of([]) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"recipe": None}, "has a recipe that is a NoneType"),
        ({"recipe": {"epochs": "many"}}, "whose epochs is not a whole number"),
        ({"recipe": {"epochs": 3, "patience": "long"}}, "whose patience is not a whole number"),
        ({"seed": "<script>"}, "has a seed that is a str"),
        ({"command": ["python3"]}, "has a command that is a list"),
        ({"data": None}, "has a data that is a NoneType"),
        ({"continued": [{"command": "python3"}]}, "without command or commit"),
        ({"continued": "later"}, "without command or commit"),
    ],
)
def test_a_broken_record_is_one_line_that_names_the_file(tmp_path, change, says):
    folder = run_of(tmp_path / "run", [0.1])
    (folder / "run.json").write_text(json.dumps(metadata() | change))
    with pytest.raises(InputError, match=f"run.json {says}|run.json .*{says}"):
        runlog.read(folder)


def test_a_record_without_a_recipe_is_one_line(tmp_path):
    folder = run_of(tmp_path / "run", [0.1])
    record = metadata()
    del record["recipe"]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="run.json has no recipe"):
        runlog.read(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"epoch": 1, "accuracy": "0.5"}',
            "line 1 says '0.5' for accuracy, which is not a number",
        ),
        ('{"epoch": 1, "accuracy": [0.5]}', "line 1 says \\[0.5\\] for accuracy"),
        ('{"epoch": "1", "accuracy": 0.5}', "line 1 has no epoch"),
        ("[1]", "line 1 has no epoch"),
        ('{"epoch": 1, "loss": 1}\n{"epoch": 2, "accuracy": 0.5}', "no accuracy for epoch 1"),
        ('{"epoch": 1, "seconds": 3}', "without a finished epoch"),
        ("[" * 100_000, "contains no readable run"),
    ],
)
def test_a_broken_log_is_one_line_that_names_the_file(tmp_path, text, says):
    folder = run_of(tmp_path / "run", [0.1])
    (folder / "log.jsonl").write_text(text + "\n")
    with pytest.raises(InputError, match=says):
        runlog.read(folder)


def test_a_contaminated_start_is_known_by_its_digest_under_any_name(tmp_path, monkeypatch):
    weights = tmp_path / "mine.pt"
    weights.write_bytes(b"weights")
    folder = run_of(tmp_path / "p1_B_hour", [0.9])
    (folder / "run.json").write_text(json.dumps(metadata(data={"pretrained": str(weights)})))
    assert not runlog.read(folder).is_contaminated
    published = hashlib.sha256(b"weights").hexdigest()[:8]
    monkeypatch.setattr(provenance, "CONTAMINATED", published)
    assert runlog.read(folder).is_contaminated
    weights.unlink()
    runlog.sha256.cache_clear()
    assert not runlog.read(folder).is_contaminated


def test_a_contaminated_start_is_known_by_the_recorded_digest_once_the_file_is_gone(tmp_path):
    folder = run_of(tmp_path / "p1_B_hour", [0.9])

    def started_from(name, digest):
        data = {"pretrained": name, "pretrained_sha256": digest}
        (folder / "run.json").write_text(json.dumps(metadata(data=data)))
        return runlog.read(folder)

    assert started_from("gone/mine.pt", provenance.CONTAMINATED + "0" * 56).is_contaminated
    assert not started_from("gone/not_cifar100.pt", "0" * 64).is_contaminated
    assert started_from("gone/cifar100_x.pt", None).is_contaminated  # of a run of before


def test_a_run_records_the_digest_of_its_initial_weights(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save({"weight": torch.ones(2)}, file)
    assert initial_weights("mine", file) == {
        "pretrained": "mine",
        "pretrained_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert initial_weights(None, None) == {"pretrained": "None", "pretrained_sha256": None}


@pytest.mark.parametrize("steps", [1, 3])
def test_contamination_is_carried_on_from_checkpoint_to_checkpoint(tmp_path, monkeypatch, steps):
    published = tmp_path / "published.pt"
    torch.save({"weight": torch.ones(2)}, published)
    notes, honest = initial_weights("published.pt", published), initial_weights(None, None)
    digest = notes["pretrained_sha256"]
    for step in range(steps):
        for number, data in enumerate((notes, honest)):
            content = {"made": {"data": data}, "step": step, "number": number}
            torch.save(content, tmp_path / f"last{number}.pt")
        notes, honest = (initial_weights("last.pt", tmp_path / f"last{n}.pt") for n in (0, 1))
    assert len(notes["pretrained_before"]) == steps
    monkeypatch.setattr(provenance, "CONTAMINATED", digest[:8])
    folder = run_of(tmp_path / "p1_B_hour", [0.9])
    for data, contaminated in ((notes, True), (honest, False)):
        (folder / "run.json").write_text(json.dumps(metadata(data=data)))
        assert runlog.read(folder).is_contaminated == contaminated


def test_a_checkpoint_whose_notes_are_of_another_shape_has_no_origins(tmp_path):
    for made in (None, [], {"data": 3}, {"data": {"pretrained": None}}):
        torch.save({"made": made}, tmp_path / "last.pt")
        assert "pretrained_before" not in initial_weights("last.pt", tmp_path / "last.pt")


def test_the_digest_of_the_contaminated_weights_is_the_manifests():
    listed = json.loads((ROOT / "checkpoints" / "manifest.json").read_text())["pretrained"]
    (known,) = [one["sha256_prefix"] for one in listed if "cifar100" in one["name"]]
    assert known == provenance.CONTAMINATED
