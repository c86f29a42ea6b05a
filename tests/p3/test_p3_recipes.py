"""Problem 3's training does what its recipe says, seen on one convolution."""

import dataclasses

import pytest
import torch
from conftest import cosine_lrs, log, named, pixels, words
from torch import nn

from core import augment, checkpoint
from core.randomness import generator
from p3 import data as p3_data
from p3 import inference
from p3 import recipes as p3_recipes
from p3 import train as p3
from prediction.stream import Views

pytestmark = pytest.mark.usefixtures("quick")


def test_problem_3s_images_and_masks_are_augmented_as_the_recipe_says(draws):
    images, truth = p3.augmented(pixels(300, 4), p3_recipes.RECIPES["original"]["B"], generator(0))
    assert (
        named(draws) == ["random_flip"]
        and images.shape == (4, 3, 300, 300)
        and truth.shape == (4, 300, 300)
    )
    del draws[:]
    images, _ = p3.augmented(pixels(300, 4), p3_recipes.RECIPES["hour"]["B"], generator(0))
    assert named(draws) == ["random_crop", "random_symmetry", "random_jitter"] and images.shape[
        2:
    ] == (256, 256)
    assert draws[2][1]["strength"] == (0.2, 0.2, 0.2, 0.0)


@pytest.fixture
def one_convolution(monkeypatch):
    """In DeepLabv3's place, as what problem 3's loop does is not of the network."""
    monkeypatch.setattr(p3, "build", lambda *_, **__: nn.Conv2d(3, len(p3_data.CLASSES), 1))


@pytest.mark.parametrize("moment", ["unbroken", "stopped after every step"])
def test_problem_3s_rate_falls_when_the_training_loss_stays(
    call, tiny, tmp_path, monkeypatch, one_convolution, moment
):
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau  # made so that no loss is low enough
    made = []

    def impatient(optimizer, **given):
        made.append(given)
        return scheduler(optimizer, threshold=1.0, factor=given["factor"], patience=1)

    monkeypatch.setattr(torch.optim.lr_scheduler, "ReduceLROnPlateau", impatient)
    flags = (
        "--data",
        tiny / "p3_data",
        *words("--recipe original --epochs 5 --batch-size 2 --device cpu"),
    )
    flags += ("--run", tmp_path / "run")
    if moment == "unbroken":
        assert call(p3.main, *flags)[0] == 0
    else:
        assert [call(p3.main, *flags, "--max-minutes", "0")[0] for _ in range(11)] == [75] * 10 + [
            0
        ]
    assert made[0] == {"factor": 0.1, "patience": 10}
    assert [line["lr"] for line in log(tmp_path / "run")] == pytest.approx(
        [3e-4, 3e-4, 3e-5, 3e-5, 3e-6]
    )


@pytest.mark.parametrize(("name", "ignored"), [("original", -100), ("hour", p3_data.UNKNOWN)])
def test_problem_3_ignores_the_unknown_where_the_recipe_says(
    call, tiny, tmp_path, monkeypatch, one_convolution, name, ignored
):
    recipe = dataclasses.replace(p3_recipes.RECIPES[name]["B"], crop=0)
    monkeypatch.setitem(p3_recipes.RECIPES[name], "B", recipe)
    seen, cross_entropy = set(), p3.cross_entropy
    monkeypatch.setattr(
        p3,
        "cross_entropy",
        lambda out, truth, index: (seen.add(index), cross_entropy(out, truth, index))[1],
    )
    flags = (
        "--data",
        tiny / "p3_data",
        "--recipe",
        name,
        *words("--epochs 2 --batch-size 2 --device cpu"),
    )
    assert call(p3.main, *flags, "--run", tmp_path / "run")[0] == 0
    assert seen == {ignored}
    assert [line["lr"] for line in log(tmp_path / "run")] == pytest.approx(
        cosine_lrs(recipe, 2, 2) if name == "hour" else [3e-4] * 2
    )
    state = checkpoint.read(tmp_path / "run/state.pt")["state"]
    assert torch.equal(state["average"]["weight"], state["network"]["weight"]) == (
        name == "original"
    )


@pytest.mark.parametrize(
    ("flip_test", "rotate_test"), [(False, False), (True, False), (False, True)]
)
def test_problem_3s_validation_predicts_as_the_graders_script_does(flip_test, rotate_test):
    recipe = dataclasses.replace(
        p3_recipes.ORIGINAL_B, flip_test=flip_test, rotate_test=rotate_test, bf16=False
    )
    torch.manual_seed(0)
    network = nn.Conv2d(
        3, len(p3_data.CLASSES), (1, 5), padding=(0, 2)
    )  # it sees what lies left and right
    pairs = torch.randint(0, len(p3_data.CLASSES), (5, 4, 32, 40), dtype=torch.uint8)
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
