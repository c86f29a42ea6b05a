"""Recipes chosen and changed on the command line."""

import dataclasses
from typing import Literal

import pytest

from core.cli import InputError
from p1 import recipes as p1_recipes
from p2 import recipes as p2_recipes
from p3 import recipes as p3_recipes
from training import recipes


@dataclasses.dataclass(frozen=True)
class Part:
    p: float = 0.5


@dataclasses.dataclass(frozen=True)
class Recipe:
    name: str = "original"
    source: str = "a test"
    epochs: int = 3
    batch_size: int = 4
    lr: float = 0.1
    flip: bool = False
    kind: Literal["a", "b"] = "a"
    every: int | None = None
    pair: tuple[float, float] = (0.0, 1.0)
    mixed: tuple[int, float] = (1, 1.0)
    scales: tuple[float, ...] = (1.0,)
    parts: tuple[Part, Part] = (Part(), Part())


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("lr=3e-4", 3e-4),
        ("epochs=7", 7),
        ("flip=true", True),
        ("kind=b", "b"),
        ("every=2", 2),
        ("every=none", None),
        ("pair=0.25, 1", (0.25, 1.0)),
        ("mixed.1=0.5", (1, 0.5)),
        ("scales=0.5,0.75,1", (0.5, 0.75, 1.0)),
        ("parts.1.p=0.1", (Part(), Part(0.1))),
    ],
)
def test_a_change_has_the_type_of_its_field(change, value):
    field = change.partition("=")[0].partition(".")[0]
    changed = recipes.overridden(Recipe(), changes=[change])
    assert type(getattr(changed, field)) is type(value)
    assert changed == dataclasses.replace(Recipe(), **{field: value})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("lr", "NAME=VALUE"),
        ("lrs=1", "Did you mean lr"),
        ("learning-rate=1", "Did you mean lr"),
        ("zzz=1", "Choose from epochs, batch_size, lr"),
        ("name=x", "no value 'name'"),
        ("lr=fast", "not a number"),
        ("lr=nan", "negative or not finite"),
        ("lr=-1", "negative or not finite"),
        ("epochs=1.5", "not a number of type int"),
        ("epochs=0", "epochs must be 1 or more"),
        ("flip=yes", "neither true nor false"),
        ("kind=c", "not one of a, b"),
        ("pair=1", "2 values are needed"),
        ("parts=1", "it has parts"),
        ("parts.0=1", "it has parts"),
        ("parts.2.p=1", "not one of the 2 parts"),
        ("lr.p=1", "a single value has no part 'p'"),
    ],
)
def test_a_senseless_change_is_one_line_that_says_what_is_possible(change, says):
    with pytest.raises(InputError, match=f"--set {change}: .*{says}") as error:
        recipes.overridden(Recipe(), changes=[change])
    assert "\n" not in str(error.value)


ALL = [
    *(recipe for models in p1_recipes.RECIPES.values() for recipe in models.values()),
    *(recipe for models in p3_recipes.RECIPES.values() for recipe in models.values()),
    *(p1_recipes.PRETRAIN | p2_recipes.PRETRAIN).values(),
    *(recipe for models in p3_recipes.PRETRAIN.values() for recipe in models.values()),
    *p2_recipes.SUPERVISED.values(),
    *p2_recipes.TRANSFER.values(),
]


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_what_help_lists_of_a_recipe_is_what_set_takes(recipe):
    listed = list(recipes._settable(recipe))
    assert {"lr", "schedule", "bf16"} <= {name for name, _ in listed}
    assert recipes.overridden(recipe, changes=[f"{k}={v}" for k, v in listed]) == recipe


def test_a_recipe_is_found_by_its_former_name_and_another_one_is_refused():
    assert recipes.named(p1_recipes.RECIPES, "report") is p1_recipes.RECIPES["original"]
    with pytest.raises(InputError, match="unknown recipe 'bets'. Did you mean best"):
        recipes.named(p1_recipes.RECIPES, "bets")
