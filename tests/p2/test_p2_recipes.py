"""Problem 2's trainings do what their recipes say."""

import dataclasses
import math

import pytest
from conftest import cosine_lrs, log, named, one_layer, pixels, words

from core import augment
from core.randomness import generator
from p2 import byol, pretrain
from p2 import recipes as p2_recipes
from p2 import train as p2

pytestmark = pytest.mark.usefixtures("quick")


def test_problem_2s_labelled_images_are_augmented_as_the_recipe_says(draws):
    p2.augmented(pixels(128), p2_recipes.TRANSFER["original"], generator(0))
    assert named(draws) == ["random_flip"]
    del draws[:]
    recipe = p2_recipes.TRANSFER["hour"]
    p2.augmented(pixels(128), recipe, generator(0))
    assert named(draws) == ["random_flip", "random_resized_crop"]
    assert draws[1][1]["scale"] == recipe.crop_scale


CROP = "random_resized_crop"
OTHERS = [f"random_{name}" for name in ("flip", "jitter", "grey", "blur", "solarize")]


@pytest.mark.parametrize("name", list(p2_recipes.PRETRAIN))
@pytest.mark.parametrize("number", [0, 1])
def test_byols_views_are_made_as_the_recipe_says(draws, name, number):
    recipe = p2_recipes.PRETRAIN[name]
    how = recipe.views[number]
    pretrain.view(augment.to_float(pixels(128)), how, recipe, generator(0))
    assert named(draws) == ([*OTHERS, CROP] if name == "original" else [CROP, *OTHERS])
    given = dict(draws)
    assert given[CROP]["scale"] == how.crop_scale
    assert list(given["random_jitter"].values())[:2] == [how.jitter, how.jitter_p]
    assert given["random_grey"]["p"] == how.grey_p
    assert given["random_solarize"]["p"] == how.solarize_p
    assert list(given["random_blur"].values()) == [how.blur_size, how.blur_sigma, how.blur_p]


def test_byol_follows_its_schedules_with_two_draws_and_is_watched(
    call, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr(pretrain, "make_backbone", one_layer)
    monkeypatch.setattr(pretrain, "FEATURES", 8)
    recipe = dataclasses.replace(p2_recipes.PRETRAIN["paper"], warmup_epochs=1)
    monkeypatch.setitem(p2_recipes.PRETRAIN, "paper", recipe)
    decays, draws = [], []
    update, view = byol.BYOL.update_target, pretrain.view

    def updated(self, decay):
        decays.append(decay)
        update(self, decay)

    def viewed(images, how, recipe, rng, *size):
        draws.append((how, rng.initial_seed()))
        return view(images, how, recipe, rng, *size)

    monkeypatch.setattr(byol.BYOL, "update_target", updated)
    monkeypatch.setattr(pretrain, "view", viewed)
    flags = words("--recipe paper --epochs 3 --batch-size 4 --device cpu --run")
    assert call(pretrain.main, "--data", tiny / "p2_data", *flags, tmp_path / "run")[0] == 0
    lines = log(tmp_path / "run")
    assert [line["lr"] for line in lines] == pytest.approx(cosine_lrs(recipe, 3, 2))
    assert all(0 < line["spread"] < 2 for line in lines)
    rising = [1 - 0.01 * (math.cos(math.pi * step / 6) + 1) / 2 for step in range(6)]
    assert decays == pytest.approx(rising)
    assert [how for how, _ in draws] == list(recipe.views) * 6
    assert len({seed for _, seed in draws}) == 12


def test_views_are_small_until_the_last_epochs_and_so_is_their_blur(
    call, tiny, tmp_path, monkeypatch, draws
):
    monkeypatch.setattr(pretrain, "make_backbone", one_layer)
    monkeypatch.setattr(pretrain, "FEATURES", 8)
    sizes = {"size": 32, "late_size": 64, "late_epochs": 1}
    changed = dataclasses.replace(p2_recipes.PRETRAIN["best"], **sizes)
    monkeypatch.setitem(p2_recipes.PRETRAIN, "best", changed)
    flags = words("--recipe best --epochs 3 --batch-size 4 --device cpu --run")
    assert call(pretrain.main, "--data", tiny / "p2_data", *flags, tmp_path / "run")[0] == 0
    cropped = [given["size"] for name, given in draws if name == CROP]
    assert cropped == [32] * 8 + [64] * 4  # two batches an epoch, of two views each
    blurred = [(given["size"], given["sigma"]) for name, given in draws if name == "random_blur"]
    # 13 pixels and 0.1 to 2.0 for a view of 128 pixels.
    assert blurred == [(3, (0.025, 0.5))] * 8 + [(7, (0.05, 1.0))] * 4
