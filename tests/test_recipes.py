"""Each recipe is what its source says, and the training loops do what the recipe says: seen on networks of a layer or two."""

import copy
import dataclasses
import functools
import inspect
import json
import math

import pytest
import torch
from torch import nn

from core import augment, checkpoint
from core.randomness import generator
from p1 import recipes as p1_recipes
from p1 import train as p1
from p2 import byol, pretrain
from p2 import recipes as p2_recipes
from p2 import train as p2
from p3 import data as p3_data
from p3 import inference
from p3 import recipes as p3_recipes
from p3 import train as p3
from prediction.stream import Views
from training import optim

pytestmark = pytest.mark.usefixtures("quick")


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


# --- the original report's recipes --------------------------------------------------------------------------------------


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


def test_the_reports_byol_has_its_target_and_its_two_stages():
    recipe = p2_recipes.PRETRAIN["original"]
    assert (recipe.target_decay, recipe.target_schedule, recipe.plateau_from) == (
        0.99,
        "constant",
        100,
    )
    assert inspect.signature(byol.BYOL).parameters["hidden"].default == 4096
    assert inspect.signature(byol.BYOL).parameters["projection"].default == 256


# --- augmentation ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """What is called of ``core.augment`` that draws, in turn: (name, its arguments but the images and the generator)."""
    calls = []

    def recorded(name, function):
        names = list(inspect.signature(function).parameters)

        @functools.wraps(function)
        def call(*args, **kwargs):
            given = inspect.signature(function).bind(*args, **kwargs)
            given.apply_defaults()
            calls.append((name, {k: given.arguments[k] for k in names[1:] if k != "rng"}))
            return function(*args, **kwargs)

        return call

    for name, function in inspect.getmembers(augment, inspect.isfunction):
        if name.startswith("random_") and name != "random_box":
            monkeypatch.setattr(augment, name, recorded(name, function))
    return calls


def named(calls):
    return [name for name, _ in calls]


def pixels(size, channels=3):
    return torch.randint(
        7, (4, channels, size, size), dtype=torch.uint8, generator=generator(0, "pixels")
    )


def test_problem_1s_images_are_augmented_as_the_recipe_says(drawn):
    recipes = p1_recipes.RECIPES["original"]
    made = p1.augmented(pixels(32), recipes["A"], generator(0))
    assert made.shape == (4, 3, 32, 32) and made.min() >= 0 and made.max() <= 1, (
        "the report does not normalise"
    )
    assert named(drawn) == ["random_crop", "random_flip", "random_jitter", "random_rotation"]
    crop, _, jitter, rotation = (arguments for _, arguments in drawn)
    assert (crop["size"], crop["padding"], rotation["degrees"]) == (32, 4, 30)
    assert jitter["strength"] == (0.5, 0.5, 0.5, 0.0) and jitter["p"] == 1
    del drawn[:]
    p1.augmented(pixels(32), recipes["B"], generator(0))
    assert named(drawn) == ["random_crop", "random_flip"]


def test_problem_2s_labelled_images_are_augmented_as_the_recipe_says(drawn):
    p2.augmented(pixels(128), p2_recipes.TRANSFER["original"], generator(0))
    assert named(drawn) == ["random_flip"]
    del drawn[:]
    p2.augmented(pixels(128), p2_recipes.TRANSFER["hour"], generator(0))
    assert named(drawn) == ["random_flip", "random_resized_crop"] and drawn[1][1]["scale"] == (
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
def test_byols_views_are_made_as_the_recipe_says(drawn, name, number):
    recipe = p2_recipes.PRETRAIN[name]
    how = recipe.views[number]
    pretrain.view(augment.to_float(pixels(128)), how, recipe, generator(0))
    assert named(drawn) == ([*PAPERS[1:], PAPERS[0]] if name == "original" else PAPERS)
    given = dict(drawn)
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


def test_the_reports_two_views_are_alike_and_the_reports_own():
    first, second = p2_recipes.PRETRAIN["original"].views
    assert first == second
    assert (first.jitter, first.jitter_p, first.grey_p) == ((0.8, 0.8, 0.8, 0.2), 0.3, 0.2)
    assert (first.blur_size, first.blur_sigma, first.blur_p, first.solarize_p) == (
        3,
        (1.0, 2.0),
        0.2,
        0.0,
    )


def test_problem_3s_images_and_masks_are_augmented_as_the_recipe_says(drawn):
    images, truth = p3.augmented(pixels(300, 4), p3_recipes.RECIPES["original"]["B"], generator(0))
    assert (
        named(drawn) == ["random_flip"]
        and images.shape == (4, 3, 300, 300)
        and truth.shape == (4, 300, 300)
    )
    del drawn[:]
    images, _ = p3.augmented(pixels(300, 4), p3_recipes.RECIPES["hour"]["B"], generator(0))
    assert named(drawn) == ["random_crop", "random_symmetry", "random_jitter"] and images.shape[
        2:
    ] == (256, 256)
    assert drawn[2][1]["strength"] == (0.2, 0.2, 0.2, 0.0)


# --- the loops --------------------------------------------------------------------------------------------------------------


def cosine_lrs(recipe, epochs, steps):
    """The learning rate of each epoch's last step."""
    last = [steps * (epoch + 1) - 1 for epoch in range(epochs)]
    return [
        recipe.lr * optim.warmup_cosine(step, recipe.warmup_epochs * steps, epochs * steps)
        for step in last
    ]


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
        "--recipe",
        "paper",
        "--epochs",
        "3",
        "--batch-size",
        "4",
        "--device",
        "cpu",
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


def test_problem_1_follows_its_schedule_and_keeps_the_averaged_weights(
    call, tiny, tmp_path, monkeypatch
):
    small = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 64, 50),
    )
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
    assert torch.equal(state["average"]["0.weight"], state["network"]["0.weight"]), (
        "the weights themselves"
    )


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
        "--recipe",
        "original",
        "--epochs",
        "5",
        "--batch-size",
        "2",
        "--device",
        "cpu",
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
        "--epochs",
        "2",
        "--batch-size",
        "2",
        "--device",
        "cpu",
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


@pytest.mark.parametrize("flip_test", [False, True])
def test_problem_3s_validation_predicts_as_the_graders_script_does(flip_test):
    recipe = dataclasses.replace(p3_recipes.ORIGINAL_B, flip_test=flip_test, bf16=False)
    torch.manual_seed(0)
    network = nn.Conv2d(
        3, len(p3_data.CLASSES), (1, 5), padding=(0, 2)
    )  # it sees what lies left and right
    pairs = torch.randint(0, len(p3_data.CLASSES), (5, 4, 32, 40), dtype=torch.uint8)
    pairs[:, :3] = torch.randint(0, 256, (5, 3, 32, 40))
    images, truth = p3_data.split(pairs)
    inputs = augment.normalise(augment.to_float(images), recipe.mean, recipe.std)
    classes = inference.classify(network, inputs, Views(flip_test))[:, 0]
    expected = p3_data.mean_iou(p3_data.confusion(truth, classes.long()))
    assert p3.evaluate(network, pairs, recipe, torch.device("cpu")) == expected
    other = dataclasses.replace(recipe, flip_test=not flip_test)
    assert p3.evaluate(network, pairs, other, torch.device("cpu")) != expected, (
        "the network is blind to mirroring"
    )
