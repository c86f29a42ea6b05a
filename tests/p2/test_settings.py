"""Problem 2's pre-trainings and its five settings, most of them on a backbone of one layer."""

import csv
import dataclasses
import shutil

import pytest
import torch
from conftest import log, one_layer, refused, same, words

from core import augment, checkpoint
from core.randomness import generator
from demo.draw import Parameters, draw_p2
from p2 import frozen, model, pretrain, recipes, supervise, train
from training.provenance import digest

STOPPED = 75  # the exit status of a run that stopped before its end


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """``p2_data``: 8 images for pre-training, and one office image of each of 6 classes."""
    folder = tmp_path_factory.mktemp("drawn") / "p2_data"
    draw_p2(folder, Parameters(p2_unlabelled=8, p2_train=1, p2_val=1))
    for table in (folder / "office").glob("*.csv"):
        header, *rows = csv.reader(table.read_text().splitlines())
        rows = [row for row in rows if int(row[2]) < 6]
        table.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    rows = "".join(f"{k},{k}.jpg,{k % 2}\n" for k in range(8))
    (folder / "mini" / "labels.csv").write_text(f"id,filename,label\n{rows}")
    return folder


@pytest.fixture
def small(monkeypatch, tmp_path, handlers):
    """One layer in ResNet50's place, and a working folder of its own."""
    for module in (model, pretrain):
        monkeypatch.setattr(module, "make_backbone", one_layer)
        monkeypatch.setattr(module, "FEATURES", 8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(call, drawn):
    """Run a training on the CPU, by recipe ``hour`` unless the flags name another."""

    def run(program, flags, *more, data=drawn):
        usual = words("--recipe hour --batch-size 4 --device cpu")
        return call(program.main, *usual, "--data", data, *words(flags), *more)

    return run


@pytest.fixture
def change(monkeypatch):
    """Change values of a recipe."""

    def change(of, name, **values):
        monkeypatch.setitem(of, name, dataclasses.replace(of[name], **values))

    return change


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


def weights(run):
    return checkpoint.load(run / "last.pt", "p2").weights


def state(run):
    """The state of a run: float32, which its last.pt is not."""
    return torch.load(run / "state.pt", weights_only=True)["state"]


# --- pre-training ---


def test_byol_is_probed_at_the_last_epoch_and_where_the_recipe_says(run, small):
    status, out, err = run(pretrain, "--recipe paper --epochs 2")
    assert (status, err) == (0, "")
    first, last = log(small / "runs/p2_byol_paper")
    assert "knn" not in first and 0 <= last["knn"] <= 1 and "knn" in out.splitlines()[-1]
    assert checkpoint.load(small / "runs/p2_byol_paper/last.pt", "p2").scores["knn"] == last["knn"]


def test_the_probe_leaves_the_training_as_it_is_and_a_missing_one_is_said(
    run, drawn, small, change
):
    change(recipes.PRETRAIN, "paper", probe_every=1)
    assert run(pretrain, "--recipe paper --epochs 2 --run probed")[0] == 0
    (small / "bare").mkdir()
    (small / "bare" / "mini").symlink_to(drawn / "mini")
    status, out, err = run(pretrain, "--recipe paper --epochs 2 --run unprobed", data="bare")
    assert (status, err) == (0, "")
    says = "skipping the kNN probe; missing: bare/office/train.csv, bare/office/val.csv"
    assert out.splitlines()[0] == says
    probed, unprobed = log(small / "probed"), log(small / "unprobed")
    assert [line["loss"] for line in probed] == [line["loss"] for line in unprobed]
    assert all("knn" in line for line in probed) and not any("knn" in line for line in unprobed)
    same(weights(small / "probed"), weights(small / "unprobed"))


@pytest.mark.parametrize("program", [pretrain, supervise])
def test_another_probe_is_another_data_set(run, drawn, small, program):
    folder = small / "copied"
    shutil.copytree(drawn, folder)
    assert run(program, "--epochs 1 --max-minutes 0", data=folder)[0] == STOPPED
    (folder / "office" / "val.csv").rename(folder / "val.csv")
    status, _, err = run(program, "--epochs 1", data=folder)
    assert status == 2 and "contains a different run: data.probe was" in err
    (folder / "val.csv").rename(folder / "office" / "val.csv")
    assert run(program, "--epochs 1", data=folder)[0] == 0


@pytest.mark.parametrize("stops", [0, 8])
def test_the_reports_second_stage_lowers_the_rate_when_the_loss_stays(
    run, small, monkeypatch, change, stops
):
    shorter = {"epochs": 4, "patience": 0, "plateau_from": 1, "probe_every": None}
    change(recipes.PRETRAIN, "original", **shorter)
    seen = []

    class Impatient(torch.optim.lr_scheduler.ReduceLROnPlateau):
        """Finds no loss low enough, and has less patience."""

        def __init__(self, optimizer, **_):
            super().__init__(optimizer, threshold=1.0, patience=1)

        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    monkeypatch.setattr(torch.optim.lr_scheduler, "ReduceLROnPlateau", Impatient)
    flags = "--recipe original --run run" + (" --max-minutes 0" if stops else "")
    assert [run(pretrain, flags)[0] for _ in range(stops + 1)] == [STOPPED] * stops + [0]
    # Epoch 1 is the first stage; from then on the rate falls after every second epoch.
    rates = [line["lr"] for line in log(small / "run")]
    assert rates == pytest.approx([3e-4, 3e-4, 3e-4, 3e-5])
    assert seen == [line["loss"] for line in log(small / "run")][1:]


@pytest.mark.parametrize(("program", "flags"), [(pretrain, "--recipe paper"), (supervise, "")])
def test_the_best_pre_training_is_the_one_with_the_lowest_loss(run, small, program, flags):
    assert run(program, f"{flags} --epochs 3 --run run")[0] == 0
    losses = [line["loss"] for line in log(small / "run")]
    made = checkpoint.load(small / "run/best.pt", "p2").made
    assert len(set(losses)) == 3 and made["epoch"] == 1 + losses.index(min(losses))


@pytest.mark.parametrize(("program", "flags"), [(supervise, ""), (train, "--setting A")])
def test_labels_are_smoothed_as_the_recipe_says(run, small, monkeypatch, program, flags):
    asked, loss = set(), torch.nn.functional.cross_entropy

    def cross_entropy(*given, label_smoothing):
        asked.add(label_smoothing)
        return loss(*given, label_smoothing=label_smoothing)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", cross_entropy)
    assert run(program, f"--epochs 1 --run run {flags}")[0] == 0
    assert asked == {recipes.TRANSFER["hour"].label_smoothing}


def test_a_setting_stops_when_the_score_stays(run, small):
    assert run(train, "--setting A --epochs 9 --run run --set lr=0 --set patience=1")[0] == 0
    assert len(log(small / "run")) == 2


def test_a_backbone_trained_with_labels_is_one_that_settings_start_from(run, small):
    status, _, err = run(supervise, "--epochs 2")
    assert (status, err) == (0, "")
    folder = small / "runs/p2_supervised_hour"
    assert len(log(folder)) == 2
    assert all(0 <= line[name] <= 1 for line in log(folder) for name in ("train_accuracy", "knn"))
    saved = checkpoint.load(folder / "last.pt", "p2")
    assert saved.architecture == model.BACKBONE
    assert saved.weights.keys() == one_layer().state_dict().keys()
    assert run(train, "--epochs 1 --setting D", "--backbone", folder / "last.pt")[0] == 0
    frozen = weights(small / "runs/p2_D_hour")
    for name, value in saved.weights.items():
        assert torch.equal(value, frozen[f"backbone.{name}"]), name


@pytest.mark.parametrize(
    "program, flags",
    [(pretrain, ""), (supervise, ""), (train, "--setting A"), (train, "--setting E")],
)
def test_every_step_makes_its_own_draws(run, small, monkeypatch, program, flags):
    backbone_file(small / "runs/p2_byol_hour/last.pt", 1)
    keys = []
    monkeypatch.setattr(program, "generator", lambda *key: keys.append(key) or generator(*key))
    assert run(program, f"--epochs 3 --run run {flags}")[0] == 0
    steps = log(small / "run")[-1]["steps"]
    assert len(keys) == len(set(keys)) == steps * (2 if program is pretrain else 1) > 2


def test_wrong_requests_of_pre_training_are_one_line(run, small):
    status, _, err = run(pretrain, "--batch-size 1 --run one")
    assert status == 2 and "a batch has 1 of 8 images, but this network needs 2 or more" in err
    says = "unknown recipe 'papers'. Choose from original, hour, best"
    refused(run(supervise, "--recipe papers"), says)
    refused(run(supervise, "--labels x.csv"), "no file x.csv")
    assert not (small / "runs").exists()


@pytest.mark.slow  # ResNet50 itself, twice
def test_resnet50_trained_with_labels_is_what_setting_b_starts_from(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(supervise, "--epochs 1")[0] == 0
    start = "runs/p2_supervised_hour/last.pt"
    assert run(train, f"--epochs 1 --setting B --backbone {start}")[0] == 0
    saved = checkpoint.load(tmp_path / "runs/p2_B_hour/last.pt", "p2")
    assert saved.architecture == model.ARCHITECTURE


# --- the five settings ---


@pytest.fixture
def started(small):
    """Both initial backbones, one of them where it is looked for; the flags for the other."""
    backbone_file(small / "runs/p2_byol_hour/last.pt", 1)
    return "--backbone", backbone_file(small / "labels.pt", 2)


@pytest.mark.parametrize("setting", "BCDE")
def test_a_setting_starts_from_exactly_the_weights_of_its_file(
    run, small, started, change, setting
):
    change(recipes.TRANSFER, "hour", lr=0.0, weight_decay=0.0)
    own = started if setting in "BD" else ()
    assert run(train, f"--epochs 1 --setting {setting} --run run", *own)[0] == 0
    file = started[1] if setting in "BD" else small / "runs/p2_byol_hour/last.pt"
    first, now = checkpoint.load(file, "p2").weights, state(small / "run")["network"]
    for name, _ in one_layer().named_parameters():
        assert torch.equal(now[f"backbone.{name}"], first[name]), name


@pytest.mark.parametrize("recipe", ["hour", "original"])
@pytest.mark.parametrize("setting", "CDE")
def test_training_moves_a_frozen_backbone_by_no_bit(run, small, change, setting, recipe):
    change(recipes.TRANSFER, recipe, lr=0.1)
    file = backbone_file(small / "start.pt", 1)
    flags = f"--recipe {recipe} --epochs 1 --run run --setting {setting} --backbone {file}"
    assert run(train, flags)[0] == 0
    first, now = checkpoint.load(file, "p2").weights, state(small / "run")["network"]
    kept = [torch.equal(now[f"backbone.{name}"], value) for name, value in first.items()]
    assert len(kept) == 7 and (all(kept) if setting in "DE" else not any(kept))
    made = checkpoint.load(small / "run/last.pt", "p2")
    for field in ("flip_test", "mean", "std"):
        assert getattr(made, field) == getattr(recipes.TRANSFER[recipe], field), field


HEAD = "--recipe original --epochs 2 --batch-size 2 --setting D"


@pytest.mark.parametrize("flip_test", [False, True])
def test_a_head_learns_the_same_from_features_computed_once_as_from_the_images(
    run, small, started, monkeypatch, change, flip_test
):
    passes, looks = [], 1 + flip_test
    change(recipes.TRANSFER, "original", flip_test=flip_test)

    def counted():
        backbone = one_layer()
        backbone.register_forward_hook(lambda *_: passes.append(1))
        return backbone

    monkeypatch.setattr(model, "make_backbone", counted)
    assert run(train, f"{HEAD} --run once", *started)[0] == 0
    assert len(passes) == 4  # two forms of two sets
    monkeypatch.setattr(frozen, "applies", lambda *_: False)
    assert run(train, f"{HEAD} --run always", *started)[0] == 0
    assert len(passes) == 4 + 2 * (3 + looks)  # two epochs of three steps and the looks
    for ours, theirs in zip(log(small / "once"), log(small / "always"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert ours["accuracy"] == theirs["accuracy"]
    ours, theirs = weights(small / "once"), weights(small / "always")
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in theirs)
    first = checkpoint.load(started[1], "p2").weights
    same({name: ours[f"backbone.{name}"] for name in first}, first)


@pytest.mark.parametrize(
    ("program", "flags", "steps"),
    [
        (pretrain, "--recipe paper --epochs 2", 4),
        (supervise, "--epochs 2", 4),
        (train, HEAD, 6),
    ],
    ids=["BYOL", "labels", "a head on features"],
)
def test_stopped_after_every_step_it_ends_where_an_unbroken_run_ends(
    run, small, started, program, flags, steps
):
    own = started if program is train else ()
    assert run(program, f"{flags} --run straight", *own)[0] == 0
    broken = [
        run(program, f"{flags} --run broken --max-minutes 0", *own)[0] for _ in range(steps + 1)
    ]
    assert broken == [STOPPED] * steps + [0]
    ours, theirs = (
        [line | {"seconds": 0} for line in log(small / run)] for run in ("straight", "broken")
    )
    assert ours == theirs
    same(state(small / "straight"), state(small / "broken"))


def test_other_initial_weights_or_labels_under_the_same_names_are_another_run(
    run, drawn, small, started
):
    folder = small / "copied"
    shutil.copytree(drawn, folder)
    assert run(train, "--epochs 1 --setting C", data=folder)[0] == 0
    backbone_file(small / "runs/p2_byol_hour/last.pt", 3)
    status, _, err = run(train, "--epochs 1 --setting C", data=folder)
    assert status == 2 and "contains a different run: data.backbone_file was" in err
    assert run(train, "--epochs 1 --setting C --fresh", data=folder)[0] == 0
    table = folder / "office" / "train.csv"
    header, *rows = csv.reader(table.read_text().splitlines())
    for row, (*_, label) in zip(rows, rows[1:] + [list(rows[0])], strict=True):
        row[2] = label
    table.write_text("".join(",".join(row) + "\n" for row in [header, *rows]))
    status, _, err = run(train, "--epochs 1 --setting C", data=folder)
    assert status == 2 and "contains a different run: data.labels was" in err


def test_labels_start_from_the_courses_file_or_else_from_the_run_of_the_same_recipe(
    run, drawn, small
):
    folder = small / "copied"
    shutil.copytree(drawn, folder)
    own = backbone_file(small / "runs/p2_supervised_hour/last.pt", 1)
    assert run(train, "--epochs 1 --setting B --run own", data=folder)[0] == 0
    course = backbone_file(folder / "pretrain_model_SL.pt", 2)
    assert run(train, "--epochs 1 --setting B --run course", data=folder)[0] == 0
    for name, file in (("own", own.relative_to(small)), ("course", course)):
        made = checkpoint.load(small / name / "last.pt", "p2").made
        assert made["data"]["backbone"] == str(file)
        assert made["data"]["backbone_file"] == digest(file)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("A --backbone x.pt", "setting A starts from random weights; omit --backbone"),
        ("B", "from runs/p2_supervised_hour/last.pt, which does not exist; make it with"),
        ("D --backbone x.pt", "no file x.pt; correct --backbone, or omit it"),
        ("E", "runs/p2_byol_hour/last.pt, which does not exist; make it with python3"),
        ("C --backbone other.pt", "other.pt does not fit this network"),
    ],
)
def test_an_initial_backbone_that_is_missing_or_unfit_is_one_line(run, small, flags, says):
    torch.save({"0.weight": torch.ones(1)}, small / "other.pt")
    status, _, err = run(train, f"--setting {flags}")
    assert (status, err.count("\n")) == (2, 1) and says in err
    assert not (small / "runs").exists()
