"""Optimisers by name, their decay groups, and the schedule at its ends."""

import math

import pytest
import torch
from torch import nn

from core.optimiser import make, set_lr, warmup_cosine


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def names(optimizer, of):
    """The parameters' names in each of the optimiser's groups, and the group's decay."""
    known = {id(value): name for name, value in of.named_parameters()}
    return [({known[id(value)] for value in group["params"]}, group["weight_decay"]) for group in optimizer.param_groups]


MATRICES, VECTORS = {"0.weight", "3.weight"}, {"0.bias", "1.weight", "1.bias", "3.bias"}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_vectors_decay_only_if_asked_for(name):
    model = network()
    assert names(make(name, model, 0.1, 5e-4, decay_vectors=False), model) == [(MATRICES, 5e-4), (VECTORS, 0.0)]
    assert names(make(name, model, 0.1, 5e-4, decay_vectors=True), model) == [(MATRICES | VECTORS, 5e-4)]


def test_frozen_parameters_are_left_out():
    model = network()
    model[:2].requires_grad_(False)
    assert names(make("sgd", model, 0.1, 0.1, decay_vectors=False), model) == [({"3.weight"}, 0.1), ({"3.bias"}, 0.0)]


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
        ("sgd", lambda model: torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=0.2, nesterov=True)),
    ]:
        ours = after_two_steps(lambda model, name=name: make(name, model, 0.1, 0.2, decay_vectors=True))
        torch.testing.assert_close(ours, after_two_steps(theirs), msg=name)


def test_an_unknown_name_raises_and_names_the_known():
    with pytest.raises(ValueError, match="no optimiser 'lamb'; there are adam, adamw and sgd"):
        make("lamb", network(), 0.1, 0.0, decay_vectors=True)


def test_set_lr_sets_every_group():
    optimizer = make("sgd", network(), 0.1, 5e-4, decay_vectors=False)
    set_lr(optimizer, 0.025)
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]


def test_warmup_rises_in_a_line_to_one():
    assert [warmup_cosine(step, 4, 20) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_falls_from_one_through_a_half_to_zero_and_stays_there():
    assert warmup_cosine(10, 10, 110) == 1.0
    assert warmup_cosine(60, 10, 110) == pytest.approx(0.5)
    assert warmup_cosine(35, 10, 110) == pytest.approx(0.5 + math.sqrt(0.125))
    assert warmup_cosine(110, 10, 110) == warmup_cosine(500, 10, 110) == 0.0
    factors = [warmup_cosine(step, 10, 110) for step in range(10, 111)]
    assert factors == sorted(factors, reverse=True)


def test_without_a_warmup_the_first_step_is_whole():
    assert warmup_cosine(0, 0, 10) == 1.0


@pytest.mark.parametrize("warmup", [0.5, 2.5, 19.5])
def test_a_warmup_of_broken_steps_never_exceeds_one(warmup):
    assert max(warmup_cosine(step, warmup, 100) for step in range(100)) <= 1.0
