"""Optimisers by name, their decay groups, and the schedule at its ends."""

import copy
import functools
import math

import pytest
import torch
from conftest import same
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core.cli import InputError
from training import loop
from training.optim import LARS, make, set_lr, update_average, warmed_up, warmup_cosine


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def names(optimizer, of):
    """The parameters' names in each of the optimiser's groups, and the group's decay."""
    named = {id(value): name for name, value in of.named_parameters()}
    return [
        ({named[id(value)] for value in group["params"]}, group["weight_decay"])
        for group in optimizer.param_groups
    ]


MATRICES, VECTORS = {"0.weight", "3.weight"}, {"0.bias", "1.weight", "1.bias", "3.bias"}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_vectors_decay_only_if_asked_for_and_frozen_parameters_are_left_out(name):
    model = network()
    groups = [(MATRICES, 5e-4), (VECTORS, 0.0)]
    optimizer = make(name, model, 0.1, 5e-4, decay_vectors=False)
    assert names(optimizer, model) == groups
    set_lr(optimizer, 0.025)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]
    decaying = make(name, model, 0.1, 5e-4, decay_vectors=True)
    assert names(decaying, model) == [(MATRICES | VECTORS, 5e-4)]
    model[:2].requires_grad_(False)
    left = make(name, model, 0.1, 5e-4, decay_vectors=False)
    assert names(left, model) == [({"3.weight"}, 5e-4), ({"3.bias"}, 0.0)]


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("sgd", functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
    ],
)
def test_a_step_is_that_of_the_optimiser_by_the_same_name(name, theirs):
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.load_state_dict(one.state_dict())
    ours = make(name, one, 0.1, 0.2, decay_vectors=True)
    for model, optimizer in (
        (one, ours),
        (other, theirs(other.parameters(), 0.1, weight_decay=0.2)),
    ):
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.ones(1, 3)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(one.weight, other.weight)


def test_lars_is_its_formula_over_several_steps_and_when_resumed():
    weight, bias = torch.randn(3, 2, requires_grad=True), torch.randn(3, requires_grad=True)
    w, b = weight.detach().double(), bias.detach().double()
    v_w, v_b = torch.zeros_like(w), torch.zeros_like(b)
    optimizer = LARS([weight, bias], lr=0.5, momentum=0.8, weight_decay=0.1, trust=0.02)
    for step in range(5):
        saved = copy.deepcopy(optimizer.state_dict())  # as in a file
        optimizer = LARS([weight, bias], lr=0.0)
        optimizer.load_state_dict(saved)
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
    model = network()
    optimizer = make("lars", model, 0.1, 100.0, decay_vectors)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    model(torch.randn(4, 3, 3, 3)).square().sum().backward()
    optimizer.step()
    for name, value in model.named_parameters():
        if name in VECTORS:
            assert torch.equal(value.detach(), before[name].sub(value.grad, alpha=0.1)), name
        else:
            length, moved = before[name].norm(), (value.detach() - before[name]).norm()
            torch.testing.assert_close(moved, 0.1 * 1e-3 * length, rtol=1e-3, atol=0, msg=name)


def test_lars_takes_a_matrix_of_zeros_and_a_gradient_of_zeros():
    zeros, still, unused = (
        value.requires_grad_() for value in (torch.zeros(2, 2), *torch.ones(2, 2, 2))
    )
    optimizer = LARS([zeros, still, unused], lr=0.1)
    zeros.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(zeros.detach(), torch.full((2, 2), -0.1))
    assert torch.equal(still, torch.ones(2, 2)) and torch.equal(unused, torch.ones(2, 2))


def test_an_unknown_name_raises_and_names_the_known():
    with pytest.raises(
        InputError, match="unknown optimiser 'lamb'; choose from adam, adamw, sgd, lars"
    ):
        make("lamb", network(), 0.1, 0.0, decay_vectors=True)


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine_through_a_half():
    assert [warmup_cosine(step, 4, 20) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert warmup_cosine(60, 10, 110) == pytest.approx(0.5)
    assert warmup_cosine(35, 10, 110) == pytest.approx(0.5 + math.sqrt(0.125))
    assert warmup_cosine(0, 0, 10) == 1.0


@given(warmup=st.floats(0, 50), rest=st.integers(1, 200))
def test_a_rate_rises_to_at_most_one_and_then_only_falls_to_zero(warmup, rest):
    total = math.ceil(warmup) + rest
    factors = [warmup_cosine(step, warmup, total) for step in range(total + 1)]
    top = min(math.ceil(warmup), total)
    assert all(0 < factor <= 1 for factor in factors[:-1])
    assert factors[-1] == warmup_cosine(2 * total, warmup, total) == 0
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


# --- averaged weights ---


def averaged_network(seed):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    for _ in range(seed + 1):  # the running statistics are no longer 0 and 1
        made(torch.rand(5, 3, 6, 6) * (seed + 1))
    return made


@given(decay=st.floats(0, 1))
def test_an_average_is_the_formula_in_place_over_parameters_and_buffers_and_copies_counters(decay):
    average, model = averaged_network(0), averaged_network(1)
    old, new = copy.deepcopy(average.state_dict()), copy.deepcopy(model.state_dict())
    places = {name: value.data_ptr() for name, value in average.state_dict().items()}
    update_average(average, model, decay)
    same(model.state_dict(), new)
    for name, value in average.state_dict().items():
        counter = name == "1.num_batches_tracked"
        expected = new[name] if counter else decay * old[name] + (1 - decay) * new[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6)
        assert value.data_ptr() == places[name]
    assert average[0].weight.grad_fn is None and average[0].weight.requires_grad


@given(decay=st.floats(0.1, 1, exclude_max=True), updates=st.integers(0, 10**6))
def test_a_warmed_up_decay_grows_from_a_tenth_to_the_decay(decay, updates):
    assert warmed_up(decay, 0) == 0.1 <= warmed_up(decay, updates) <= decay
    assert warmed_up(decay, updates) <= warmed_up(decay, updates + 1)
    assert warmed_up(decay, 10**18) == decay and warmed_up(0.99, 8) == 0.5


def test_a_decay_of_one_gives_the_mean_over_all_steps():
    network, average = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    optimizer, scaler = torch.optim.SGD(network.parameters(), lr=0.1), torch.amp.GradScaler("cpu")
    seen = []
    for n in range(5):
        loss = network(torch.randn(3, 2)).square().sum()
        decay = warmed_up(1.0, n)
        loop.step(loss, network, optimizer, scaler, average=average, decay=decay)
        seen.append(network[0].weight.detach().clone())
    expected = torch.stack(seen).mean(0)
    torch.testing.assert_close(average[0].weight, expected)
