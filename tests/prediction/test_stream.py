"""Predicting on a device that fails, played by one called cuda."""

import pytest
import torch
from conftest import refused, snapshot

from core import devices
from core.cli import InputError
from prediction.predictor import TooLarge
from prediction.stream import on_device

FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore lines"
    ),
    TooLarge("an image of 9000x9000 does not fit in the memory of cuda"),
]


@pytest.fixture
def gpu(monkeypatch):
    """Let ``auto`` and ``cuda`` be a GPU."""
    monkeypatch.setattr(
        devices, "choose", lambda name: torch.device("cuda" if name == "auto" else name)
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_gpu_that_fails_is_warned_about_and_the_cpu_does_the_whole(gpu, capsys, fault):
    tried = []

    def work(device):
        tried.append(device.type)
        if device.type == "cuda":
            raise fault
        return 3

    assert on_device("auto", work) == 3 and tried == ["cuda", "cpu"]
    err = capsys.readouterr().err
    reason = str(fault).splitlines()[0]
    assert err == f"warning: cuda failed ({reason}); starting again on the CPU\n"
    with pytest.raises(InputError) as error:
        on_device("cuda", work)
    assert str(error.value) == f"cuda failed ({reason}); try --device cpu"


@pytest.mark.parametrize(("name", "has_gpu"), [("cpu", False), ("auto", False), ("auto", True)])
def test_an_error_on_the_cpu_is_a_bug_and_stays_what_it_is(name, has_gpu, request, monkeypatch):
    if has_gpu:
        request.getfixturevalue("gpu")  # whose fault it is not, as the CPU has it too
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def work(device):
        raise RuntimeError(f"a bug on the {device}")

    with pytest.raises(RuntimeError, match="a bug on the cpu"):
        on_device(name, work)


@pytest.mark.parametrize("problem", ["p1", "p2", "p3"])
def test_each_program_goes_on_without_its_gpu(predict, gpu, monkeypatch, problem, tmp_path):
    prepare = devices.prepare

    def full(network, device):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return prepare(network, device)

    monkeypatch.setattr(devices, "prepare", full)
    result = predict(problem, tmp_path / "out", "--device", "cuda")
    refused(result, "cuda failed (CUDA out of memory); try --device cpu")
    outputs = []
    for name in ("auto", "cpu"):
        status, _, err = predict(problem, tmp_path / name / "out", "--device", name)
        assert status == 0 and ("starting again on the CPU" in err) == (name == "auto")
        outputs.append(snapshot(tmp_path / name))
    assert outputs[0] == outputs[1] and outputs[0]
