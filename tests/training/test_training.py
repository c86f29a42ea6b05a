"""The four training programs on tiny drawn data: they learn, stop, go on and save."""

import json
import shutil
from unittest.mock import ANY

import pytest
import torch
from conftest import ROOT, one_layer, refused, rows, same, words
from conftest import log as log_with_times
from PIL import Image
from torchvision import models

from checkpoints.ship import describe
from checkpoints.ship import main as ship
from core import checkpoint
from p1 import inference as p1_inference
from p1 import pretrain as p1_pretrain
from p1 import train as p1
from p2 import inference as p2_inference
from p2 import model as p2_model
from p2 import pretrain as p2_pretrain
from p2 import supervise as p2_supervise
from p2 import train as p2
from p3 import inference as p3_inference
from p3 import pretrain as p3_pretrain
from p3 import train as p3
from p3.model import OF_MODEL

CPU = ("--device", "cpu")


def log(run):
    """The log without its times."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log_with_times(run)]


PROGRAMS = {  # each training program with its flags, as one tiny run of two epochs of two steps
    "p1": (p1.main, "p1_data", "--batch-size 25 --recipe hour"),
    "byol": (p2_pretrain.main, "p2_data", "--batch-size 4 --recipe hour"),
    "p2": (p2.main, "p2_data", "--batch-size 32 --recipe hour --setting A"),
    "p3": (p3.main, "p3_data", "--batch-size 2 --recipe original"),
}
SHARED = ("--epochs", "2", *CPU)


def train(call, tiny, name, run, *flags):
    main, data, own = PROGRAMS[name]
    status, _, err = call(main, "--data", tiny / data, *words(own), *SHARED, "--run", run, *flags)
    return status, err


FINISHED = {}  # the folders of the runs below


@pytest.fixture
def unbroken(call, tiny, tmp_path_factory):
    """The folder of a program's run that nothing interrupted; each is made only once."""

    def folder(name):
        if name not in FINISHED:
            run = tmp_path_factory.mktemp(name) / "run"
            assert train(call, tiny, name, run) == (0, "")
            FINISHED[name] = run
        return FINISHED[name]

    return folder


@pytest.fixture
def small_resnet(monkeypatch):
    """One layer in ResNet50's place."""
    for module in (p2_model, p2_pretrain):
        monkeypatch.setattr(module, "make_backbone", one_layer)
        monkeypatch.setattr(module, "FEATURES", 8)


def results(run):
    """The state that a run has left, and the weights that it has saved."""
    return [checkpoint.read(run / "state.pt")["state"], checkpoint.read(run / "last.pt")["weights"]]


slow = pytest.mark.slow  # a ResNet50's state is written at every step
every_loop = pytest.mark.parametrize(
    "name", ["p1", pytest.param("byol", marks=slow), pytest.param("p2", marks=slow), "p3"]
)


@every_loop
def test_a_training_stopped_after_every_step_ends_where_an_unbroken_one_ends(
    call, tiny, tmp_path, unbroken, name
):
    stops = 0
    while (status := train(call, tiny, name, tmp_path, "--max-minutes", "0")[0]) == 75:
        stops += 1
        assert stops < 10
    assert status == 0 and stops == log(tmp_path)[-1]["steps"] == 4
    assert log(tmp_path) == log(unbroken(name)) and len(log(tmp_path)) == 2
    same(results(tmp_path), results(unbroken(name)))


@every_loop
def test_a_data_set_that_stays_on_the_disk_trains_to_the_same_bits(
    call, tiny, tmp_path, unbroken, name
):
    assert train(call, tiny, name, tmp_path, "--data-memory", "0") == (0, "")
    same(results(tmp_path), results(unbroken(name)))


@pytest.mark.usefixtures("small_resnet")
def test_what_training_saves_goes_through_the_graders_scripts(call, tiny, tmp_path, unbroken):
    backbone = tmp_path / "byol/last.pt"
    assert train(call, tiny, "byol", tmp_path / "byol", "--epochs", "1") == (0, "")
    flags = ("--data", tiny / "p2_data", *words("--epochs 1 --batch-size 16"), *CPU)
    flags += ("--backbone", backbone)
    for setting in "CE":
        answer = call(p2.main, *flags, "--setting", setting, "--run", tmp_path / setting)
        assert answer[0] == 0, answer
    start = checkpoint.load(backbone, "p2").weights
    frozen, trained = (
        checkpoint.load(tmp_path / setting / "last.pt", "p2").weights for setting in "EC"
    )
    assert all(torch.equal(value, frozen[f"backbone.{name}"]) for name, value in start.items())
    assert not torch.equal(start["0.weight"], trained["backbone.0.weight"])

    office, answers = tiny / "p2_data/office", tmp_path / "answers"
    labelling = (p2_inference.main, office / "val.csv", office / "val", answers / "2.csv")
    for weights, *command in (
        (unbroken("p1") / "last.pt", p1_inference.main, tiny / "p1_data/val_50", answers / "1.csv"),
        (tmp_path / "E/best.pt", *labelling),
        (unbroken("p3") / "last.pt", p3_inference.main, tiny / "p3_data/validation", answers / "3"),
    ):
        status, _, err = call(*command, "--checkpoint", weights, *CPU)
        assert status == 0, err
    assert len(rows(answers / "1.csv")) == 51 and len(rows(answers / "2.csv")) == 66
    assert len(list((answers / "3").iterdir())) == 2
    refused(call(*labelling, "--checkpoint", backbone), "resnet50_backbone")


def test_a_shipped_checkpoint_is_what_the_manifest_says(call, tmp_path, unbroken):
    weights, manifest = unbroken("p1") / "last.pt", tmp_path / "manifest.json"
    manifest.write_text('{"checkpoints": [{"name": "p1_a.pt", "bytes": 1}, {"name": "p3_b.pt"}]}')
    options = ("--folder", tmp_path, "--data", tmp_path)
    assert call(ship, weights, "p1_a.pt", *options)[0] == 0
    listed = json.loads(manifest.read_text())["checkpoints"]
    assert [one["name"] for one in listed] == ["p1_a.pt", "p3_b.pt"]
    assert listed[0] == describe(tmp_path / "p1_a.pt", "p1_a.pt", tmp_path)
    assert listed[0]["bytes"] == weights.stat().st_size
    assert call(ship, weights, "p3_b.pt", *options)[0] == 2


@pytest.mark.parametrize(
    ("main", "data", "flags", "says"),
    [
        (p1.main, "no", "", "no folder"),
        (p1.main, "p1_data", "--model B", "--pretrained"),
        (p1.main, "p1_data", "--model B --pretrained none", "model B needs initial weights"),
        (p1.main, "p1_data", "--tune", "no class has two images"),
        (p2.main, "p2_data", "--setting A --backbone x.pt", "starts from random weights"),
        (
            p2.main,
            "p2_data",
            "--setting C --backbone x.pt",
            "no file x.pt; correct --backbone, or omit it",
        ),
        (p2.main, "p2_data", "--setting B --recipe demo", "not exist; choose a backbone with"),
        (p2.main, "p2_data", "--setting B", "with python3 -m p2.supervise --recipe original"),
        # Before any image is decoded: the folder of images is missing too.
        (p1.main, "no", "--model C --recipe large", "starts from runs/p1_C_best/last.pt"),
        (p3.main, "no", "--model B --recipe best", "starts from runs/p3_pretrain_B_best/last.pt"),
        (p3.main, "p3_data", "--recipe hour", "crops 256x256 pixels, but the images in"),
        (p3.main, "p3_data", "--batch-size 1", "a batch has 1 of"),
        (
            p3.main,
            "p3_data",
            "--set crop=0 --recipe best --pretrained none",
            "add --set crop_area=0,0",
        ),
        (p3.main, "p3_data", "--set drop_path=0.1", "drop_path is for model C only"),
        (p1.main, "p1_data", "--set drop_path=0.1", "drop_path is for model C only"),
        (p3.main, "no", "--pretrained none.pt", "none.pt"),  # before it decodes the images
        (p1.main, "no", "--model B --pretrained none.pt", "none.pt"),
    ],
)
def test_a_wrong_request_of_training_is_one_line(call, tiny, tmp_path, main, data, flags, says):
    request = ("--data", tiny / data, *words(flags), "--run", tmp_path / "run", *CPU)
    refused(call(main, *request), says)


def test_changed_masks_are_another_data_set(call, tiny, tmp_path):
    shutil.copytree(tiny / "p3_data", tmp_path / "p3_data")
    run = tmp_path / "run"
    assert train(call, tmp_path, "p3", run, "--max-minutes", "0")[0] == 75
    mask = next((tmp_path / "p3_data/train").glob("*_mask.png"))
    Image.new("RGB", (64, 64), (0, 0, 255)).save(mask)
    status, err = train(call, tmp_path, "p3", run)
    assert status == 2 and "contains a different run: data.train was" in err


def test_model_b_starts_from_weights_made_of_other_images(call, tiny, tmp_path, unbroken):
    (tmp_path / "train").mkdir()
    images = 3 * sorted((tiny / "p2_data/mini/train").iterdir())
    table = ["id,filename,label"]
    for k, path in enumerate(images):
        shutil.copy(path, tmp_path / "train" / f"{k}.jpg")
        table.append(f"{k},{k}.jpg,{'ab'[k % 3 == 0]}")
    (tmp_path / "labels.csv").write_text("\n".join(table))
    flags = ("--recipe", "hour", "--epochs", "1", *CPU)
    pretrain = (p1_pretrain.main, "--data", tmp_path, *flags, "--batch-size", "8", "--run")
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(*pretrain, first)[0] == 0
    assert checkpoint.load(first / "last.pt", "p1").classes == ("a", "b")
    assert 0 <= log(first)[0]["accuracy"] <= 1

    p1_train = (p1.main, "--data", tiny / "p1_data", "--batch-size", "50", *flags)
    model_b = (*p1_train, "--model", "B", "--run", second, "--pretrained", first / "last.pt")
    status, out, _ = call(*model_b)
    assert status == 0 and "replaced the head: classifier.1.weight (2, 1792) -> (50, 1792)" in out
    shutil.copy(second / "snapshots/epoch_0001.pt", first / "last.pt")
    status, _, err = call(*model_b)
    assert status == 2 and "contains a different run: data.pretrained_file was" in err

    model_a = (*p1_train, "--model", "A", "--run", tmp_path / "on", "--pretrained")
    scratch = unbroken("p1") / "last.pt"
    says = "not a checkpoint of model A, which is trained from scratch"
    refused(call(*model_a, second / "last.pt"), says)
    status, out, _ = call(*model_a, scratch)
    assert status == 0 and f"the whole network from {scratch}" in out

    (tmp_path / "labels.csv").write_text("filename,label\nnowhere.jpg,a\n")
    refused(call(*pretrain, tmp_path / "third"), "nowhere.jpg")


def test_problem_3s_model_b_starts_from_its_pre_trained_backbone(call, labelled, tmp_path):
    run, mini = tmp_path / "first", labelled / "p2_data/mini"
    pretrain = (p3_pretrain.main, "--data", mini, "--epochs", "1", *CPU)
    preview = tmp_path / "preview.png"
    assert call(*pretrain, "--preview", preview)[0] == 0 and preview.exists()
    assert call(*pretrain, "--batch-size", "4", "--run", run)[0] == 0
    assert 0 <= log(run)[0]["accuracy"] <= 1
    last = tmp_path / "without an average"
    assert call(*pretrain, "--batch-size", "4", "--set", "average=0", "--run", last)[0] == 0
    saved = checkpoint.load(last / "last.pt", "p3").weights
    trained = torch.load(last / "state.pt", weights_only=True)["state"]["network"]
    for name, value in saved.items():
        assert torch.equal(value, trained[name.removeprefix("network.")].to(value.dtype)), name

    flags = words("--model B --recipe best --set crop=32 --batch-size 2 --epochs 1 --device cpu")
    flags += ["--data", labelled / "p3_data", "--run", tmp_path / "second", "--pretrained"]
    status, out, _ = call(p3.main, *flags, run / "last.pt")
    assert status == 0 and f"loaded the backbone from {run / 'last.pt'}" in out
    images = labelled / "p3_data/validation"
    wrong = call(p3_inference.main, images, tmp_path / "masks", "--checkpoint", run / "last.pt")
    refused(wrong, str(run / "last.pt"))


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

ALL = {**PROGRAMS, "supervised": (p2_supervise.main, "p2_data", "")}


@pytest.mark.parametrize("name", list(ALL))
def test_a_preview_shows_the_first_batch_and_trains_nothing(call, labelled, tmp_path, name):
    def preview(*more):
        assert call(*command, picture, *more) == (0, ANY, "") and not (tmp_path / "run").exists()
        return picture.read_bytes()

    main, data, flags = ALL[name]
    picture = tmp_path / "seen.png"
    command = (main, *words(flags), *SHARED, "--data", labelled / data, "--run", tmp_path / "run")
    command += ("--preview",)
    first = preview()
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width >= 128
        assert len(image.convert("RGB").getcolors(2**24)) > 100
    assert preview() == first != preview("--seed", "1")
    status, _, err = call(*command, tmp_path)
    assert status == 2 and err.count("\n") == 1


def test_a_preview_needs_no_weights_and_goes_not_among_the_data(call, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "data")
    for main, data, flags in (
        (p1.main, "p1_data", "--model B"),
        (p2.main, "p2_data", "--setting C"),
        (p3.main, "p3_data", "--model A --recipe best --set crop=32"),
    ):
        command = (main, *words(flags), "--data", tmp_path / "data" / data, *CPU, "--preview")
        assert call(*command, tmp_path / f"{data}.png") == (0, ANY, "")
        image = next((tmp_path / "data" / data).rglob("*.png"), tmp_path / "data" / data / "x.png")
        refused(call(*command, image), "is in the folder of the data; choose another --preview")


def test_images_that_are_not_square_are_not_turned(call, tiny, tmp_path):
    for path in (*(tiny / "p3_data").glob("*/*.jpg"), *(tiny / "p3_data").glob("*/*.png")):
        copy = tmp_path / path.relative_to(tiny)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).crop((0, 0, 64, 48)).save(copy)
    command = (p3.main, "--data", tmp_path / "p3_data", "--run", tmp_path / "run", *CPU)
    flags = words("--recipe best --set crop=32 --pretrained none --epochs 1 --batch-size 2")
    refused(call(*command, *flags), "turns whole images, which must be square")
    assert call(*command, *flags, "--set", "symmetry=flip")[0] == 0


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
    says = "no value 'learning_rate' in the recipe. Did you mean lr?"
    refused(call(p1.main, *flags, "--set", "learning_rate=1"), says)
    other = call(p1.main, *flags, "--set", "lr=0.02", "--run", run, "--batch-size", "25")
    refused(other, "recipe.lr was 0.01, is now 0.02")


@pytest.mark.usefixtures("small_resnet")
@pytest.mark.parametrize(
    ("name", "validation", "scores"),
    [
        ("p1", "val_50", "accuracy"),
        ("p3", "validation", "mean_iou"),
        ("p2", "office/val", "accuracy"),
        ("supervised", "office/val", "accuracy"),
    ],
)
def test_tuning_holds_out_a_part_of_the_training_split(
    call, labelled, tmp_path, monkeypatch, name, validation, scores
):
    main, data, flags = ALL[name]
    folder = shutil.copytree(labelled / data, tmp_path / "data")
    shutil.rmtree(folder / validation)  # it is not looked at
    for path in (folder / "train_50").glob("*.png"):
        shutil.copy(path, path.with_name(f"{path.stem}again.png"))
    if data == "p2_data":
        (folder / "office/val.csv").unlink()
        for part, table in (
            ("mini/train", "mini/labels.csv"),
            ("office/train", "office/train.csv"),
        ):
            names = [path.name for path in sorted((folder / part).iterdir())[:8]]
            lines = [f"{k},{name},{k % 2}" for k, name in enumerate(names)]
            (folder / table).write_text("\n".join(["id,filename,label", *lines]))
        flags = f"{flags} --set batch_size=4 --recipe hour".replace("--batch-size 32", "")
    monkeypatch.chdir(tmp_path)
    tuning = (*words(flags), "--data", folder, "--set", "epochs=1", "--tune", *CPU)
    assert call(main, *tuning) == (0, ANY, "")
    (run,) = (tmp_path / "runs").iterdir()
    assert "_tune_" in run.name
    (line,) = log(run)
    # Of 50 in place of 100 images, of 4 in place of 5 pairs, of 6 in place of 8 images.
    assert line["steps"] == (1 if data == "p2_data" else 2) and 0 <= line[scores] <= 1
    assert data != "p2_data" or line[scores] in (0.0, 0.5, 1.0)  # of the 2 that are held out
