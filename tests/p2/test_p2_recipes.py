"""Problem 2's trainings do what their recipes say."""

import copy
import dataclasses
import math

import pytest
from conftest import cosine_lrs, log, named, pixels, words
from torch import nn

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
    p2.augmented(pixels(128), p2_recipes.TRANSFER["hour"], generator(0))
    assert named(draws) == ["random_flip", "random_resized_crop"] and draws[1][1]["scale"] == (
        0.35,
        1.0,
    )


PAPERS = [
    "random_resized_crop",
    "random_flip",
    "random_jitter",
    "random_grey",
    "random_blur",
    "random_solarize",
]


@pytest.mark.parametrize("name", list(p2_recipes.PRETRAIN))
@pytest.mark.parametrize("number", [0, 1])
def test_byols_views_are_made_as_the_recipe_says(draws, name, number):
    recipe = p2_recipes.PRETRAIN[name]
    how = recipe.views[number]
    pretrain.view(augment.to_float(pixels(128)), how, recipe, generator(0))
    assert named(draws) == ([*PAPERS[1:], PAPERS[0]] if name == "original" else PAPERS)
    given = dict(draws)
    assert given["random_resized_crop"]["scale"] == how.crop_scale
    assert (given["random_jitter"]["strength"], given["random_jitter"]["p"]) == (
        how.jitter,
        how.jitter_p,
    )
    assert (given["random_grey"]["p"], given["random_solarize"]["p"]) == (
        how.grey_p,
        how.solarize_p,
    )
    assert list(given["random_blur"].values()) == [how.blur_size, how.blur_sigma, how.blur_p]


def test_byol_follows_its_schedules_with_two_draws_and_is_watched(
    call, tiny, tmp_path, monkeypatch
):
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 8, stride=8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    monkeypatch.setattr(pretrain, "make_backbone", lambda: copy.deepcopy(backbone))
    monkeypatch.setattr(pretrain, "FEATURES", 8)
    recipe = dataclasses.replace(p2_recipes.PRETRAIN["paper"], warmup_epochs=1)
    monkeypatch.setitem(p2_recipes.PRETRAIN, "paper", recipe)
    decays, draws = [], []
    update, view = byol.BYOL.update_target, pretrain.view
    monkeypatch.setattr(
        byol.BYOL, "update_target", lambda self, decay: (decays.append(decay), update(self, decay))
    )
    monkeypatch.setattr(
        pretrain,
        "view",
        lambda *given: (draws.append((given[1], given[3].initial_seed())), view(*given))[1],
    )
    flags = (
        *words("--recipe paper --epochs 3 --batch-size 4 --device cpu"),
        "--run",
        tmp_path / "run",
    )
    assert call(pretrain.main, "--data", tiny / "p2_data", *flags)[0] == 0
    lines = log(tmp_path / "run")
    assert [line["lr"] for line in lines] == pytest.approx(cosine_lrs(recipe, 3, 2))
    assert all(0 < line["spread"] < 2 for line in lines)
    assert decays == pytest.approx(
        [1 - 0.01 * (math.cos(math.pi * step / 6) + 1) / 2 for step in range(6)]
    )
    assert [how for how, _ in draws] == list(recipe.views) * 6 and len(
        {seed for _, seed in draws}
    ) == 12
