"""Use any checkpoint as a network that predicts, in three lines of Python.

from checkpoints.models import load
model = load("checkpoints/p1_a.pt")
logits = model(images)  # (N, 3, H, W) uint8, RGB
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, checkpoint
from core.cli import InputError
from core.views import Views

PROBLEMS = ("p1", "p2", "p3")


class Model(nn.Module):
    """A checkpoint's network with normalisation and averaging over mirror images, scales and turns.

    ``network``: the bare network, in evaluation mode. ``checkpoint``: the contents of the file.
    """

    def __init__(self, network: nn.Module, saved: checkpoint.Checkpoint) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.checkpoint = saved

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 logits, (N, classes) or, in problem 3, (N, classes, H, W).

        Raises ValueError if the images are not uint8, or not 32x32 in problem 1 or 128x128 in
        problem 2.
        """
        saved = self.checkpoint
        if images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}; give uint8, from 0 to 255")
        side = saved.input_size
        if side and tuple(images.shape[2:]) != (side, side):
            raise ValueError(f"images are {tuple(images.shape)}; give (N, 3, {side}, {side})")
        inputs = augment.normalise(augment.to_float(images), saved.mean, saved.std)
        return Views.of(saved).logits(self.network, inputs)


def load(path: str | Path) -> Model:
    """The model in the file ``path``, on the CPU.

    Raises InputError if the file is not a checkpoint of this project.
    """
    path = Path(path)
    problem = checkpoint.read(path).get("problem")
    if problem not in PROBLEMS:
        raise InputError(f"{path} is not a checkpoint of this project; make one with p1.train")
    saved = checkpoint.load(path, problem)
    network = importlib.import_module(f"{problem}.model").build(
        saved.architecture, len(saved.classes)
    )
    checkpoint.load_weights(network, saved.weights, str(path))
    return Model(network, saved)
