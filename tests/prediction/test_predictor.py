"""A predictor on a device that is too small; torchvision comes without a compiler."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from core import checkpoint
from prediction.predictor import Predictor, TooLarge


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


def test_a_programs_network_needs_neither_torchs_compiler_nor_the_other_problems():
    program = (
        "import sys; import p2.inference as p; from core import devices; "
        "p.predictor(p.ROOT / 'checkpoints' / 'p2_c.pt', devices.choose('cpu')); "
        "assert 'torchvision' in sys.modules; "
        "print([name for name in ('torch._dynamo', 'p1', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
