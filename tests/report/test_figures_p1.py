"""Problem 1's figures: the drawing follows the model; projections and mistakes are true."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from conftest import draw, write_run
from pages import cells, check_values, gaps, never, of_kind, table, text_of

from core import checkpoint
from p1 import data, inference
from prediction.tables import read_labels, wilson
from report import problem1, problem1_images, projections
from report import problem1_figures as figures
from report import runs as runlog
from report.measures import Measures, Site
from report.page import Code, Drawing, Points

CPU = torch.device("cpu")


# --- projections ---


def clusters(count, classes, spread, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return (rng.normal(0, 1, (classes, 20))[labels] + rng.normal(0, spread, (count, 20))).astype(
        np.float32
    ), labels


def test_pca_is_the_singular_value_decomposition():
    features, labels = clusters(40, 4, 1.0)
    xy, numbers = projections.pca(features)
    left, singular, _ = np.linalg.svd(features - features.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(left[:, :2] * singular[:2]), rtol=1e-3, atol=1e-3)
    shares = singular**2 / (singular**2).sum()
    assert [numbers["explained 1"], numbers["explained 2"]] == pytest.approx(shares[:2])


def test_tsne_finds_clusters_and_is_the_same_each_time():
    features, labels = clusters(60, 3, 0.1)
    (xy, numbers), again = projections.tsne(features), projections.tsne(features)
    assert np.array_equal(xy, again[0]) and numbers == again[1]
    found = projections.separation(xy, labels)
    assert found["neighbours"] == 1 and found["silhouette"] > 0.5
    mixed = projections.separation(xy, np.random.default_rng(0).permutation(labels))
    assert mixed["neighbours"] < 0.7 and mixed["silhouette"] < 0.1


def test_neighbour_accuracy_is_a_vote_of_the_others():
    features, labels = clusters(50, 5, 1.5)
    right = 0
    for k, point in enumerate(features):
        order = [i for i in np.argsort(np.linalg.norm(features - point, axis=1)) if i != k][:10]
        votes = [int((labels[order] == labels[i]).sum()) for i in order]
        right += labels[order[int(np.argmax(votes))]] == labels[k]
    assert 0.2 < right / 50 < 1
    assert projections.neighbour_accuracy(features, labels) == pytest.approx(right / 50)


@pytest.mark.parametrize(
    ("pca", "tsne", "holds"),
    [
        ((0.05, 0.08, 0.10), (0.15, 0.30, 0.60), "holds here."),
        (
            (0.05, 0.08, 0.10),
            (0.15, 0.30, 0.31),
            "holds here only in part.",
        ),  # the last step is within chance
        (
            (0.05, 0.08, 0.50),
            (0.15, 0.30, 0.60),
            "holds here only in part.",
        ),  # PCA separates well in the end
        ((0.05, 0.08, 0.10), (0.60, 0.30, 0.15), "does not hold here."),
        ((0.15, 0.30, 0.60), (0.05, 0.08, 0.10), "does not hold here."),
    ],
)
def test_the_sentence_under_the_pictures_follows_the_figures(pca, tsne, holds):
    found = projections.finding(list(pca), list(tsne), [0.2, 0.4, 0.7], 2500)
    assert problem1_images.verdict(found).endswith(f" {holds}")
    few = projections.finding(
        list(pca), list(tsne), [0.2, 0.4, 0.7], 5
    )  # of which nothing is more than chance
    assert few["rises"] == few["ahead"] == 0 and few["stages"] == 3


def test_the_palettes_colours_differ_and_show_on_both_themes():
    colours = projections.palette(50)
    rgb = np.array([[int(colour[k : k + 2], 16) for k in (1, 3, 5)] for colour in colours]) / 255
    lab = projections.oklab(rgb)
    distance = np.linalg.norm(lab[:, None] - lab, axis=2) + np.eye(50)
    assert distance.min() > 0.09  # about the distance of #2463b4 and #13808f
    assert lab[:, 0].min() > 0.4 and lab[:, 0].max() < 0.87
    np.testing.assert_allclose(
        projections.oklab(np.array([1.0, 0, 0])), (0.6280, 0.2249, 0.1258), atol=1e-4
    )


# --- predictions and mistakes ---


def test_confusion_pairs_and_worst_mistakes():
    labels, predicted = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 2, 0])
    confidence = np.array([0.9, 0.5, 0.8, 0.99, 0.7, 0.6, 0.7], dtype=np.float32)
    matrix = np.array([[1, 2, 0], [0, 1, 1], [1, 0, 1]])
    assert figures.confused_pairs(matrix, 8) == [(0, 1), (1, 2), (2, 0)]
    assert figures.confused_pairs(matrix, 1) == [(0, 1)]
    assert figures.most_confident(predicted != labels, confidence, 3).tolist() == [2, 4, 6]
    whole, pairs, worst = problem1_images.mistaken(labels, predicted, confidence)
    assert whole.shape == (50, 50) and whole[:3, :3].tolist() == matrix.tolist()
    assert pairs == [(0, 1), (1, 2), (2, 0)] and worst.tolist() == [2, 4, 6, 1]
    assert figures.confused_pairs(np.eye(3, dtype=int), 8) == []


@pytest.fixture(scope="module")
def val(tmp_path_factory):
    """A data folder with two validation images each of the classes 0 to 7."""
    folder = tmp_path_factory.mktemp("hw1 data")
    for i in range(16):
        draw(folder / "p1_data" / "val_50" / f"{i % 8}_{i}.png", 32, 32, i)
    return folder


@pytest.fixture(scope="module")
def flipping(p1_checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("flipping") / "flip.pt"
    checkpoint.save(path, dataclasses.replace(checkpoint.load(p1_checkpoint, "p1"), flip_test=True))
    return path


def test_predictions_are_those_of_the_graders_script(call, val, flipping, p1_checkpoint, tmp_path):
    folder = val / "p1_data" / "val_50"
    images, _, paths = data.load(folder)
    status, _, _ = call(
        inference.main, folder, tmp_path / "out.csv", "--checkpoint", flipping, "--device", "cpu"
    )
    assert status == 0
    labels = read_labels(tmp_path / "out.csv")
    made = figures.predictions(flipping, images, CPU)
    assert [labels[path.name] for path in paths] == [data.CLASSES[k] for k in made["predicted"]]
    other = figures.predictions(p1_checkpoint, images, CPU)
    assert not np.allclose(made["confidence"], other["confidence"], atol=1e-6)


# --- the section ---


def run_of(folder, file, accuracies, model="A", pretrained="None", kept=True, **fields):
    """A run's folder with a log and, if ``kept``, the same checkpoint at every epoch."""
    recipe = {"name": "hour", "model": model, "batch_size": 64, "lr": 0.1, "schedule": "cosine"}
    recipe |= {"jitter": [0.5, 0.5, 0.5, 0.0], "rotation": 30, "new_setting": 7}
    lines = [
        {"loss": 3.0 - k, "lr": 0.1 / (k + 1), "accuracy": accuracy, "seconds": 30.0}
        for k, accuracy in enumerate(accuracies)
    ]
    data = {"train": "1", "val": "2", "pretrained": pretrained}
    command = {"command": "python3 -m p1.train"}
    write_run(folder, lines, recipe, data=data, seed=3, **command | fields)
    if kept:
        (folder / "snapshots").mkdir()
        shutil.copy(file, folder / "last.pt")
        shutil.copy(file, folder / "snapshots" / "epoch_0001.pt")
    return folder


def site_of(runs, data_folder, out, **more):
    return Site(runlog.read_all(runs), data_folder, (), Measures(out, **more), CPU)


@pytest.fixture(scope="module")
def built(val, flipping, tmp_path_factory):
    """(site, blocks) of runs of A, of B (one honest, one contaminated) and of pre-training."""
    runs = tmp_path_factory.mktemp("runs")
    run_of(runs / "p1_A_hour", flipping, [0.25, 0.5, 0.4375])
    made = "runs/p1_pretrain_hour/last.pt"
    run_of(runs / "p1_B_hour", flipping, [0.5, 0.625], "B", made)
    seen = "pretrained/cifar100_x.pt"
    run_of(runs / "p1_B_report", flipping, [0.9375], "B", seen, kept=False)
    made_by = {"command": "python3 -m p1.pretrain"}
    run_of(runs / "p1_pretrain_hour", flipping, [0.125, 0.75], kept=False, **made_by)
    site = site_of(runs, val, tmp_path_factory.mktemp("out"))
    return site, problem1.section(site)


def test_the_network_is_halved_less_often_than_the_published_one(built):
    site, blocks = built
    numbers = site.measures.of("p1/network", [], lambda: None).numbers
    assert (numbers["halvings"], numbers["published halvings"], numbers["blocks"]) == (3, 5, 17)
    assert "halved 3 times" in text_of(blocks) and "as published 5 times" in text_of(blocks)


def test_every_value_is_where_it_says(built):
    site, blocks = built
    assert check_values(blocks, site.logs[0].folder.parent, site.measures._file.parent) > 60


def test_accuracies_stand_with_interval_best_epoch_and_the_originals_figures(built):
    _, blocks = built
    rows = cells(table(blocks, "Validation accuracy"))
    low, high = wilson(7, 16)
    assert rows["A, p1_A_hour"] == [
        "0.4375 (3)",
        f"{low:.3f} to {high:.3f}",
        "0.5000 (2)",
        "random",
    ]
    assert rows["A, original report"] == ["-", "-", "0.6476 (58)", "random"]
    assert rows["B, original report"] == ["-", "-", "0.9714 (1)", "CIFAR-100: contaminated"]
    assert (
        "contaminated" in rows["B, p1_B_report"][3]
        and "another labelled set" in rows["B, p1_B_hour"][3]
    )


def test_the_honest_model_b_is_the_one_that_is_shown(built):
    site, blocks = built
    assert site.chosen("p1_B_*").name == "p1_B_hour"
    assert "Shown below for model B: p1_B_hour" in text_of(blocks)
    assert "had an accuracy of 0.7500 in epoch 2" in text_of(blocks)


def test_the_implementation_is_the_recorded_one_with_settings_that_are_new(built):
    _, blocks = built
    block = table(blocks, "How the models were trained")
    rows = {what: said for what, (said, _) in cells(block).items()}
    assert block.header == ("", "model A", "model B")
    assert rows["jitter: brightness, contrast, saturation, hue"] == "0.5, 0.5, 0.5, 0"
    assert (rows["random rotation"], rows["new setting"]) == ("up to 30° either way", "7")
    assert "weight decay" not in rows  # which these runs did not record
    assert (rows["epochs"], rows["minutes"], rows["learning rate"]) == ("3 of 3", "2", "0.1")


def test_points_share_their_images_and_colours(built):
    _, blocks = built
    points = of_kind(blocks, Points)
    assert len(points) == 4  # two epochs are kept, two projections each
    assert (
        len({id(block.images) for block in points}) == 1
        and len({tuple(block.colours) for block in points}) == 1
    )
    assert all(
        block.xy.shape == (16, 2) and block.images.shape == (16, 32, 32, 3) for block in points
    )


def test_the_worst_mistakes_are_wrong_and_named(built, val):
    _, blocks = built
    rows = table(blocks, "The worst mistakes by file").rows
    assert rows
    for name, true, predicted, confidence in (row.values() for row in rows):
        assert isinstance(name, Code) and (val / "p1_data" / "val_50" / name.text).is_file()
        assert name.text.split("_")[0] == true != predicted
        assert 1 / 50 < confidence.value <= 1
    confidences = [row["confidence"].value for row in rows]
    assert confidences == sorted(confidences, reverse=True)


def test_a_second_build_measures_nothing_again(built, monkeypatch):
    site, blocks = built

    for name in ("features", "predictions"):
        monkeypatch.setattr(figures, name, never)
    again = problem1.section(
        site_of(site.logs[0].folder.parent, site.data, site.measures._file.parent)
    )
    assert text_of(again) == text_of(blocks)
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        problem1.section(
            site_of(site.logs[0].folder.parent, site.data, site.measures._file.parent, fresh=True)
        )


def test_what_is_missing_is_a_gap_with_a_command(flipping, val, tmp_path):
    (tmp_path / "runs").mkdir()
    nothing = gaps(problem1.section(site_of(tmp_path / "runs", val, tmp_path / "out")))
    assert nothing == {f"a run of model {model}.": problem1.MAKE[model] for model in "ABC"}

    run_of(tmp_path / "runs" / "p1_A_hour", flipping, [0.25, 0.5], kept=False)
    without_checkpoints = gaps(problem1.section(site_of(tmp_path / "runs", val, tmp_path / "out")))
    for model in "BC":
        assert without_checkpoints.pop(f"a run of model {model}.") == problem1.MAKE[model]
    assert (
        set(without_checkpoints.values()) == {"python3 -m p1.train"}
        and len(without_checkpoints) == 2
    )

    blocks = problem1.section(site_of(tmp_path / "runs", tmp_path / "no data", tmp_path / "out"))
    without_images = gaps(blocks)
    assert list(without_images.values()).count("bash hw1_download.sh data") == 3
    assert "0.5000" in text_of(blocks)  # the logged accuracy needs no images
    assert of_kind(blocks, Drawing)


def test_a_run_that_goes_on_is_told_from_one_that_ended_early(flipping, tmp_path):
    run_of(tmp_path / "p1_A_hour", flipping, [0.25, 0.5, 0.4375, 0.375], kept=False)
    run = runlog.read(tmp_path / "p1_A_hour")
    assert run.is_finished
    run.metadata["recipe"]["epochs"] = 8
    assert not run.is_finished
    run.metadata["recipe"]["patience"] = 2
    assert run.is_finished
    run.metadata["recipe"]["patience"] = 3
    blocks = problem1.section(
        Site([run], tmp_path / "no data", (), Measures(tmp_path / "out"), CPU)
    )
    assert "the end of p1_A_hour: it is at epoch 4 of 8." in gaps(blocks)


def test_a_run_on_held_out_training_images_is_marked_and_gets_no_interval(flipping, val, tmp_path):
    command = "python3 -m p1.train --tune"
    folder = tmp_path / "runs" / "p1_A_hour_tune"
    run_of(folder, flipping, [0.25, 0.4375], kept=False, command=command)
    blocks = problem1.section(site_of(tmp_path / "runs", val, tmp_path / "out"))
    last, bounds, *_ = cells(table(blocks, "Validation accuracy"))["A, p1_A_hour_tune"]
    assert (last, bounds) == ("0.4375 (2), on held-out training images", "-")
    assert not any("interval" in what for what in gaps(blocks))


def test_an_accuracy_of_another_validation_set_gets_no_interval(flipping, val, tmp_path):
    run_of(tmp_path / "runs" / "p1_A_hour", flipping, [0.25, 0.51], kept=False)
    blocks = problem1.section(site_of(tmp_path / "runs", val, tmp_path / "out"))
    assert any("its accuracy cannot come from the 16 images" in what for what in gaps(blocks))
    assert " to 0." not in text_of([table(blocks, "Validation accuracy")])
