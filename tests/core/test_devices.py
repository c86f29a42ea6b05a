"""Choosing a device, and what is done for the CPU's sake."""

import copy

import pytest
import torch
from torch import nn

from core import devices
from core.cli import InputError


def broken(*_, **__):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def test_auto_takes_the_cpu_where_there_is_no_gpu_or_a_broken_one(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.choose("auto").type == "cpu" and capsys.readouterr().err == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    assert devices.choose("auto").type == "cpu"
    assert "no kernel image" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["cuda:77", "nonsense", "cpu:x", "hpu", "mps", "meta"])
def test_a_device_that_is_not_there_is_an_input_error(name):
    with pytest.raises(InputError, match=f"device '{name}' is not available"):
        devices.choose(name)


@pytest.mark.parametrize("slow", [{"kernel_size": 3, "stride": 2}, {"kernel_size": 5}])
def test_preparing_keeps_depthwise_convolutions_that_are_slow_in_bf16_in_float32(slow):
    depthwise = nn.Conv2d(8, 8, groups=8, **slow)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), depthwise, nn.Conv2d(8, 4, 1)).eval()
    images = torch.rand(2, 3, 16, 16)
    before = network(images)
    prepared = devices.prepare(network, torch.device("cpu"))
    assert torch.allclose(prepared(images), before, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = [images := layer(images) for layer in prepared]
    assert [out.dtype for out in outputs] == [torch.bfloat16, torch.float32, torch.bfloat16]
    assert torch.allclose(images.float(), before, atol=0.05)


def test_a_prepared_network_keeps_no_copy_of_what_its_activations_see():
    torch.manual_seed(0)
    plain = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU6(inplace=True)),
        *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(inplace=True)),
    )
    ready = devices.prepare(copy.deepcopy(plain), torch.device("cpu"))
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    copies = []
    for network in (plain.to(memory_format=torch.channels_last), ready):
        with torch.profiler.profile() as seen:
            network(images).square().sum().backward()
        copies.append(sum(event.name == "aten::clone" for event in seen.events()))
    assert copies[1] == copies[0] - 2
    for one, other in zip(plain.parameters(), ready.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert devices.prepare(plain.eval(), torch.device("cpu"))[2].inplace  # no gradient, no copy


def test_bf16_is_asked_for_only_where_it_is_there(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(devices, "_cpuinfo", lambda: ["flags : fpu avx2"])
    assert not devices.has_bf16(cpu) and not devices.autocast(cpu, True)._enabled
    monkeypatch.setattr(devices, "_cpuinfo", lambda: ["flags : fpu avx512_bf16"])
    assert devices.has_bf16(cpu) and devices.autocast(cpu, True)._enabled
    assert not devices.autocast(cpu, False)._enabled
