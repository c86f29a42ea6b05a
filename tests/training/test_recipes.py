"""The recipes of the original report are what it says."""

import pytest
import torch
from torch import nn

from p1 import recipes as p1_recipes
from p2 import recipes as p2_recipes
from p3 import recipes as p3_recipes
from training import optim

pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    ("recipe", "epochs", "patience", "batch", "decay", "schedule"),
    [
        (p1_recipes.RECIPES["original"]["A"], 200, 20, 256, 1e-5, "constant"),
        (p1_recipes.RECIPES["original"]["B"], 150, 15, 256, 1e-5, "constant"),
        (
            p2_recipes.PRETRAIN["original"],
            300,
            10,
            128,
            0.0,
            "plateau",
        ),  # 100 epochs, then up to 200
        (p2_recipes.TRANSFER["original"], 150, 15, 256, 1e-5, "constant"),
        (p3_recipes.RECIPES["original"]["A"], 80, 15, 16, 1e-5, "plateau"),
        (p3_recipes.RECIPES["original"]["B"], 80, 15, 16, 1e-5, "plateau"),
    ],
)
def test_the_reports_recipes_are_the_original_reports(
    recipe, epochs, patience, batch, decay, schedule
):
    assert (recipe.epochs, recipe.patience, recipe.batch_size, recipe.schedule) == (
        epochs,
        patience,
        batch,
        schedule,
    )
    made = optim.make(
        recipe.optimiser, nn.Linear(2, 2), recipe.lr, recipe.weight_decay, recipe.decay_vectors
    )
    assert type(made) is torch.optim.Adam and recipe.warmup_epochs == 0
    assert [
        (group["lr"], group["weight_decay"], len(group["params"])) for group in made.param_groups
    ] == [(3e-4, decay, 2)]
    assert not any(
        getattr(recipe, name, False)
        for name in ("label_smoothing", "average", "flip_test", "ignore_unknown")
    )
