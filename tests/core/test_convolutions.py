"""Convolutions of small maps: the same numbers as oneDNN's, but for rounding."""

import copy

import pytest
import torch
from torch import nn

from core import convolutions, devices

CPU = torch.device("cpu")


def both(kernel, stride, size, train=True, bf16=True, bias=False):
    """(output, gradients of input and weights) by nn.Conv2d and by our ``forward``."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, kernel, stride, kernel // 2, bias=bias).train(train)
    return by_both(convolutions.forward, conv, torch.randn(3, 6, size, size), bf16)


def by_both(ours, conv, images, bf16):
    """(output, gradients of input and weights) by nn.Conv2d and by the forward method ``ours``."""
    images = images.to(memory_format=torch.channels_last)
    results = []
    for forward in (nn.Conv2d.forward, ours):
        images, conv = images.detach().requires_grad_(), copy.deepcopy(conv)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = forward(conv, images)
        out.float().square().sum().backward()
        results.append((out.detach(), images.grad, *(part.grad for part in conv.parameters())))
    return results


# Not 1: oneDNN's own gradient of a strided convolution of one pixel was once not a number near it.
@pytest.mark.parametrize("size", [2, 3, 4, 7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_are_the_convolutions(bias, kernel, stride, size):
    theirs, ours = both(kernel, stride, size, bias=bias)
    for one, other in zip(theirs, ours, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        difference = (one - other).abs().max() / one.abs().max()
        assert difference < 0.02  # bfloat16 has 8 bits


@pytest.mark.parametrize(("train", "bf16"), [(False, True), (True, False)])
def test_inference_and_float32_are_the_convolutions_to_the_bit(train, bf16):
    theirs, ours = both(3, 1, 2, train, bf16)
    assert all(torch.equal(*pair) for pair in zip(theirs, ours, strict=True))


def test_others_are_left_as_they_are():
    plain = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False}
    assert convolutions.takes_over(nn.Conv2d(**plain))
    for other in (
        {"groups": 4},
        {"dilation": 2},
        {"padding": 0},
        {"kernel_size": (3, 1)},
        {"kernel_size": 5},
        {"kernel_size": 7, "padding": 3, "stride": 2},
        {"padding_mode": "reflect"},
    ):
        assert not convolutions.takes_over(nn.Conv2d(**plain | other)), other


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("size", [4, 5, 8])  # below, at and above the dilation
def test_a_dilated_convolution_of_a_small_map_has_the_same_output_and_gradients(size, bf16):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3, padding=5, dilation=5, groups=2)
    images = torch.randn(3, 6, size, 3)
    theirs, ours = by_both(convolutions.forward_dilated, conv, images, bf16)
    bound = 0.02 if bf16 else 1e-5
    for one, other in zip(theirs, ours, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= bound * one.abs().max()


def test_which_convolutions_are_dilated():
    dilated = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 2, "dilation": 2}
    assert convolutions.is_dilated(nn.Conv2d(**dilated))
    for other in (
        {"padding": 1},
        {"stride": 2},
        {"dilation": 1, "padding": 1},
        {"dilation": (2, 4), "padding": (2, 4)},
        {"kernel_size": 5, "padding": 4},
        {"padding_mode": "reflect"},
    ):
        assert not convolutions.is_dilated(nn.Conv2d(**dilated | other)), other


def test_a_prepared_network_learns_the_same_and_has_the_same_names():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
    ready = devices.prepare(copy.deepcopy(plain), CPU)
    assert ready.state_dict().keys() == plain.state_dict().keys()
    twin = copy.deepcopy(ready)
    images = torch.randn(2, 3, 4, 4)
    for network in (plain, ready):
        with torch.autocast("cpu", torch.bfloat16):
            network(images.to(memory_format=torch.channels_last)).float().sum().backward()
    assert twin[0].weight.grad is None and ready[0].weight.grad is not None
    torch.testing.assert_close(plain[1].running_var, ready[1].running_var, rtol=0.02, atol=0.02)
