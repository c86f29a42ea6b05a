"""Problem 1's training does what its recipe says."""

import copy

import pytest
import torch
from conftest import cosine_lrs, log, named, pixels
from torch import nn

from core import checkpoint
from core.randomness import generator
from p1 import recipes as p1_recipes
from p1 import train as p1

pytestmark = pytest.mark.usefixtures("quick")


def test_problem_1s_images_are_augmented_as_the_recipe_says(draws):
    recipes = p1_recipes.RECIPES["original"]
    made = p1.augmented(pixels(32), recipes["A"], generator(0))
    # The original does not normalise.
    assert made.shape == (4, 3, 32, 32) and made.min() >= 0 and made.max() <= 1
    assert named(draws) == ["random_crop", "random_flip", "random_jitter", "random_rotation"]
    crop, _, jitter, rotation = (arguments for _, arguments in draws)
    assert (crop["size"], crop["padding"]) == (32, recipes["A"].crop_padding)
    assert (jitter["strength"], jitter["p"]) == (recipes["A"].jitter, 1)
    assert rotation["degrees"] == recipes["A"].rotation
    del draws[:]
    p1.augmented(pixels(32), recipes["B"], generator(0))
    assert named(draws) == ["random_crop", "random_flip"]


def test_problem_1_follows_its_schedule_and_keeps_the_averaged_weights(
    call, tiny, tmp_path, monkeypatch
):
    layers = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten()
    small = nn.Sequential(*layers, nn.Linear(8 * 64, 50))
    monkeypatch.setattr(p1, "build", lambda *_: copy.deepcopy(small))
    flags = ("--data", tiny / "p1_data", "--batch-size", "25", "--epochs", "3", "--device", "cpu")
    assert call(p1.main, *flags, "--recipe", "hour", "--run", tmp_path / "hour")[0] == 0
    recipe = p1_recipes.RECIPES["hour"]["A"]
    assert [line["lr"] for line in log(tmp_path / "hour")] == pytest.approx(
        cosine_lrs(recipe, 3, 2)
    )
    state = checkpoint.read(tmp_path / "hour/state.pt")["state"]
    saved = checkpoint.load(tmp_path / "hour/last.pt", "p1").weights
    for name, value in state["average"].items():  # matrices are saved in half precision
        assert torch.equal(saved[name], value.half().float() if value.ndim >= 2 else value)
    assert not torch.equal(state["average"]["0.weight"], state["network"]["0.weight"])
    assert not torch.equal(state["average"]["0.weight"], small.state_dict()["0.weight"])
    assert call(p1.main, *flags, "--recipe", "original", "--run", tmp_path / "report")[0] == 0
    assert [line["lr"] for line in log(tmp_path / "report")] == [3e-4] * 3
    state = checkpoint.read(tmp_path / "report/state.pt")["state"]
    assert torch.equal(state["average"]["0.weight"], state["network"]["0.weight"])
