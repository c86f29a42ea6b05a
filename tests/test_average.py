"""The moving average of weights against the written-out formula."""

import copy

import pytest
import torch
from torch import nn

from core.average import update_average, warmed_up


def network(seed):
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    made(
        torch.rand(5, 3, 6, 6) * (seed + 1)
    )  # so that the running statistics are no longer 0 and 1
    return made


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.5, 0.99, 1.0])
def test_average_is_the_formula_over_parameters_and_buffers(decay):
    average, model = network(0), network(1)
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
    average, model = network(0), network(1)
    model(torch.rand(2, 3, 6, 6))
    update_average(average, model, 0.9)
    assert average[1].num_batches_tracked == model[1].num_batches_tracked == 2


def test_the_average_changes_in_place_and_the_model_not_at_all():
    average, model = network(0), network(1)
    places = {name: value.data_ptr() for name, value in average.state_dict().items()}
    before = copy.deepcopy(model.state_dict())
    old = average[0].weight.detach().clone()
    update_average(average, model, 0.5)
    assert {name: value.data_ptr() for name, value in average.state_dict().items()} == places
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not torch.equal(average[0].weight, old)
    assert average[0].weight.grad_fn is None and average[0].weight.requires_grad


def test_many_updates_converge_to_a_model_that_stands_still():
    average, model = network(0), network(1)
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
