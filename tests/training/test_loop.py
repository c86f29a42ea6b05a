"""What the training loops share: schedules, the step, the hold-out."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from core import augment, devices
from core.cli import InputError
from training import loop, optim


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.1] * 4),
        ("plateau", [0.1] * 4),
        ("cosine", [0.01, 0.1, 0.05, 0.05 * (1 + math.cos(math.pi * 29 / 30))]),
    ],
)
def test_the_learning_rate_follows_the_schedule(schedule, rates):
    recipe = SimpleNamespace(schedule=schedule, lr=0.1, epochs=4, warmup_epochs=1.0)
    optimizer = optim.make("sgd", nn.Linear(1, 1), 0.1, 0.0, True)
    for step, rate in zip((0, 9, 25, 39), rates, strict=True):
        loop.set_learning_rate(optimizer, recipe, step, 10)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_the_backbone_learns_at_its_share_of_the_rate_at_every_step():
    network = nn.ModuleDict({"backbone": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    values = {"optimiser": "sgd", "lr": 0.1, "weight_decay": 0.5, "decay_vectors": False}
    schedule = {"schedule": "cosine", "warmup_epochs": 0.0, "epochs": 4}
    recipe = SimpleNamespace(**values, **schedule, backbone_rate=0.25)
    optimizer = loop.make_optimizer(network, recipe)
    name_of = {id(value): name for name, value in network.named_parameters()}
    for step, rate in ((None, 0.1), (0, 0.1), (20, 0.05)):
        if step is not None:
            loop.set_learning_rate(optimizer, recipe, step, 10)
        rates = {
            name_of[id(value)]: group["lr"]
            for group in optimizer.param_groups
            for value in group["params"]
        }
        shares = {name: 0.25 if name.startswith("backbone") else 1.0 for name in name_of.values()}
        assert rates == pytest.approx({name: rate * share for name, share in shares.items()})
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.05)  # what problems 1 and 3 log


@pytest.mark.parametrize(("flip_test", "share"), [(False, 3 / 5), (True, 2 / 5)])
def test_accuracy_is_of_normalised_images_in_evaluation_mode(flip_test, share):
    class Leftmost(nn.Module):
        """The logits are the leftmost pixel's channels."""

        def forward(self, inputs):
            assert not self.training
            return inputs[:, :, 0, 0]

    recipe = SimpleNamespace(
        mean=(0.2, 0.5, 0.5), std=(0.1, 1.0, 1.0), bf16=False, flip_test=flip_test
    )
    image = torch.tensor([[102, 0], [153, 255], [0, 0]], dtype=torch.uint8).view(1, 3, 1, 2)
    labels = torch.tensor([0, 0, 0, 1, 1])  # 0: as it is; 1: with its mirror image, or raw
    images, device = image.repeat(5, 1, 1, 1), torch.device("cpu")
    found = loop.accuracy(Leftmost().train(), images, labels, recipe, device, 2)
    assert found == pytest.approx(share)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(InputError, match="unknown schedule 'linear'"):
        loop.set_learning_rate(None, SimpleNamespace(schedule="linear"), 0, 10)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=200),
    seed=st.integers(0, 3),
    share=st.sampled_from([2, 10, 20]),
)
def test_what_is_held_out_is_a_share_of_every_class_and_a_function_of_the_seed(labels, seed, share):
    labels = torch.tensor(labels)
    if len(labels.unique()) == len(labels):
        with pytest.raises(InputError, match="no class has two images"):
            loop.held_out(labels, seed, share)
        return
    held = loop.held_out(labels, seed, share)
    for label in labels.unique():
        members = labels == label
        count = int(members.sum())
        assert held[members].sum() == (max(1, round(count / share)) if count > 1 else 0)
    assert torch.equal(held, loop.held_out(labels, seed, share))
    images = torch.arange(len(labels))
    (train, train_labels), (rest, rest_labels) = loop.split_for_tune(images, labels, seed)
    assert torch.equal(labels[train], train_labels) and torch.equal(labels[rest], rest_labels)
    assert torch.equal(torch.cat([train, rest]).sort()[0], images)


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
    resumed = loop.loss_scaler(torch.device("cpu"), True)
    resumed.load_state_dict(scaler.state_dict())
    assert resumed.get_scale() == first / 2
    step(scaler, network, optimizer)
    moved = network.weight.detach().clone()
    assert not torch.equal(moved, before)

    plain, optimizer = pair()
    step(loop.loss_scaler(torch.device("cpu"), False), plain, optimizer)
    torch.testing.assert_close(moved, plain.weight.detach(), rtol=1e-2, atol=1e-3)


def test_without_float16_nothing_is_scaled(monkeypatch):
    monkeypatch.setattr(devices, "short_format", lambda device: torch.bfloat16)
    assert not loop.loss_scaler(torch.device("cpu"), True).is_enabled()
    state = loop.state(scaler=loop.loss_scaler(torch.device("cpu"), True), a=1, b=None)
    assert state == {"a": 1}


def test_statistics_are_the_mean_of_the_batches_and_nothing_else_changes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    layer, before = network[1], {n: v.clone() for n, v in network.state_dict().items()}
    images = torch.randn(12, 3, 4, 4) * torch.arange(12).view(-1, 1, 1, 1)
    recipe, seen = SimpleNamespace(batch_size=3, statistics=3, bf16=False), []

    def inputs_of(index, rng):
        seen.append(images[index] + torch.rand(1, generator=rng))
        return seen[-1]

    loop.measure_statistics(network.train(), inputs_of, 12, recipe, torch.device("cpu"), 0, 0)
    outputs = [network[0](batch) for batch in seen]
    assert len(outputs) == 3
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    var = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(layer.running_mean, mean)
    torch.testing.assert_close(layer.running_var, var)
    assert layer.momentum == 0.1 and not any(part.training for part in network.modules())
    for name, value in network.state_dict().items():
        assert ("running" in name or "tracked" in name) or torch.equal(value, before[name]), name


def test_statistics_augment_in_float32_and_compute_in_bfloat16():
    network, formats = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), []
    network[0].register_forward_hook(lambda module, given, out: formats.append(out.dtype))
    recipe = SimpleNamespace(batch_size=3, statistics=2, bf16=True)

    def inputs_of(index, rng):
        images = torch.rand(len(index), 3, 8, 8, generator=rng)
        images = augment.resized_crop(images, *augment.random_box(images, rng, (0.5, 1.0)), 8)
        return augment.random_jitter(images, (0.4, 0.4, 0.4, 0.1), rng)

    loop.measure_statistics(network, inputs_of, 12, recipe, torch.device("cpu"), 0, 0)
    assert formats == [torch.bfloat16] * 2
