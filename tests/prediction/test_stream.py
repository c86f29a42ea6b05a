"""Predicting on a device that is too small or fails, played by one called cuda."""

import numpy as np
import pytest
import torch
from conftest import refused, snapshot

from core import checkpoint, devices
from core.cli import InputError
from prediction.predictor import Predictor, TooLarge
from prediction.stream import on_device


@pytest.fixture
def predictor(p1_checkpoint, monkeypatch):
    """A ``Predictor`` of problem 1 on the CPU, of any function of images."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # torch's default; put back after
    saved = checkpoint.load(p1_checkpoint, "p1")
    return lambda function: Predictor(function, saved, torch.device("cpu"))


def test_a_batch_too_large_for_the_gpu_is_halved_until_it_fits(predictor, capsys):
    sizes = []

    def classify(images):
        sizes.append(len(images))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images[:, 0, 0, 0]

    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 32, 32)
    assert np.allclose(predictor(classify)(images), (np.arange(10) / 255 - 0.5) / 0.5)
    assert sizes == [10, 5, 2, 2, 2, 2, 2] and "batches of 2" in capsys.readouterr().err


def test_an_image_too_large_for_the_gpu_is_an_input_error_that_names_its_size(predictor):
    def classify(images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(TooLarge, match="an image of 90x40 does not fit in the memory of cpu"):
        predictor(classify)(torch.zeros(3, 3, 40, 90, dtype=torch.uint8))


def test_a_gpu_convolves_in_float32_not_in_tf32(predictor):
    rounded = []

    def classify(images):
        rounded.append(torch.backends.cudnn.allow_tf32)
        return images[:, 0, 0, 0]

    predictor(classify)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert rounded == [False]


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
