"""Problem 2's pre-trainings and its five settings, most of them on a backbone of one layer."""

import csv
import dataclasses
import functools
import shutil

import pytest
import torch
from conftest import log, same, words
from torch import nn

from core import augment, checkpoint
from demo.draw import draw_p2
from p2 import frozen, model, pretrain, recipes, supervise, train
from training.provenance import digest

FLAGS = ("--recipe", "hour", "--batch-size", "4", "--device", "cpu")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """``p2_data``: 8 images for pre-training, and one office image of each of 6 classes."""
    folder = tmp_path_factory.mktemp("drawn") / "p2_data"
    draw_p2(folder, unlabelled=8, train=1, val=1)
    for table in (folder / "office").glob("*.csv"):
        header, *rows = csv.reader(table.read_text().splitlines())
        rows = [row for row in rows if int(row[2]) < 6]
        table.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    rows = "".join(f"{k},{k}.jpg,{k % 2}\n" for k in range(8))
    (folder / "mini" / "labels.csv").write_text(f"id,filename,label\n{rows}")
    return folder


def one_layer():
    return nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


@pytest.fixture
def small(monkeypatch, tmp_path, handlers):
    """One layer in ResNet50's place, and a working folder of its own."""
    for module in (model, pretrain):
        monkeypatch.setattr(module, "make_backbone", one_layer)
    for module in (model, pretrain):
        monkeypatch.setattr(module, "FEATURES", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def backbone_file(path, seed):
    """A checkpoint as ``p2.pretrain`` writes it, with random weights."""
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    mean_std = (augment.IMAGENET_MEAN, augment.IMAGENET_STD)
    fields = checkpoint.Checkpoint(
        "p2", model.BACKBONE, (), 128, *mean_std, False, {}, {}, {}, one_layer().state_dict()
    )
    checkpoint.save(path, fields)
    return path


# --- pre-training ---


def test_byol_is_probed_at_the_last_epoch_and_where_the_recipe_says(call, drawn, small):
    flags = ("--data", drawn, *words("--recipe paper --epochs 2 --batch-size 4 --device cpu"))
    status, out, err = call(pretrain.main, *flags)
    assert (status, err) == (0, "")
    first, last = log(small / "runs/p2_byol_paper")
    assert "knn" not in first and 0 <= last["knn"] <= 1 and "knn" in out.splitlines()[-1]
    assert checkpoint.load(small / "runs/p2_byol_paper/last.pt", "p2").scores["knn"] == last["knn"]


def test_the_probe_leaves_the_training_as_it_is_and_a_missing_one_is_said(
    call, drawn, small, monkeypatch
):
    monkeypatch.setitem(
        recipes.PRETRAIN, "paper", dataclasses.replace(recipes.PRETRAIN["paper"], probe_every=1)
    )
    flags = ("--recipe", "paper", "--epochs", "2", "--batch-size", "4", "--device", "cpu")
    assert call(pretrain.main, *flags, "--data", drawn, "--run", "probed")[0] == 0
    (small / "bare").mkdir()
    (small / "bare" / "mini").symlink_to(drawn / "mini")
    status, out, err = call(pretrain.main, *flags, "--data", "bare", "--run", "unprobed")
    assert (status, err) == (0, "")
    assert (
        out.splitlines()[0]
        == "skipping the kNN probe; missing: bare/office/train.csv, bare/office/val.csv"
    )
    probed, unprobed = log(small / "probed"), log(small / "unprobed")
    assert [line["loss"] for line in probed] == [line["loss"] for line in unprobed]
    assert all("knn" in line for line in probed) and not any("knn" in line for line in unprobed)
    ours, theirs = (
        checkpoint.load(small / run / "last.pt", "p2").weights for run in ("probed", "unprobed")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("program", [pretrain, supervise])
def test_another_probe_is_another_data_set(call, drawn, small, tmp_path, program):
    folder = tmp_path / "copied"
    shutil.copytree(drawn, folder)
    flags = (*FLAGS, "--data", folder, "--epochs", "1")
    assert call(program.main, *flags, "--max-minutes", "0")[0] == 75
    (folder / "office" / "val.csv").rename(folder / "val.csv")
    status, _, err = call(program.main, *flags)
    assert status == 2 and "contains a different run: data.probe was" in err
    (folder / "val.csv").rename(folder / "office" / "val.csv")
    assert call(program.main, *flags)[0] == 0


@pytest.mark.parametrize("moment", ["unbroken", "stopped after every step"])
def test_the_reports_second_stage_lowers_the_rate_when_the_loss_stays(
    call, drawn, small, monkeypatch, moment
):
    recipe = dataclasses.replace(
        recipes.PRETRAIN["original"], epochs=6, patience=0, plateau_from=1, probe_every=None
    )
    monkeypatch.setitem(recipes.PRETRAIN, "original", recipe)
    scheduler = (
        torch.optim.lr_scheduler.ReduceLROnPlateau
    )  # made so that no loss is low enough, with less patience
    impatient = functools.partial(scheduler, threshold=1.0)
    monkeypatch.setattr(
        torch.optim.lr_scheduler,
        "ReduceLROnPlateau",
        lambda *args, **_: impatient(*args, patience=1),
    )
    flags = ("--data", drawn, *words("--recipe original --batch-size 4 --device cpu --run run"))
    if moment == "unbroken":
        assert call(pretrain.main, *flags)[0] == 0
    else:
        assert [call(pretrain.main, *flags, "--max-minutes", "0")[0] for _ in range(13)] == [
            75
        ] * 12 + [0]
    # Epoch 1 is the first stage; from then on the rate falls after every second epoch.
    assert [line["lr"] for line in log(small / "run")] == pytest.approx(
        [3e-4, 3e-4, 3e-4, 3e-5, 3e-5, 3e-6]
    )


def test_a_backbone_trained_with_labels_is_one_that_settings_start_from(call, drawn, small):
    status, _, err = call(supervise.main, *FLAGS, "--data", drawn, "--epochs", "2")
    assert (status, err) == (0, "")
    run = small / "runs/p2_supervised_hour"
    assert (
        all(0 <= line[name] <= 1 for line in log(run) for name in ("train_accuracy", "knn"))
        and len(log(run)) == 2
    )
    saved = checkpoint.load(run / "last.pt", "p2")
    assert (
        saved.architecture == model.BACKBONE
        and saved.weights.keys() == one_layer().state_dict().keys()
    )
    flags = (
        *FLAGS,
        "--data",
        drawn,
        *words("--epochs 1 --setting D"),
        "--backbone",
        run / "last.pt",
    )
    assert call(train.main, *flags)[0] == 0
    frozen = checkpoint.load(small / "runs/p2_D_hour/last.pt", "p2").weights
    assert all(
        torch.equal(value, frozen[f"backbone.{name}"]) for name, value in saved.weights.items()
    )


def test_wrong_requests_of_pre_training_are_one_line(call, drawn, small):
    status, _, err = call(
        pretrain.main, "--data", drawn, "--device", "cpu", "--batch-size", "1", "--run", "one"
    )
    assert status == 2 and "a batch has 1 image per process; this network needs 2 or more" in err
    for flags, says in (
        (("--recipe", "papers"), "unknown recipe 'papers'. Choose from original, hour, best"),
        (("--labels", "x.csv"), "no file x.csv"),
    ):
        status, _, err = call(supervise.main, "--data", drawn, "--device", "cpu", *flags)
        assert status == 2 and says in err and err.count("\n") == 1
    assert not (small / "runs").exists()


def test_resnet50_trained_with_labels_is_what_setting_b_starts_from(
    call, drawn, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = (*FLAGS, "--data", drawn, "--epochs", "1")
    assert call(supervise.main, *flags)[0] == 0
    assert (
        call(train.main, *flags, "--setting", "B", "--backbone", "runs/p2_supervised_hour/last.pt")[
            0
        ]
        == 0
    )
    assert (
        checkpoint.load(tmp_path / "runs/p2_B_hour/last.pt", "p2").architecture
        == model.ARCHITECTURE
    )


# --- the five settings ---


@pytest.fixture
def started(small):
    """Both initial backbones, one of them where it is looked for; the flags for the other."""
    backbone_file(small / "runs/p2_byol_hour/last.pt", 1)
    return "--backbone", backbone_file(small / "labels.pt", 2)


@pytest.mark.parametrize("setting", "BCDE")
def test_a_setting_starts_from_exactly_the_weights_of_its_file(
    call, drawn, small, started, monkeypatch, setting
):
    still = dataclasses.replace(recipes.TRANSFER["hour"], lr=0.0, weight_decay=0.0)
    monkeypatch.setitem(recipes.TRANSFER, "hour", still)
    flags = (*FLAGS, "--data", drawn, "--epochs", "1", "--setting", setting, "--run", "run")
    assert call(train.main, *flags, *(started if setting in "BD" else ()))[0] == 0
    file = started[1] if setting in "BD" else "runs/p2_byol_hour/last.pt"
    first = torch.load(file, weights_only=True)["weights"]
    now = torch.load(small / "run/state.pt", weights_only=True)["state"]["network"]
    parameters = {name for name, _ in one_layer().named_parameters()}
    assert len(parameters) == 4 and all(
        torch.equal(now[f"backbone.{name}"], first[name].float()) for name in parameters
    )


@pytest.mark.parametrize("recipe", ["hour", "original"])
@pytest.mark.parametrize("setting", "CDE")
def test_training_moves_a_frozen_backbone_by_no_bit(
    call, drawn, small, started, monkeypatch, setting, recipe
):
    monkeypatch.setitem(
        recipes.TRANSFER, recipe, dataclasses.replace(recipes.TRANSFER[recipe], lr=0.1)
    )
    backbone_file(small / "runs/p2_byol_original/last.pt", 1)
    flags = (
        "--recipe",
        recipe,
        *words("--batch-size 4 --device cpu"),
        "--data",
        drawn,
        *words("--epochs 1 --run run"),
    )
    own = started if setting in "BD" else ()
    assert call(train.main, *flags, "--setting", setting, *own)[0] == 0
    file = started[1] if setting in "BD" else f"runs/p2_byol_{recipe}/last.pt"
    now = torch.load(small / "run/state.pt", weights_only=True)["state"][
        "network"
    ]  # float32, which last.pt's is not
    first = torch.load(file, weights_only=True)["weights"]
    same = [
        torch.equal(now[f"backbone.{name}"].float(), value.float()) for name, value in first.items()
    ]
    assert len(same) == 7 and (all(same) if setting in "DE" else not any(same))


REPORT = (*words("--recipe original --epochs 3 --batch-size 2 --device cpu --setting D"),)


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_head_learns_the_same_from_features_computed_once_as_from_the_images(
    call, drawn, small, started, monkeypatch, flip_test
):
    passes, looks = [], 1 + flip_test
    monkeypatch.setitem(
        recipes.TRANSFER,
        "original",
        dataclasses.replace(recipes.TRANSFER["original"], flip_test=flip_test),
    )

    def counted():
        backbone = one_layer()
        backbone.register_forward_hook(lambda *_: passes.append(1))
        return backbone

    monkeypatch.setattr(model, "make_backbone", counted)
    flags = (*REPORT, "--data", drawn, *started)
    assert call(train.main, *flags, "--run", "once")[0] == 0
    once = len(passes)
    monkeypatch.setattr(frozen, "applies", lambda *_: False)
    assert call(train.main, *flags, "--run", "always")[0] == 0
    assert once == 4 and len(passes) - once == 3 * (
        3 + looks
    )  # two forms of two sets; three epochs of three steps and the looks
    for ours, theirs in zip(log(small / "once"), log(small / "always"), strict=True):
        assert (
            ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
            and ours["accuracy"] == theirs["accuracy"]
        )
    ours, theirs = (
        checkpoint.load(small / run / "last.pt", "p2").weights for run in ("once", "always")
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in theirs)
    first = torch.load(started[1], weights_only=True)["weights"]
    assert all(torch.equal(ours[f"backbone.{name}"], value) for name, value in first.items())


@pytest.mark.parametrize(
    ("main", "flags", "steps"),
    [
        (pretrain.main, words("--recipe paper --batch-size 4 --device cpu --epochs 3"), 6),
        (supervise.main, (*FLAGS, "--epochs", "2"), 4),
        (train.main, REPORT, 9),
    ],
    ids=["BYOL", "labels", "a head on features"],
)
def test_stopped_after_every_step_it_ends_where_an_unbroken_run_ends(
    call, drawn, small, started, main, flags, steps
):
    flags = (*flags, "--data", drawn, *(started if main is train.main else ()))
    assert call(main, *flags, "--run", "straight")[0] == 0
    broken = (*flags, "--run", "broken", "--max-minutes", "0")
    assert [call(main, *broken)[0] for _ in range(steps + 1)] == [75] * steps + [0]
    ours, theirs = (
        [line | {"seconds": 0} for line in log(small / run)] for run in ("straight", "broken")
    )
    assert ours == theirs
    ours, theirs = (
        torch.load(small / run / "state.pt", weights_only=True)["state"]
        for run in ("straight", "broken")
    )
    same(ours, theirs)


def test_other_initial_weights_or_labels_under_the_same_names_are_another_run(
    call, drawn, small, started, tmp_path
):
    folder = tmp_path / "copied"
    shutil.copytree(drawn, folder)
    flags = (*FLAGS, "--data", folder, "--epochs", "1", "--setting", "C")
    assert call(train.main, *flags)[0] == 0
    backbone_file(small / "runs/p2_byol_hour/last.pt", 3)
    status, _, err = call(train.main, *flags)
    assert status == 2 and "contains a different run: data.backbone_file was" in err
    assert call(train.main, *flags, "--fresh")[0] == 0
    table = folder / "office" / "train.csv"
    header, *rows = table.read_text().splitlines()
    labels = [row.rsplit(",", 1)[1] for row in rows]
    moved = [
        f"{row.rsplit(',', 1)[0]},{label}"
        for row, label in zip(rows, labels[1:] + labels[:1], strict=True)
    ]
    table.write_text("\n".join([header, *moved]) + "\n")
    status, _, err = call(train.main, *flags)
    assert status == 2 and "contains a different run: data.labels was" in err


def test_labels_start_from_the_courses_file_or_else_from_the_run_of_the_same_recipe(
    call, drawn, small, tmp_path
):
    folder = tmp_path / "copied"
    shutil.copytree(drawn, folder)
    flags = (*FLAGS, "--data", folder, "--epochs", "1", "--setting", "B")
    own = backbone_file(small / "runs/p2_supervised_hour/last.pt", 1)
    assert call(train.main, *flags, "--run", "own")[0] == 0
    course = backbone_file(folder / "pretrain_model_SL.pt", 2)
    assert call(train.main, *flags, "--run", "course")[0] == 0
    for run, file in (("own", own), ("course", course)):
        made = checkpoint.load(small / run / "last.pt", "p2").made
        assert made["data"]["backbone"] == str(file.relative_to(small) if run == "own" else file)
        assert made["data"]["backbone_file"] == digest(file)


@pytest.mark.parametrize(
    ("setting", "flags", "says"),
    [
        ("A", ("--backbone", "x.pt"), "setting A starts from random weights; omit --backbone"),
        (
            "B",
            (),
            "starts from runs/p2_supervised_hour/last.pt, which does not exist; make it with",
        ),
        ("D", ("--backbone", "x.pt"), "setting D starts from x.pt, which does not exist; make it"),
        ("E", (), "runs/p2_byol_hour/last.pt, which does not exist; make it with p2.pretrain"),
        ("C", ("--backbone", "other.pt"), "other.pt does not fit this network"),
    ],
)
def test_an_initial_backbone_that_is_missing_or_unfit_is_one_line(
    call, drawn, small, setting, flags, says
):
    torch.save({"0.weight": torch.ones(1)}, small / "other.pt")
    status, _, err = call(train.main, *FLAGS, "--data", drawn, "--setting", setting, *flags)
    assert (status, err.count("\n")) == (2, 1) and says in err
    assert not (small / "runs").exists()
