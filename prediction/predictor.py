"""Run the network of a checkpoint on batches of bytes."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from core import augment, checkpoint, devices
from core.checkpoint import Checkpoint
from core.cli import InputError, warn
from core.views import Views
from prediction.folding import fold


def load_network(
    build: Callable[[], nn.Module], saved: Checkpoint, source: Path, device: torch.device
) -> nn.Module:
    """Build the network with the weights of ``saved``, ready for evaluation on ``device``.

    Raises InputError, which names the file ``source``, if the weights do not fit.
    """
    with torch_compiler_left_out():
        network = build()
    checkpoint.load_weights(network, saved.weights, str(source))
    return devices.prepare(network.eval(), device)


@contextlib.contextmanager
def torch_compiler_left_out() -> Iterator[None]:
    """Import torchvision without torch's compiler: in 0.1 s instead of 1.1.

    torchvision's ``roi_align`` imports the compiler to ask whether a device compiles. No network
    here uses ``roi_align``, so nothing asks.
    """
    name = "torch._dynamo.utils"
    if name in sys.modules or "torchvision" in sys.modules:
        yield
        return
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].is_compile_supported = lambda device: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del sys.modules[name]


class TooLarge(InputError):
    """A single image does not fit in memory."""


class Predictor:
    """Calls ``function`` on uint8 batches, and on smaller ones when memory is short.

    ``function`` maps normalised float images to a tensor with as many rows. When a batch does not
    fit in memory, the batch size is halved for good.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], saved: Checkpoint, device: torch.device
    ) -> None:
        self._function, self._saved, self._device = function, saved, device
        self._at_most = sys.maxsize
        # With TF32, a GPU's convolutions would round their inputs to 10 bits, and predictions would
        # depend on the GPU model and on the batch.
        torch.backends.cudnn.allow_tf32 = False

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> np.ndarray:
        """(N, 3, H, W) uint8 -> the results of ``function`` as one array. Raises TooLarge."""
        done: list[Tensor] = []
        while (start := sum(map(len, done))) < len(batch):
            part = batch[start : start + self._at_most]
            try:
                inputs = augment.to_float(part.to(self._device, non_blocking=True))
                inputs = augment.normalise(inputs, self._saved.mean, self._saved.std)
                done.append(self._function(inputs).cpu())
            except (RuntimeError, MemoryError) as error:
                if not devices.is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    size = "x".join(str(side) for side in reversed(part.shape[2:]))
                    raise TooLarge(
                        f"an image of {size} does not fit in the memory of {self._device}"
                    ) from error
                self._at_most = len(part) // 2
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                warn(f"not enough memory; continuing with batches of {self._at_most}")
        return torch.cat(done).numpy()


def classifier(
    network: nn.Module, saved: Checkpoint, device: torch.device, flip: bool | None, bf16: bool
) -> tuple[Predictor, tuple[str, ...], Views]:
    """A predictor that maps (N, 3, H, W) uint8 to logits (N, classes); its classes and its views.

    ``network``: with the weights of ``saved``; do not use it afterwards. If ``flip`` is None, the
    checkpoint decides.
    """
    folded, views = fold(network, device, bf16), Views.of(saved, flip)
    return Predictor(lambda batch: views.logits(folded, batch), saved, device), saved.classes, views
