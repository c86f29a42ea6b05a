"""What the training loops share: changed recipes, schedules, the step, the hold-out."""

import argparse
import dataclasses
import math
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core import devices
from core.cli import InputError
from core.efficientnet_lite import imagenet_file
from p1 import model as p1_model
from p1 import recipes as p1
from p2 import recipes as p2
from p3 import model as p3_model
from p3 import recipes as p3
from training import flags, loop, optim


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
    scales: tuple[float, ...] = (1.0,)
    parts: tuple[Part, Part] = (Part(), Part())


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("lr=3e-4", "lr", 3e-4),
        ("epochs=7", "epochs", 7),
        ("flip=true", "flip", True),
        ("kind=b", "kind", "b"),
        ("every=2", "every", 2),
        ("pair=0.25, 1", "pair", (0.25, 1.0)),
        ("scales=0.5,0.75,1", "scales", (0.5, 0.75, 1.0)),
        ("parts.1.p=0.1", "parts", (Part(), Part(0.1))),
    ],
)
def test_a_change_has_the_type_of_its_field(change, field, value):
    changed = getattr(flags.overridden(Recipe(), changes=[change]), field)
    assert changed == value and type(changed) is type(value)


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
        ("parts.2.p=1", "not one of the 2 parts"),
        ("lr.p=1", "a single value has no part 'p'"),
    ],
)
def test_a_senseless_change_is_one_line_that_says_what_is_possible(change, says):
    with pytest.raises(InputError, match=f"--set {change}: .*{says}") as error:
        flags.overridden(Recipe(), changes=[change])
    assert "\n" not in str(error.value)


ALL = [
    *(recipe for models in p1.RECIPES.values() for recipe in models.values()),
    *(recipe for models in p3.RECIPES.values() for recipe in models.values()),
    *(p1.PRETRAIN | p2.PRETRAIN).values(),
    *p2.SUPERVISED.values(),
    *p2.TRANSFER.values(),
]


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_what_help_lists_of_a_recipe_is_what_set_takes(recipe):
    listed = list(flags._settable(recipe))
    assert {"lr", "schedule", "bf16"} <= {name for name, _ in listed}
    assert flags.overridden(recipe, changes=[f"{k}={v}" for k, v in listed]) == recipe


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_the_recipes_values_are_of_their_fields_types(recipe):
    assert recipe.source and type(recipe.epochs) is int and recipe.schedule in (
        "constant", "plateau", "cosine"
    )  # fmt: skip


def test_a_recipe_is_found_by_its_former_name_and_another_one_is_refused():
    assert flags.named(p1.RECIPES, "report") is p1.RECIPES["original"]
    with pytest.raises(InputError, match="unknown recipe 'bets'. Did you mean best"):
        flags.named(p1.RECIPES, "bets")


def start_of(network, given, named):
    """What ``--pretrained given`` and a recipe that names ``named`` start from."""
    args = argparse.Namespace(pretrained=given)
    recipe = argparse.Namespace(name="x", pretrained=named)
    return flags.initial_weights(args, recipe, network), args.pretrained


def test_a_training_starts_from_what_the_recipe_names_unless_the_flag_names_another(tmp_path):
    network, file = nn.Linear(1, 1), tmp_path / "last.pt"
    with pytest.raises(InputError, match=r"recipe x starts from .*last.pt, which does not exist"):
        start_of(network, None, str(file))
    file.touch()
    assert start_of(network, None, str(file)) == (file, str(file))
    assert start_of(network, "other.pt", str(file)) == (Path("other.pt"), "other.pt")
    assert start_of(network, "none", str(file)) == (None, None)
    assert start_of(network, None, "") == (None, None)


def test_only_model_c_starts_from_imagenet():
    for network in (p1_model.mobilenet_v2(50), p3_model.DeepLabv3()):
        with pytest.raises(InputError, match="model C"):
            start_of(network, "imagenet", "")
    file, name = start_of(p1_model.build("efficientnet_lite0_64", 50), None, "imagenet")
    assert file == imagenet_file("lite0") and name == "imagenet"


@pytest.mark.parametrize("schedule", ["constant", "plateau", "cosine", "linear"])
def test_the_learning_rate_follows_the_schedule_and_an_unknown_one_raises(schedule):
    @dataclasses.dataclass
    class Scheduled:
        schedule: str
        lr: float = 0.1
        epochs: int = 4
        warmup_epochs: float = 1.0

    optimizer = optim.make("sgd", nn.Linear(1, 1), 0.1, 0.0, True)
    recipe = Scheduled(schedule)
    if schedule == "linear":
        with pytest.raises(InputError, match="unknown schedule 'linear'"):
            loop.set_learning_rate(optimizer, recipe, 0, 10)
        return
    rates = []
    for step in (0, 9, 25, 39):
        loop.set_learning_rate(optimizer, recipe, step, 10)
        rates.append(optimizer.param_groups[0]["lr"])
    last = 0.05 * (1 + math.cos(math.pi * 29 / 30))
    expected = [0.01, 0.1, 0.05, last] if schedule == "cosine" else [0.1] * 4
    assert rates == pytest.approx(expected)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(0, 3))
def test_what_is_held_out_is_a_tenth_of_every_class_and_a_function_of_the_seed(labels, seed):
    labels = torch.tensor(labels)
    if len(labels.unique()) == len(labels):
        with pytest.raises(InputError, match="no class has two images"):
            loop.held_out(labels, seed)
        return
    held = loop.held_out(labels, seed)
    for label in labels.unique():
        members = labels == label
        count = int(members.sum())
        assert held[members].sum() == (max(1, round(count / 10)) if count > 1 else 0)
    assert torch.equal(held, loop.held_out(labels, seed))


def test_another_seed_holds_out_others():
    labels = torch.zeros(100).long()
    assert not torch.equal(loop.held_out(labels, 0), loop.held_out(labels, 1))


def step(scaler, network, optimizer, scale=1.0):
    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    with devices.autocast(torch.device("cpu"), True):
        loss = network(images).float().square().mean()
    loop.step(loss * scale, network, optimizer, scaler)


def pair():
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    return network, optim.make("sgd", network, 0.1, 0.0, True)


def test_in_float16_the_loss_is_scaled_and_steps_that_overflow_are_left_out(monkeypatch):
    monkeypatch.setattr(devices, "short_format", lambda device: torch.float16)
    scaler = loop.loss_scaler(torch.device("cpu"), True)
    assert scaler.is_enabled() and "scaler" in loop.state(scaler=scaler)
    network, optimizer = pair()
    before = network.weight.detach().clone()
    first = scaler.get_scale()
    step(scaler, network, optimizer, scale=math.inf)
    assert torch.equal(network.weight, before) and scaler.get_scale() == first / 2
    step(scaler, network, optimizer)
    moved = network.weight.detach().clone()
    assert not torch.equal(moved, before)

    plain, optimizer = pair()
    step(loop.loss_scaler(torch.device("cpu"), False), plain, optimizer)
    torch.testing.assert_close(moved, plain.weight.detach(), rtol=1e-2, atol=1e-3)


def test_a_scaler_resumed_goes_on_with_its_scale(monkeypatch):
    monkeypatch.setattr(devices, "short_format", lambda device: torch.float16)
    scaler = loop.loss_scaler(torch.device("cpu"), True)
    network, optimizer = pair()
    step(scaler, network, optimizer, scale=math.inf)
    other = loop.loss_scaler(torch.device("cpu"), True)
    other.load_state_dict(scaler.state_dict())
    assert other.get_scale() == scaler.get_scale() < 2**16


def test_without_float16_nothing_is_scaled(monkeypatch):
    monkeypatch.setattr(devices, "short_format", lambda device: torch.bfloat16)
    assert not loop.loss_scaler(torch.device("cpu"), True).is_enabled()
    state = loop.state(scaler=loop.loss_scaler(torch.device("cpu"), True), a=1, b=None)
    assert state == {"a": 1}
