"""Problem 3's training does what its recipe says, seen on one convolution."""

import dataclasses

import pytest
import torch
from conftest import cosine_lrs, log, named, pixels, words
from torch import nn

from core import augment, checkpoint
from core.randomness import batches, generator
from core.views import Views
from p3 import data as p3_data
from p3 import inference
from p3 import recipes as p3_recipes
from p3 import train as p3

pytestmark = pytest.mark.usefixtures("quick")


def test_problem_3s_images_and_masks_are_augmented_as_the_recipe_says(draws):
    images, truth = p3.augmented(pixels(300, 4), p3_recipes.RECIPES["original"]["B"], generator(0))
    assert named(draws) == ["random_flip"]
    assert images.shape == (4, 3, 300, 300) and truth.shape == (4, 300, 300)
    del draws[:]
    recipe = p3_recipes.RECIPES["hour"]["B"]
    images, _ = p3.augmented(pixels(300, 4), recipe, generator(0))
    assert named(draws) == ["random_crop", "random_symmetry", "random_jitter"]
    assert images.shape[2:] == (recipe.crop, recipe.crop)
    assert draws[2][1]["strength"] == recipe.jitter


@pytest.fixture
def one_convolution(monkeypatch):
    """In DeepLabv3's place, as what problem 3's loop does is not of the network."""
    monkeypatch.setattr(p3, "build", lambda *_, **__: nn.Conv2d(3, len(p3_data.CLASSES), 1))


@pytest.fixture
def run(call, tiny, tmp_path, one_convolution):
    """Train that, in batches of 2, in ``tmp_path / "run"``; returns the exit status."""
    flags = ("--data", tiny / "p3_data", "--run", tmp_path / "run")
    usual = words("--batch-size 2 --device cpu")
    return lambda more: call(p3.main, *flags, *usual, *words(more))[0]


@pytest.mark.parametrize("stops", [0, 6])
def test_problem_3s_rate_falls_when_the_training_loss_stays(run, tmp_path, monkeypatch, stops):
    made, seen = [], []

    class Impatient(torch.optim.lr_scheduler.ReduceLROnPlateau):
        """Finds no loss low enough, and has less patience."""

        def __init__(self, optimizer, **given):
            made.append(given)
            super().__init__(optimizer, threshold=1.0, factor=given["factor"], patience=1)

        def step(self, metrics):
            seen.append(metrics)
            super().step(metrics)

    monkeypatch.setattr(torch.optim.lr_scheduler, "ReduceLROnPlateau", Impatient)
    flags = "--recipe original --epochs 3" + (" --max-minutes 0" if stops else "")
    assert [run(flags) for _ in range(stops + 1)] == [75] * stops + [0]
    assert made[0] == {"factor": 0.1, "patience": 10}
    rates = [line["lr"] for line in log(tmp_path / "run")]
    assert rates == pytest.approx([3e-4, 3e-4, 3e-5])
    assert seen == [line["loss"] for line in log(tmp_path / "run")]


def test_problem_3_stops_when_the_score_stays(run, tmp_path):
    assert run("--recipe original --epochs 9 --set lr=0 --set patience=1") == 0
    assert len(log(tmp_path / "run")) == 2


def test_with_a_rate_of_0_problem_3_takes_no_step(run, tmp_path):
    assert run("--recipe original --epochs 1 --set lr=0") == 0  # its schedule looks at the loss
    (line,) = log(tmp_path / "run")
    assert line["steps"] == 0 and "loss" not in line and "mean_iou" in line


@pytest.mark.parametrize("name", ["original", "hour"])
def test_problem_3_ignores_the_unknown_where_the_recipe_says(run, tmp_path, monkeypatch, name):
    views = dict.fromkeys(("flip_test", "rotate_test"), name == "hour")
    recipe = dataclasses.replace(p3_recipes.RECIPES[name]["B"], crop=0, **views)
    monkeypatch.setitem(p3_recipes.RECIPES[name], "B", recipe)
    seen, cross_entropy = set(), p3.cross_entropy

    def loss(out, truth, weights):
        seen.add(tuple(weights.tolist()))
        return cross_entropy(out, truth, weights)

    monkeypatch.setattr(p3, "cross_entropy", loss)
    assert run(f"--recipe {name} --epochs 2") == 0
    assert seen == {(1, 1, 1, 1, 1, 1, 0 if name == "hour" else 1)}
    rates = cosine_lrs(recipe, 2, 2) if name == "hour" else [3e-4] * 2
    assert [line["lr"] for line in log(tmp_path / "run")] == pytest.approx(rates)
    state = checkpoint.read(tmp_path / "run/state.pt")["state"]
    equal = torch.equal(state["average"]["weight"], state["network"]["weight"])
    assert equal == (name == "original")
    saved = checkpoint.load(tmp_path / "run/last.pt", "p3")
    for field in ("flip_test", "rotate_test", "test_scales", "mean", "std"):
        assert getattr(saved, field) == getattr(recipe, field), field


@pytest.mark.parametrize("stops", [0, 4])
def test_problem_3_measures_the_statistics_of_the_averaged_weights(
    run, tmp_path, tiny, monkeypatch, stops
):
    def build(*_, **__):
        return nn.Sequential(nn.Conv2d(3, len(p3_data.CLASSES), 1), nn.BatchNorm2d(7))

    monkeypatch.setattr(p3, "build", build)
    values = words("crop=0 average=1 statistics=1 bf16=False lr=0.1")
    flags = "--recipe hour --epochs 2 " + " ".join(f"--set {value}" for value in values)
    flags += " --max-minutes 0" if stops else ""
    assert [run(flags) for _ in range(stops + 1)] == [75] * stops + [0]
    weights = checkpoint.read(tmp_path / "run/state.pt")["state"]["average"]
    network = build()
    network.load_state_dict(weights)
    pairs, _ = p3_data.load(tiny / "p3_data/train", 2**30)
    recipe = dataclasses.replace(p3_recipes.RECIPES["hour"]["B"], crop=0, batch_size=2)
    _, first = next(batches(len(pairs), 2, seed=0, epoch=1))
    inputs, _ = p3.augmented(pairs[first], recipe, generator(0, 1, 0))
    torch.testing.assert_close(weights["1.running_mean"], network[0](inputs).mean((0, 2, 3)))


def test_a_resized_crop_cuts_the_mask_as_the_image():
    recipe = dataclasses.replace(
        p3_recipes.RECIPES["best"]["C"],
        crop=64,
        jitter=(0.0,) * 4,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
    )
    half = torch.arange(256) // 128
    board = ((half[:, None] + half) % 2).to(torch.uint8)  # white squares are class 3
    pairs = torch.stack([board * 255] * 3 + [board * 3]).repeat(16, 1, 1, 1)
    images, truth = p3.augmented(pairs, recipe, generator(0))
    assert images.shape == (16, 3, 64, 64) and len(truth.flatten(1).unique(dim=0)) > 8
    assert ((images[:, 0] > 0.5) == (truth == 3)).float().mean() > 0.95  # else near a half


def test_the_jaccard_loss_is_one_minus_the_mean_soft_iou_of_the_classes_that_occur():
    out, truth = torch.randn(2, 7, 5, 6), torch.arange(60).view(2, 5, 6) % 4  # no 4, no 5
    truth[0, 0] = p3_data.UNKNOWN
    shares, known, ious = out.softmax(1), truth != p3_data.UNKNOWN, []
    for k in range(4):
        here, share = (truth == k).float(), shares[:, k] * known
        both = (here * share).sum()
        ious.append(both / (here.sum() + share.sum() - both))
    torch.testing.assert_close(p3.soft_jaccard(out, truth), 1 - torch.stack(ious).mean())
    perfect = 99.0 * nn.functional.one_hot(truth, 7).movedim(-1, 1)
    assert p3.soft_jaccard(perfect, truth) < 1e-6


def test_the_jaccard_loss_is_added_with_the_recipes_weight(run, tmp_path, monkeypatch):
    monkeypatch.setattr(p3, "soft_jaccard", lambda out, truth: out.sum() * 0 + 100)
    assert run("--recipe hour --epochs 1 --set crop=0 --set jaccard=0.5") == 0
    assert 50 < log(tmp_path / "run")[0]["loss"] < 60


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_pixels_of_rare_classes_count_more_if_the_recipe_says(balance):
    recipe = dataclasses.replace(p3_recipes.RECIPES["hour"]["B"], balance=balance)
    truth = torch.zeros(40, 8, 8, dtype=torch.long)
    truth[:, 0], truth[0, 1], truth[:, 2, 0] = 4, p3_data.UNKNOWN, 2  # 40 times 8 pixels, 8, 40
    pairs = torch.cat([torch.zeros(40, 3, 8, 8), truth[:, None]], 1).to(torch.uint8)
    shares = torch.tensor([2192, 0, 40, 0, 320, 0]) / 2552
    weights = p3.class_weights(pairs, recipe)
    present = shares > 0
    ratios = (weights[:6] / weights[0])[present]
    torch.testing.assert_close(ratios, (shares / shares[0])[present] ** -balance)
    assert weights[p3_data.UNKNOWN] == 0 and (not balance or not weights[:6][~present].any())
    assert (weights[truth].sum() / 2552).item() == pytest.approx(1)
    out = torch.randn(40, 7, 8, 8)
    per_pixel = nn.functional.cross_entropy(out, truth, reduction="none")
    expected = (per_pixel * weights[truth]).sum() / weights[truth].sum()
    assert p3.cross_entropy(out, truth, weights).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = torch.full_like(truth, p3_data.UNKNOWN)
    assert p3.cross_entropy(out, nothing, weights) == 0


@pytest.mark.parametrize(
    ("flip_test", "rotate_test"), [(False, False), (True, False), (False, True)]
)
def test_problem_3s_validation_predicts_as_the_graders_script_does(flip_test, rotate_test):
    recipe = dataclasses.replace(
        p3_recipes.ORIGINAL_B, flip_test=flip_test, rotate_test=rotate_test, bf16=False
    )
    network = nn.Conv2d(3, 7, (1, 5), padding=(0, 2))  # it sees what lies left and right
    pairs = torch.randint(0, 7, (5, 4, 32, 40), dtype=torch.uint8)
    pairs[:, :3] = torch.randint(0, 256, (5, 3, 32, 40))
    images, truth = p3_data.split(pairs)
    inputs = augment.normalise(augment.to_float(images), recipe.mean, recipe.std)
    views = Views(flip_test, rotate=rotate_test)
    classes = inference.classify(network, inputs, views)[:, 0]
    expected = p3_data.mean_iou(p3_data.confusion(truth, classes.long()))
    assert p3.evaluate(network, pairs, recipe, torch.device("cpu")) == expected
    other = dataclasses.replace(recipe, rotate_test=not rotate_test)
    assert p3.evaluate(network, pairs, other, torch.device("cpu")) != expected
    if not rotate_test:  # a half turn is a mirror image to a network that sees one row
        other = dataclasses.replace(recipe, flip_test=not flip_test)
        assert p3.evaluate(network, pairs, other, torch.device("cpu")) != expected
