"""Optimisers by name, their decay groups, and the schedule at its ends."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.cli import InputError
from training.optim import LARS, make, set_lr, update_average, warmed_up, warmup_cosine


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def names(optimizer, of):
    """The parameters' names in each of the optimiser's groups, and the group's decay."""
    known = {id(value): name for name, value in of.named_parameters()}
    return [
        ({known[id(value)] for value in group["params"]}, group["weight_decay"])
        for group in optimizer.param_groups
    ]


MATRICES, VECTORS = {"0.weight", "3.weight"}, {"0.bias", "1.weight", "1.bias", "3.bias"}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_vectors_decay_only_if_asked_for(name):
    model = network()
    assert names(make(name, model, 0.1, 5e-4, decay_vectors=False), model) == [
        (MATRICES, 5e-4),
        (VECTORS, 0.0),
    ]
    assert names(make(name, model, 0.1, 5e-4, decay_vectors=True), model) == [
        (MATRICES | VECTORS, 5e-4)
    ]


def test_frozen_parameters_are_left_out():
    model = network()
    model[:2].requires_grad_(False)
    assert names(make("sgd", model, 0.1, 0.1, decay_vectors=False), model) == [
        ({"3.weight"}, 0.1),
        ({"3.bias"}, 0.0),
    ]


def test_a_step_is_that_of_the_optimiser_by_the_same_name():
    def after_two_steps(optimizer_of):
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
        optimizer = optimizer_of(model)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
        return model.weight.detach()

    for name, theirs in [
        ("adam", lambda model: torch.optim.Adam(model.parameters(), 0.1, weight_decay=0.2)),
        ("adamw", lambda model: torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.2)),
        (
            "sgd",
            lambda model: torch.optim.SGD(
                model.parameters(), 0.1, 0.9, weight_decay=0.2, nesterov=True
            ),
        ),
    ]:
        ours = after_two_steps(
            lambda model, name=name: make(name, model, 0.1, 0.2, decay_vectors=True)
        )
        torch.testing.assert_close(ours, after_two_steps(theirs), msg=name)


def lars_steps(model, optimizer, steps, start=0):
    """Train on random batches that depend on the step's number only."""
    for step in range(start, start + steps):
        images = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()


def test_lars_is_its_formula_over_several_steps():
    torch.manual_seed(0)
    weight, bias = torch.randn(3, 2, requires_grad=True), torch.randn(3, requires_grad=True)
    w, b = weight.detach().double(), bias.detach().double()
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.8, weight_decay=0.1, trust=0.02)
    for step in range(5):
        g_w, g_b = torch.randn(3, 2), torch.randn(3)
        weight.grad, bias.grad = g_w.clone(), g_b.clone()
        optimizer.param_groups[0]["lr"] = lr = 0.5 / (step + 1)
        optimizer.step()
        d = g_w.double() + 0.1 * w
        v_w = 0.8 * v_w + 0.02 * math.sqrt((w**2).sum()) / math.sqrt((d**2).sum()) * d
        v_b = 0.8 * v_b + g_b.double()
        w, b = w - lr * v_w, b - lr * v_b
        torch.testing.assert_close(weight.detach().double(), w, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(bias.detach().double(), b, rtol=1e-5, atol=1e-6)
        assert torch.equal(weight.grad, g_w) and torch.equal(bias.grad, g_b)


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_lars_neither_decays_nor_adapts_vectors(decay_vectors):
    torch.manual_seed(0)
    model = network()
    optimizer = make("lars", model, 0.1, 100.0, decay_vectors)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["trust"]) == (0.1, 0.9, 1e-3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    lars_steps(model, optimizer, 1)
    for name, value in model.named_parameters():
        if name in VECTORS:
            assert torch.equal(value.detach(), before[name].sub(value.grad, alpha=0.1)), name
        else:
            moved = (value.detach() - before[name]).norm()
            torch.testing.assert_close(
                moved, 0.1 * 1e-3 * before[name].norm(), rtol=1e-3, atol=0, msg=name
            )


def test_lars_takes_a_matrix_of_zeros_and_a_gradient_of_zeros():
    zeros, still = torch.zeros(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    unused = torch.ones(2, 2, requires_grad=True)
    optimizer = LARS([zeros, still, unused], lr=0.1)
    zeros.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.full((2, 2), -0.1))
    assert torch.equal(still.detach(), torch.ones(2, 2)) and torch.equal(
        unused.detach(), torch.ones(2, 2)
    )


def test_lars_resumed_ends_bit_for_bit_where_unbroken_it_ends(tmp_path):
    def fresh():
        torch.manual_seed(0)
        model = network()
        return model, make("lars", model, 0.2, 1e-2, decay_vectors=False)

    straight, optimizer = fresh()
    lars_steps(straight, optimizer, 6)
    broken, first = fresh()
    lars_steps(broken, first, 3)
    torch.save(
        {"model": broken.state_dict(), "optimizer": first.state_dict()}, tmp_path / "state.pt"
    )
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed, second = fresh()
    resumed.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    lars_steps(resumed, second, 3, start=3)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert all(
        torch.equal(optimizer.state[a]["velocity"], second.state[b]["velocity"])
        for a, b in zip(straight.parameters(), resumed.parameters(), strict=True)
    )


def test_an_unknown_name_raises_and_names_the_known():
    with pytest.raises(
        InputError, match="unknown optimiser 'lamb'; choose from adam, adamw, sgd, lars"
    ):
        make("lamb", network(), 0.1, 0.0, decay_vectors=True)


def test_set_lr_sets_every_group():
    optimizer = make("sgd", network(), 0.1, 5e-4, decay_vectors=False)
    set_lr(optimizer, 0.025)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]


def test_warmup_rises_in_a_line_to_one():
    assert [warmup_cosine(step, 4, 20) for step in range(5)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0]
    )


def test_cosine_falls_from_one_through_a_half_to_zero_and_stays_there():
    assert warmup_cosine(10, 10, 110) == 1.0
    assert warmup_cosine(60, 10, 110) == pytest.approx(0.5)
    assert warmup_cosine(35, 10, 110) == pytest.approx(0.5 + math.sqrt(0.125))
    assert warmup_cosine(110, 10, 110) == warmup_cosine(500, 10, 110) == 0.0
    factors = [warmup_cosine(step, 10, 110) for step in range(10, 111)]
    assert factors == sorted(factors, reverse=True)


def test_without_a_warmup_the_first_step_is_whole():
    assert warmup_cosine(0, 0, 10) == 1.0


@given(warmup=st.floats(0, 50), rest=st.integers(1, 200))
def test_a_rate_rises_to_at_most_one_and_then_only_falls_to_zero(warmup, rest):
    total = math.ceil(warmup) + rest
    factors = [warmup_cosine(step, warmup, total) for step in range(total + 1)]
    top = min(math.ceil(warmup), total)
    assert all(0 < factor <= 1 for factor in factors[:-1]) and factors[-1] == 0
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


# --- averaged weights ---


def averaged_network(seed):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    made(
        torch.rand(5, 3, 6, 6) * (seed + 1)
    )  # so that the running statistics are no longer 0 and 1
    return made


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_average_is_the_formula_over_parameters_and_buffers(decay):
    average, model = averaged_network(0), averaged_network(1)
    old, new = copy.deepcopy(average.state_dict()), model.state_dict()
    update_average(average, model, decay)
    updated = average.state_dict()
    floats = [name for name in updated if not name.endswith("num_batches_tracked")]
    assert {"0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"} <= set(floats)
    for name in floats:
        torch.testing.assert_close(
            updated[name], decay * old[name] + (1 - decay) * new[name], atol=1e-6, rtol=1e-6
        )


def test_counters_are_copied():
    average, model = averaged_network(0), averaged_network(1)
    model(torch.rand(2, 3, 6, 6))
    update_average(average, model, 0.9)
    assert average[1].num_batches_tracked == model[1].num_batches_tracked == 2


def test_the_average_changes_in_place_and_the_model_not_at_all():
    average, model = averaged_network(0), averaged_network(1)
    places = {name: value.data_ptr() for name, value in average.state_dict().items()}
    before = copy.deepcopy(model.state_dict())
    old = average[0].weight.detach().clone()
    update_average(average, model, 0.5)
    assert {name: value.data_ptr() for name, value in average.state_dict().items()} == places
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(average[0].weight, old)
    assert average[0].weight.grad_fn is None and average[0].weight.requires_grad


def test_many_updates_converge_to_a_model_that_stands_still():
    average, model = averaged_network(0), averaged_network(1)
    for _ in range(200):
        update_average(average, model, 0.9)
    for ours, theirs in zip(
        average.state_dict().values(), model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_warmed_up_grows_from_a_tenth_to_the_decay():
    assert warmed_up(0.99, 0) == 0.1
    assert warmed_up(0.99, 8) == 0.5
    assert warmed_up(0.99, 10_000) == 0.99
    decays = [warmed_up(0.99, n) for n in range(2000)]
    assert decays == sorted(decays) and max(decays) == 0.99


def test_a_decay_of_one_gives_the_mean_over_all_updates():
    models = [averaged_network(seed) for seed in range(5)]
    average = averaged_network(9)
    for n, model in enumerate(models):
        update_average(average, model, warmed_up(1.0, n))
    expected = torch.stack([model[0].weight for model in models]).mean(0)
    torch.testing.assert_close(average[0].weight, expected)
