"""Folded networks compute what the networks do."""

import copy

import pytest
import torch
from conftest import thin_fcn32s, varied
from torch import nn

from core import devices
from p1 import model as p1
from p2 import model as p2
from p3 import model as p3
from prediction.folding import FusedConvolution, fold

CPU = torch.device("cpu")
NETWORKS = {
    "p1 A": (lambda: p1.build(p1.ARCHITECTURE, 50), 32),
    "p1 C": (lambda: p1.build("efficientnet_lite0_64", 50), 32),
    "p2": (lambda: p2.Classifier(5), 64),
    "p3 A": (thin_fcn32s, 64),
    "p3 B": (lambda: p3.build(p3.OF_MODEL["B"]), 64),
    "p3 C": (lambda: p3.build(p3.OF_MODEL["C"]), 64),
}


@pytest.fixture(params=NETWORKS, scope="module")
def network(request):
    """A network that is not to be changed, and its images' side."""
    build, size = NETWORKS[request.param]
    torch.manual_seed(0)
    network = build()
    return varied(network, size).eval(), size


def folded(network, device=CPU, **options):
    return fold(devices.prepare(copy.deepcopy(network), CPU), device, **options)


@torch.inference_mode()
def test_a_folded_network_gives_the_same_logits_at_any_size(network):
    network, size = network
    fast, on_gpu = folded(network), folded(network, torch.device("cuda"))
    assert any(isinstance(module, FusedConvolution) for module in fast.modules())
    for one in (fast, on_gpu):
        assert not any(isinstance(module, nn.BatchNorm2d) for module in one.modules())
    for shape in ((3, 3, size, size), (1, 3, size + 9, size + 32), (2, 3, size, size)):
        images = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        expected = network(images)
        for one in (fast, on_gpu):
            found = one(images)
            assert found.shape == expected.shape
            assert torch.allclose(found, expected, atol=1e-3 * expected.abs().max())


@pytest.mark.skipif(not devices.has_bf16(CPU), reason="this CPU does not compute in bfloat16")
@torch.inference_mode()
def test_bfloat16_is_near_float32(network):
    network, size = network
    images = torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last)
    expected, found = network(images), folded(network, bf16=True)(images).float()
    error = (found - expected).abs().mean() / expected.std()
    assert 1e-4 < error < 0.5  # of unrelated logits it is above 1


def test_without_bfloat16_it_is_float32_and_said_so(monkeypatch, capsys):
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    convolution = fold(nn.Sequential(nn.Conv2d(3, 1, 1)), CPU, bf16=True)
    with torch.inference_mode():
        assert convolution(torch.randn(2, 3, 8, 8)).dtype == torch.float32
    assert "no bfloat16 on" in capsys.readouterr().err
