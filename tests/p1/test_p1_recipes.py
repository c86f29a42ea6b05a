"""Problem 1's training does what its recipe says."""

import copy

import pytest
import torch
from conftest import cosine_lrs, log, named, pixels, words
from torch import nn

from core import checkpoint
from core.randomness import batches, generator
from p1 import data as p1_data
from p1 import recipes as p1_recipes
from p1 import train as p1
from training import mixing

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
    made = checkpoint.load(tmp_path / "hour/last.pt", "p1")
    for field in ("flip_test", "mean", "std", "architecture"):
        assert getattr(made, field) == getattr(recipe, field), field
    state, saved = checkpoint.read(tmp_path / "hour/state.pt")["state"], made.weights
    for name, value in state["average"].items():  # matrices are saved in half precision
        assert torch.equal(saved[name], value.half().float() if value.ndim >= 2 else value)
    assert not torch.equal(state["average"]["0.weight"], state["network"]["0.weight"])
    assert not torch.equal(state["average"]["0.weight"], small.state_dict()["0.weight"])
    assert call(p1.main, *flags, "--recipe", "original", "--run", tmp_path / "report")[0] == 0
    assert [line["lr"] for line in log(tmp_path / "report")] == [3e-4] * 3
    state = checkpoint.read(tmp_path / "report/state.pt")["state"]
    assert torch.equal(state["average"]["0.weight"], state["network"]["0.weight"])


@pytest.fixture
def run(call, tiny, tmp_path):
    """Train in batches of 25 of the 50 images, in ``tmp_path / "run"``."""

    def run(flags):
        usual = words("--batch-size 25 --device cpu")
        places = ("--data", tiny / "p1_data", "--run", tmp_path / "run")
        return call(p1.main, *usual, *places, *words(flags))[0]

    return run


def test_problem_1_trains_on_what_cutmix_made_with_its_labels(run, monkeypatch):
    small = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(512, 50))
    seen, mixed, asked = [], [], []
    small.register_forward_pre_hook(
        lambda module, given: seen.append(given[0]) if module.training else None
    )
    mix, loss = mixing.random_cutmix, mixing.cross_entropy

    def random_cutmix(*given):
        mixed.append(mix(*given))
        return mixed[-1]

    def cross_entropy(out, truth, *given):
        asked.append(given)
        return loss(out, truth, *given)

    monkeypatch.setattr(p1, "build", lambda *_: copy.deepcopy(small))
    monkeypatch.setattr(mixing, "random_cutmix", random_cutmix)
    monkeypatch.setattr(mixing, "cross_entropy", cross_entropy)
    assert run("--recipe best --epochs 1") == 0
    smoothing = p1_recipes.RECIPES["best"]["A"].label_smoothing
    assert len(asked) == 2
    for images, (made, partner, share), given in zip(seen, mixed, asked, strict=True):
        assert torch.equal(images, made)
        assert given[0] is partner and given[1] is share and given[2] == smoothing


def test_problem_1_smooths_labels_as_the_recipe_says(run, monkeypatch):
    small = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Flatten(), nn.Linear(512, 50))
    asked, loss = set(), nn.functional.cross_entropy

    def cross_entropy(*given, label_smoothing, **how):
        asked.add(label_smoothing)
        return loss(*given, label_smoothing=label_smoothing, **how)

    monkeypatch.setattr(p1, "build", lambda *_: copy.deepcopy(small))
    monkeypatch.setattr(nn.functional, "cross_entropy", cross_entropy)
    assert run("--recipe hour --epochs 1") == 0
    assert asked == {p1_recipes.RECIPES["hour"]["A"].label_smoothing}


def test_problem_1_measures_the_statistics_of_the_averaged_weights(
    run, tiny, tmp_path, monkeypatch
):
    layers = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(512, 50)
    small = nn.Sequential(*layers)
    monkeypatch.setattr(p1, "build", lambda *_: copy.deepcopy(small))
    values = words("average=1 statistics=1 bf16=False lr=0.01")
    assert run("--recipe hour --epochs 2 " + " ".join(f"--set {v}" for v in values)) == 0
    weights = checkpoint.read(tmp_path / "run/state.pt")["state"]["average"]
    small.load_state_dict(weights)
    images, *_ = p1_data.load(tiny / "p1_data/train_50")
    _, first = next(batches(len(images), 25, seed=0, epoch=1))
    inputs = p1.augmented(images[first], p1_recipes.RECIPES["hour"]["A"], generator(0, 1, 0))
    torch.testing.assert_close(weights["1.running_mean"], small[0](inputs).mean((0, 2, 3)))


def test_problem_1_stops_when_the_score_stays(run, tmp_path, monkeypatch):
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 50))
    monkeypatch.setattr(p1, "build", lambda *_: copy.deepcopy(small))
    assert run("--recipe original --epochs 9 --set lr=0 --set patience=1") == 0
    assert len(log(tmp_path / "run")) == 2
