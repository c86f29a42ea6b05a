"""Problem 3's figures, and a section that measures what it states."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import draw, write_log, write_run
from pages import cells, check_values, gaps, of_kind, table, text_of, values_in
from PIL import Image
from torch import nn

import mean_iou_evaluate
from core.cli import InputError
from p3 import data, inference
from p3.model import DeepLabv3
from p3.recipes import RECIPES
from report import html, markdown, problem3
from report import problem3_figures as figures
from report import problem3_predictions as predictions
from report import runs as runlog
from report.measures import Measures, Site
from report.page import Drawing, Layers


def words_of(figure):
    return " | ".join(text.get_text() for text in figure.axes[0].texts)


# --- predictions and scores ---


def test_changes_and_scores_of_a_small_mask():
    truth = np.array([[0, 0, 1, 1, 6]], dtype=np.uint8)
    first, last = (
        np.array([[0, 1, 0, 0, 0]], dtype=np.uint8),
        np.array([[1, 0, 1, 0, 6]], dtype=np.uint8),
    )
    found = [predictions.CHANGES[index] for index in predictions.changes(truth, first, last)[0]]
    assert found == ["broken", "fixed", "fixed", "wrong in both", "unknown in the truth"]
    assert predictions.scores(truth, last) == pytest.approx(
        {"accuracy": 2 / 4, "mean_iou": 1 / 3}
    )  # urban 1/3, agriculture 1/3
    assert predictions.scores(np.full((2, 2), 6, np.uint8), np.full((2, 2), 6, np.uint8)) == {}


def test_a_confusion_matrix_is_drawn_in_per_cent_of_its_rows():
    shares = predictions.rows_of(np.diag([3, 2, 0, 4, 5, 6, 7]) + np.eye(7, k=1, dtype=int))
    assert shares[0, 0] == 0.75 and shares[6, 6] == 1 and shares[2, 3] == 1
    assert predictions.rows_of(np.zeros((7, 7), dtype=int)).tolist() == np.zeros((7, 7)).tolist()
    assert "75" in words_of(figures.matrix(shares)) and "100" in words_of(figures.matrix(shares))


@pytest.fixture
def validation(tmp_path):
    """``hw1_data``, in the course's layout: three images of 64 x 64 with drawn masks."""
    folder = tmp_path / "hw1_data" / "p3_data" / "validation"
    for seed, name in enumerate(("0013", "0062", "0104")):
        draw(folder / f"{name}_sat.jpg", 64, 64, seed)
        coarse = np.random.default_rng(seed).integers(0, 7, (4, 4), dtype=np.uint8)
        Image.fromarray(data.colours_of(coarse.repeat(16, 0).repeat(16, 1))).save(
            folder / f"{name}_mask.png"
        )
    return tmp_path / "hw1_data"


def test_predictions_are_those_of_the_graders_script(p3_checkpoint, validation, call, tmp_path):
    folder, out = validation / "p3_data" / "validation", tmp_path / "masks"
    status, _, _ = call(
        inference.main, folder, out, "--checkpoint", p3_checkpoint, "--device", "cpu"
    )
    assert status == 0
    predict = inference.predictor(p3_checkpoint, torch.device("cpu"))[0]
    image, _ = predictions.read_pair(folder / "0062_sat.jpg")
    assert np.array_equal(
        data.colours_of(predictions.mask(predict, image)),
        np.array(Image.open(out / "0062_mask.png")),
    )
    counts = predictions.confusion(predict, folder).numpy()
    assert np.array_equal(counts, mean_iou_evaluate.confusion(folder, out))


def test_an_image_that_cannot_be_read_is_named(validation):
    path = validation / "p3_data" / "validation" / "0013_sat.jpg"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="0013_sat.jpg: cannot be read"):
        predictions.read_pair(path)


# --- the section ---

IOUS = {
    "urban": 0.5,
    "agriculture": 0.8,
    "rangeland": 0.1,
    "forest": 0.6,
    "water": 0.4,
    "barren": 0.3,
}


@pytest.fixture
def run(tmp_path, p3_checkpoint):
    """A run of model B with three epochs and their checkpoints; only the middle one differs."""
    folder = tmp_path / "runs" / "p3_B_trial"
    (folder / "snapshots").mkdir(parents=True)
    recipe = dataclasses.asdict(RECIPES["hour"]["B"]) | {"epochs": 3}
    fields = {"data": {"pretrained": "None"}, "seed": 4, "command": "python3 -m p3.train"}
    write_run(folder, lines_of(IOUS), recipe, **fields)
    for name in ("snapshots/epoch_0001.pt", "last.pt"):
        shutil.copy(p3_checkpoint, folder / name)
    other = torch.load(p3_checkpoint, weights_only=True)
    other["weights"]["network.classifier.4.bias"] = other["weights"][
        "network.classifier.4.bias"
    ].flip(0)
    torch.save(other, folder / "snapshots" / "epoch_0002.pt")
    return folder


def lines_of(ious):
    """A log's lines of three epochs, of which the second is the best."""
    lines = []
    for epoch, factor in ((1, 0.5), (2, 1.2), (3, 1.0)):
        values = {f"iou_{name}": iou * factor for name, iou in ious.items()}
        mean = sum(values.values()) / len(values)
        lines.append({"loss": 1 / epoch, "lr": 1e-3 / epoch, "mean_iou": mean, **values})
    return lines


def site_of(run, folder, out, images=("0013", "0062", "0104")):
    logs = runlog.read_all(run.parent) if run else []
    return Site(logs, folder, images, Measures(out), torch.device("cpu"))


def test_the_section_states_what_was_logged_and_measured(run, validation, tmp_path):
    blocks = problem3.section(site_of(run, validation, tmp_path / "out"))
    assert list(gaps(blocks).values()) == [problem3.MAKE["A"], problem3.MAKE["C"]]
    assert check_values(blocks, run.parent, tmp_path / "out") > 50
    values = values_in(blocks)

    layers = of_kind(blocks, Layers)
    assert [list(one.layers) for one in layers] == [
        ["image", "truth", "epoch 1", "epoch 2", "epoch 3", "errors"]
    ] * 3
    one = layers[1]
    truth = np.array(Image.open(validation / "p3_data" / "validation" / "0062_mask.png"))
    assert np.array_equal(one.layers["truth"], truth)
    right = (one.layers["epoch 2"] == truth).all(2)[data.classes_of(truth) != data.UNKNOWN].mean()
    assert next(
        v for v in values if v.source.endswith("epoch_0002/mask_0062/accuracy")
    ).value == pytest.approx(right)
    assert not np.array_equal(one.layers["epoch 1"], one.layers["epoch 2"])
    shown = {
        "#" + "".join(f"{v:02x}" for v in colour)
        for name in ("truth", "epoch 2")
        for colour in np.unique(one.layers[name].reshape(-1, 3), axis=0)
    }
    assert shown <= set(one.legend.values())
    shares = [v.value for v in values if "changes_0062/" in v.source]
    assert sum(shares) == pytest.approx(1)
    assert "finds rangeland hardest" in text_of(blocks)
    (matrix,) = [block for block in of_kind(blocks, Drawing) if "Confusion" in block.alt]
    assert matrix.runs[0].name == "p3_B_trial"


def test_a_second_build_measures_nothing_again_and_can_be_written_out(
    run, validation, tmp_path, capsys, monkeypatch
):
    first = problem3.section(site_of(run, validation, tmp_path / "out"))
    assert "mask_0013" in capsys.readouterr().out
    monkeypatch.setattr(inference, "predictor", None)
    second = problem3.section(site_of(run, validation, tmp_path / "out"))
    assert capsys.readouterr().out == ""
    assert [(v.source, v.value) for v in values_in(first)] == [
        (v.source, v.value) for v in values_in(second)
    ]
    page, text = (
        html.render("t", second),
        markdown.render("t", second, tmp_path / "out" / "figures"),
    )
    assert page.count("data-layer=") == 18 and "dilation 36" in page and "rangeland" in text


def without_checkpoints(run):
    shutil.rmtree(run / "snapshots")
    (run / "last.pt").unlink()


def test_logs_alone_give_curves_and_gaps(run, validation, tmp_path):
    without_checkpoints(run)
    write_log(run, lines_of(IOUS | {"water": 0.05}))
    blocks = problem3.section(site_of(run, validation, tmp_path / "out"))
    assert list(gaps(blocks).values())[2:] == ["python3 -m p3.train"] * 2
    text = text_of(blocks)
    assert "Validation mean IoU of B (p3_B_trial)." in text and "class, model B." in text
    assert not of_kind(blocks, Layers)
    assert "finds water hardest" in text_of(blocks)  # by the rule, from the log


def test_missing_images_and_missing_runs_are_gaps(run, validation, tmp_path):
    blocks = problem3.section(site_of(run, validation, tmp_path / "out", images=("0062", "9999")))
    assert any("validation 9999" in what for what in gaps(blocks))
    assert len(of_kind(blocks, Layers)) == 1
    blocks = problem3.section(site_of(run, tmp_path / "none", tmp_path / "out 2"))
    assert list(gaps(blocks).values())[2:] == ["bash hw1_download.sh data"] * 2
    blocks = problem3.section(site_of(None, validation, tmp_path / "out 3"))
    assert list(gaps(blocks).values()) == list(problem3.MAKE.values())
    assert len(of_kind(blocks, Drawing)) == 3  # the networks need no run


def test_a_run_that_is_not_finished_is_a_gap_and_stands_back(run, validation, tmp_path):
    without_checkpoints(run)
    ahead = shutil.copytree(run, run.with_name("p3_B_ahead"))
    write_log(ahead, lines_of({name: 1.1 * iou for name, iou in IOUS.items()}))
    about = json.loads((ahead / "run.json").read_text())
    (ahead / "run.json").write_text(
        json.dumps(about | {"recipe": about["recipe"] | {"epochs": 4}, "command": "go on"})
    )
    site = site_of(run, validation, tmp_path / "out")
    found = gaps(problem3.section(site))
    assert found["the end of p3_B_ahead: it is at epoch 3 of 4."] == "go on"
    assert not [what for what in found if "the end of p3_B_trial" in what]
    assert site.chosen("p3_B_*").name == "p3_B_trial"


def test_the_momentum_is_read_from_the_models():
    model = DeepLabv3()
    assert problem3.momentum(model) == 0.1
    next(one for one in model.modules() if isinstance(one, nn.BatchNorm2d)).momentum = 0.05
    assert problem3.momentum(model) == 0.05
    assert problem3.momentum(nn.Linear(1, 1)) is None


def test_a_class_that_the_log_leaves_out_is_no_number(run, validation, tmp_path):
    without_checkpoints(run)
    write_log(run, lines_of({name: iou for name, iou in IOUS.items() if name != "rangeland"}))
    blocks = problem3.section(site_of(run, validation, tmp_path / "out"))
    assert cells(table(blocks, column="class"))["rangeland"][0] == "-"
    assert "finds barren hardest" in text_of(blocks)
    assert not any(math.isnan(value.value) for value in values_in(blocks))
