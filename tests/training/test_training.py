"""The four training programs on tiny drawn data: they learn, stop, go on and save."""

import json
import shutil
from unittest.mock import ANY

import pytest
import torch
from conftest import ROOT, same, words
from PIL import Image
from torch import nn
from torchvision import models

from checkpoints.ship import describe
from checkpoints.ship import main as ship
from core import checkpoint
from p1 import inference as p1_inference
from p1 import pretrain as p1_pretrain
from p1 import train as p1
from p1.model import mobilenet_v2
from p2 import inference as p2_inference
from p2 import pretrain as p2_pretrain
from p2 import supervise as p2_supervise
from p2 import train as p2
from p3 import inference as p3_inference
from p3 import train as p3
from p3.model import OF_MODEL, DeepLabv3
from training import loop

CPU = ("--device", "cpu")


def log(run):
    """The log without its times."""
    return [
        {k: v for k, v in json.loads(line).items() if k != "seconds"}
        for line in (run / "log.jsonl").read_text().splitlines()
    ]


SHARED = ("--epochs", "2", *CPU)
PROGRAMS = {  # each training program with its flags, as one tiny run of two epochs of two steps
    "p1": (p1.main, "p1_data", ("--batch-size", "25", "--recipe", "hour", *SHARED)),
    "byol": (p2_pretrain.main, "p2_data", ("--batch-size", "4", "--recipe", "hour", *SHARED)),
    "p2": (
        p2.main,
        "p2_data",
        ("--batch-size", "32", "--setting", "A", "--recipe", "hour", *SHARED),
    ),
    "p3": (p3.main, "p3_data", ("--batch-size", "2", "--recipe", "original", *SHARED)),
}


def train(call, tiny, name, run, *flags):
    main, data, standard = PROGRAMS[name]
    status, _, err = call(main, "--data", tiny / data, *standard, "--run", run, *flags)
    return status, err


slow = pytest.mark.slow  # a ResNet50's state is written at every step


@pytest.mark.parametrize(
    "name", ["p1", pytest.param("byol", marks=slow), pytest.param("p2", marks=slow), "p3"]
)
def test_a_training_stopped_after_every_step_ends_where_an_unbroken_one_ends(
    call, tiny, tmp_path, name
):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert train(call, tiny, name, straight) == (0, "")
    stops = 0
    while (status := train(call, tiny, name, broken, "--max-minutes", "0")[0]) == 75:
        stops += 1
        assert stops < 10
    assert status == 0 and stops == log(straight)[-1]["steps"] == 4
    assert log(straight) == log(broken) and len(log(straight)) == 2
    ours, theirs = (
        torch.load(run / "state.pt", weights_only=True)["state"] for run in (straight, broken)
    )
    same(ours, theirs)


@pytest.mark.parametrize(
    "name", ["p1", pytest.param("byol", marks=slow), pytest.param("p2", marks=slow), "p3"]
)
def test_a_data_set_that_stays_on_the_disk_trains_to_the_same_bits(call, tiny, tmp_path, name):
    for run, memory in (("memory", "9"), ("disk", "0")):
        assert train(
            call, tiny, name, tmp_path / run, "--epochs", "1", "--data-memory", memory
        ) == (0, "")
    same(
        *(
            torch.load(tmp_path / run / "state.pt", weights_only=True)["state"]
            for run in ("memory", "disk")
        )
    )


def test_what_training_saves_goes_through_the_graders_scripts(call, tiny, tmp_path):
    for name in ("p1", "byol", "p3"):
        assert train(call, tiny, name, tmp_path / name, "--epochs", "1") == (0, "")
    flags = ("--data", tiny / "p2_data", "--epochs", "1", "--batch-size", "16", *CPU)
    for setting in "CE":
        answer = call(
            p2.main,
            *flags,
            "--setting",
            setting,
            "--backbone",
            tmp_path / "byol/last.pt",
            "--run",
            tmp_path / setting,
        )
        assert answer[0] == 0, answer
    start = checkpoint.load(tmp_path / "byol/last.pt", "p2").weights
    frozen, trained = (
        checkpoint.load(tmp_path / setting / "last.pt", "p2").weights for setting in "EC"
    )
    assert all(torch.equal(value, frozen[f"backbone.{name}"]) for name, value in start.items())
    assert not torch.equal(start["conv1.weight"], trained["backbone.conv1.weight"])

    office, answers = tiny / "p2_data" / "office", tmp_path / "answers"
    for main, arguments in (
        (
            p1_inference.main,
            (tiny / "p1_data/val_50", answers / "1.csv", "--checkpoint", tmp_path / "p1/last.pt"),
        ),
        (
            p2_inference.main,
            (
                office / "val.csv",
                office / "val",
                answers / "2.csv",
                "--checkpoint",
                tmp_path / "E/best.pt",
            ),
        ),
        (
            p3_inference.main,
            (tiny / "p3_data/validation", answers / "3", "--checkpoint", tmp_path / "p3/last.pt"),
        ),
    ):
        status, _, err = call(main, *arguments, *CPU)
        assert status == 0, err
    assert len((answers / "1.csv").read_text().splitlines()) == 51
    assert len((answers / "2.csv").read_text().splitlines()) == 66
    assert len(list((answers / "3").iterdir())) == 2
    status, _, err = call(
        p2_inference.main,
        office / "val.csv",
        office / "val",
        answers / "x",
        "--checkpoint",
        tmp_path / "byol/last.pt",
    )
    assert status == 2 and "resnet50_backbone" in err


def test_a_shipped_checkpoint_is_what_the_manifest_says(call, tiny, tmp_path):
    flags = (
        "--data",
        tiny / "p1_data",
        *words("--batch-size 50 --epochs 1"),
        *CPU,
        "--run",
        tmp_path / "run",
    )
    assert call(p1.main, *flags)[0] == 0
    (tmp_path / "manifest.json").write_text(
        '{"checkpoints": [{"name": "p1_a.pt", "bytes": 1}, {"name": "p3_b.pt"}]}'
    )
    options = ("--folder", tmp_path, "--data", tmp_path)
    assert call(ship, tmp_path / "run/last.pt", "p1_a.pt", *options)[0] == 0
    listed = json.loads((tmp_path / "manifest.json").read_text())["checkpoints"]
    assert [one["name"] for one in listed] == ["p1_a.pt", "p3_b.pt"]
    assert listed[0] == describe(tmp_path / "p1_a.pt", "p1_a.pt", tmp_path)
    assert listed[0]["bytes"] == (tmp_path / "run/last.pt").stat().st_size
    assert call(ship, tmp_path / "run/last.pt", "p3_b.pt", *options)[0] == 2


def test_wrong_requests_of_training_are_one_line(call, tiny, tmp_path):
    for main, flags, says in (
        (p1.main, ("--data", tmp_path / "no"), "no folder"),
        (p1.main, ("--data", tiny / "p1_data", "--model", "B"), "--pretrained"),
        (
            p1.main,
            ("--data", tiny / "p1_data", *words("--model B --recipe hour --pretrained none")),
            "model B needs --pretrained",
        ),
        (
            p2.main,
            ("--data", tiny / "p2_data", "--setting", "A", "--backbone", "x.pt"),
            "starts from random weights",
        ),
        (
            p2.main,
            ("--data", tiny / "p2_data", "--setting", "C", "--backbone", "x.pt"),
            "setting C starts from x.pt, which does not exist; make it with p2.pretrain",
        ),
        (
            p2.main,
            ("--data", tiny / "p2_data", "--setting", "B", "--run", tmp_path / "r"),
            "make it with p2.supervise",
        ),
        (
            p3.main,
            ("--data", tiny / "p3_data", "--recipe", "hour"),
            "crops 256x256 pixels, but the images in",
        ),
        (
            p3.main,
            ("--data", tiny / "p3_data", "--batch-size", "1", "--run", tmp_path / "r3"),
            "a batch has 1 image",
        ),
    ):
        status, _, err = call(main, *flags, *CPU)
        assert status == 2 and says in err and err.count("\n") == 1


def test_changed_masks_are_another_data_set(call, tiny, tmp_path):
    folder = tmp_path / "p3_data"
    shutil.copytree(tiny / "p3_data", folder)
    flags = (
        "--data",
        folder,
        *words("--recipe original --batch-size 2 --epochs 1"),
        "--run",
        tmp_path / "run",
        *CPU,
    )
    assert call(p3.main, *flags, "--max-minutes", "0")[0] == 75
    mask = next((folder / "train").glob("*_mask.png"))
    Image.new("RGB", (64, 64), (0, 0, 255)).save(mask)
    status, _, err = call(p3.main, *flags)
    assert status == 2 and "contains a different run: data.train was" in err


@pytest.mark.parametrize(
    ("make", "side", "classes"), [(lambda: mobilenet_v2(50), 1, 50), (DeepLabv3, 4, 7)]
)
def test_one_batch_can_be_learned_by_heart(make, side, classes):
    torch.manual_seed(0)
    network, images = (
        make().train(),
        torch.rand(8, 3, 32 if side == 1 else 64, 32 if side == 1 else 64),
    )
    truth = (
        torch.randint(classes, (8, side, side)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    )
    truth = truth[:, 0, 0] if side == 1 else truth
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(network(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_the_images_held_out_are_a_share_of_every_class_drawn_by_the_seed():
    labels = torch.cat([torch.arange(16).repeat(64), torch.tensor([16, 16, 17])])  # the csv cycles
    held = loop.held_out(labels, 0, p1_pretrain.HOLD_OUT)
    assert labels[held].bincount(minlength=18).tolist() == [3] * 16 + [1, 0]
    assert torch.equal(held, loop.held_out(labels, 0, p1_pretrain.HOLD_OUT))
    assert not torch.equal(held, loop.held_out(labels, 1, p1_pretrain.HOLD_OUT))


def test_model_b_starts_from_weights_made_of_other_images(call, tiny, tmp_path):
    images = sorted((tiny / "p2_data/mini/train").iterdir())
    (tmp_path / "train").mkdir()
    for k, path in enumerate(images * 3):
        (tmp_path / "train" / f"{k}.jpg").write_bytes(path.read_bytes())
    rows = [f"{k},{k}.jpg,{'ab'[k % 3 == 0]}\n" for k in range(len(images) * 3)]
    (tmp_path / "labels.csv").write_text("id,filename,label\n" + "".join(rows))
    flags = ("--recipe", "hour", "--epochs", "1", *CPU)
    assert (
        call(
            p1_pretrain.main,
            "--data",
            tmp_path,
            "--batch-size",
            "8",
            "--run",
            tmp_path / "first",
            *flags,
        )[0]
        == 0
    )
    assert checkpoint.load(tmp_path / "first/last.pt", "p1").classes == ("a", "b")
    assert 0 <= log(tmp_path / "first")[0]["accuracy"] <= 1

    second = (
        "--data",
        tiny / "p1_data",
        *words("--model B --batch-size 50"),
        "--run",
        tmp_path / "second",
        *flags,
    )
    status, out, _ = call(p1.main, *second, "--pretrained", tmp_path / "first/last.pt")
    assert status == 0 and "replaced the head: classifier.1.weight (2, 1792) -> (50, 1792)" in out

    (tmp_path / "first/last.pt").write_bytes(
        (tmp_path / "second/snapshots/epoch_0001.pt").read_bytes()
    )
    status, _, err = call(p1.main, *second, "--pretrained", tmp_path / "first/last.pt")
    assert status == 2 and "contains a different run: data.pretrained_file was" in err

    model_a = ("--data", tiny / "p1_data", *words("--model A --batch-size 50"), *flags)
    start = ("--run", tmp_path / "on", "--pretrained")
    status, _, err = call(p1.main, *model_a, *start, tmp_path / "second/last.pt")
    assert status == 2 and "not a checkpoint of model A, which is trained from scratch" in err
    scratch = tmp_path / "scratch"
    assert call(p1.main, *model_a, "--run", scratch)[0] == 0
    status, out, _ = call(p1.main, *model_a, *start, scratch / "last.pt")
    assert status == 0 and f"the whole network from {scratch / 'last.pt'}" in out

    (tmp_path / "labels.csv").write_text("filename,label\nnowhere.jpg,a\n")
    status, _, err = call(p1_pretrain.main, "--data", tmp_path, "--run", tmp_path / "third", *flags)
    assert status == 2 and "nowhere.jpg" in err


@pytest.mark.slow  # VGG16 and FCN32s: 134 million parameters each, written and read
def test_problem_3s_model_a_starts_from_vgg16(call, tiny, tmp_path):
    torch.save(models.vgg16().state_dict(), tmp_path / "vgg16.pth")
    flags = words("--model A --recipe original --batch-size 2 --epochs 1 --device cpu")
    flags += ["--data", tiny / "p3_data", "--run", tmp_path / "run"]
    status, out, err = call(p3.main, *flags, "--pretrained", tmp_path / "vgg16.pth")
    assert (status, err) == (0, "") and "score.weight" in out
    assert checkpoint.load(tmp_path / "run/last.pt", "p3").architecture == OF_MODEL["A"]
    assert 0 <= log(tmp_path / "run")[0]["mean_iou"] <= 1


# --- before and about a training ---

ALL = {**PROGRAMS, "supervised": (p2_supervise.main, "p2_data", SHARED)}


@pytest.fixture
def labelled(tiny, tmp_path):
    """The drawn data, with labels for mini."""
    folder = tmp_path / "labelled"
    shutil.copytree(tiny, folder)
    names = sorted(path.name for path in (folder / "p2_data/mini/train").iterdir())
    rows = "".join(f"{k},{name},{k % 2}\n" for k, name in enumerate(names))
    (folder / "p2_data/mini/labels.csv").write_text(f"id,filename,label\n{rows}")
    return folder


@pytest.mark.parametrize("name", list(ALL))
def test_a_preview_shows_the_first_batch_and_trains_nothing(call, labelled, tmp_path, name):
    main, data, flags = ALL[name]
    picture, run = tmp_path / "seen.png", tmp_path / "run"
    flags = (*flags, "--data", labelled / data, "--run", run)
    status, out, err = call(main, *flags, "--preview", picture)
    assert (
        (status, err) == (0, "")
        and f"wrote {picture}" in out
        and "images of the first batch" in out
    )
    assert not run.exists()
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width >= 128
        assert len(image.convert("RGB").getcolors(2**24)) > 100
    first = picture.read_bytes()
    assert call(main, *flags, "--preview", picture)[0] == 0 and picture.read_bytes() == first
    assert call(main, *flags, "--seed", "1", "--preview", picture)[0] == 0
    assert picture.read_bytes() != first
    status, _, err = call(main, *flags, "--preview", tmp_path)
    assert status == 2 and err.count("\n") == 1


@pytest.mark.parametrize("name", list(ALL))
def test_help_and_the_list_of_recipes_name_values_scores_and_commands(call, name):
    main, _, _ = ALL[name]
    status, out, err = call(main, "--help", "--recipe", "hour", "--set", "lr=0.125")
    assert (status, err) == (0, "") and "--max-minutes" in out and "\n  lr=0.125\n" in out
    status, out, err = call(main, "--recipe", "list")
    assert (status, err) == (0, "")
    assert "original: " in out and "hour: " in out and "--recipe hour" in out
    if name == "p1":
        log = (ROOT / "results/p1_A_report/log.jsonl").read_text().splitlines()
        last = json.loads(log[-1])
        reached = f"measured: accuracy {last['accuracy']:.4f} after {last['epoch']} epochs"
        assert reached in out


def test_a_changed_value_is_trained_with_and_names_the_runs_folder(
    call, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = ("--data", tiny / "p1_data", "--recipe", "report", "--epochs", "1", *CPU)
    assert call(p1.main, *flags, "--set", "batch_size=25", "--set", "lr=0.01")[0] == 0
    run = tmp_path / "runs/p1_A_original_batch_size=25_lr=0.01"
    assert log(run)[0]["lr"] == 0.01 and log(run)[0]["steps"] == 2
    assert json.loads((run / "run.json").read_text())["recipe"]["lr"] == 0.01
    status, _, err = call(p1.main, *flags, "--set", "learning_rate=1")
    assert status == 2 and "no value 'learning_rate' in the recipe. Did you mean lr?" in err
    assert err.count("\n") == 1
    status, _, err = call(p1.main, *flags, "--set", "lr=0.02", "--run", run, "--batch-size", "25")
    assert status == 2 and "recipe.lr was 0.01, is now 0.02" in err


@pytest.mark.parametrize("name", ["p1", "p3"])
def test_tuning_holds_out_a_part_of_the_training_split(call, tiny, tmp_path, name):
    main, data, flags = PROGRAMS[name]
    folder = tmp_path / "data"
    shutil.copytree(tiny / data, folder)
    for path in (folder / "train_50").glob("*.png"):
        shutil.copy(path, path.with_name(f"{path.stem}again.png"))
    shutil.rmtree(folder / ("val_50" if name == "p1" else "validation"))  # it is not looked at
    flags = (*flags, "--data", folder, "--tune", "--epochs", "1", "--run", tmp_path / "run")
    assert call(main, *flags)[0] == 0
    line = log(tmp_path / "run")[0]
    assert line["steps"] == 2  # of 50 in place of 100 images, and of 4 in place of 5 pairs
    assert 0 <= line["accuracy" if name == "p1" else "mean_iou"] <= 1


@pytest.mark.parametrize("name", ["p2", "supervise"])
def test_tuning_problem_2_holds_out_a_part_of_the_training_split(
    call, tiny, tmp_path, monkeypatch, name
):
    folder = tmp_path / "data"
    shutil.copytree(tiny / "p2_data", folder)
    (folder / "office/val.csv").unlink()  # it is not looked at
    shutil.rmtree(folder / "office/val")
    names = [f"{k}.png" for k in range(8)]
    pictures = "mini/train" if name == "supervise" else "office/train"
    table = folder / ("mini/labels.csv" if name == "supervise" else "office/train.csv")
    image = next((tiny / "p2_data/office/train").iterdir())
    for file in names:
        shutil.copy(image, folder / pictures / file)
    rows = "".join(f"{k},{file},{k % 2}\n" for k, file in enumerate(names))
    table.write_text(f"id,filename,label\n{rows}")
    monkeypatch.chdir(tmp_path)
    main = p2.main if name == "p2" else p2_supervise.main
    flags = ("--data", folder, "--set", "epochs=1", "--set", "batch_size=4", "--recipe", "hour")
    flags += CPU + (("--setting", "A") if name == "p2" else ())
    assert call(main, *flags, "--tune") == (0, ANY, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert "_hour_tune_" in run.name
    (line,) = log(run)
    assert line["steps"] == 1  # of 6 images, in place of 2 of all 8
    assert line["accuracy"] in (0.0, 0.5, 1.0)  # of the 2 that are held out


def test_a_set_of_which_nothing_can_be_held_out_is_refused(call, tiny, tmp_path):
    flags = ("--data", tiny / "p1_data", "--tune", "--run", tmp_path / "run", *CPU)
    status, _, err = call(p1.main, *flags)
    assert status == 2 and "no class has two images" in err and err.count("\n") == 1
