"""The stream that all three inference programs are: decoding threads -> batch -> network -> writer, in bounded memory.

And the device that it runs on: what ``--device auto`` promises is kept here, for all three.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core import augment, devices, images
from core.checkpoint import Checkpoint
from core.cli import PARTIAL, InputError, note, positive, warn


def flags(parser: argparse.ArgumentParser, checkpoint: Path) -> None:
    """Add the flags that all inference programs have under the same names."""
    parser.add_argument("--checkpoint", type=Path, default=checkpoint, help="%(default)s")
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a GPU that works, or else the CPU), cpu, cuda or cuda:N",
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        help="images at a time; halved by itself when a GPU's memory is short",
    )


class TooLarge(InputError):
    """One image alone does not fit the GPU's memory."""


def on_device(name: str, work: Callable[[torch.device], int]) -> int:
    """Do ``work`` on the device called ``name``, and return its exit status.

    With ``auto``, a GPU that fails at it is warned about, and the CPU does the whole again. Raises InputError where a GPU
    that was named fails. On the CPU there is nothing to go on with: its errors are bugs and stay what they are.
    """
    device = devices.choose(name)
    try:
        return work(device)
    except (
        RuntimeError,
        TooLarge,
    ) as error:  # of a GPU: no memory, cuDNN, cuBLAS, the driver; few have a class of their own
        if device.type == "cpu":
            raise
        reason = f"{device} failed ({(str(error) or type(error).__name__).splitlines()[0]})"
        if name != "auto":
            raise InputError(f"{reason}; try --device cpu") from error
    warn(
        f"{reason}; starting again on the CPU"
    )  # out here, as the error's frames held the GPU's memory
    return work(torch.device("cpu"))


@dataclasses.dataclass
class Batch:
    """Consecutive images of one size. ``images``: (N, 3, H, W) uint8 on the CPU, channels last."""

    paths: list[Path]
    images: Tensor


class Stream:
    """Decode ``paths`` ahead in threads and hand them out in batches; count, time and report.

    A file that cannot be read is warned about and kept in ``bad``; the others go on. Raises InputError in the end if not
    one could be read.
    """

    def __init__(
        self, paths: list[Path], decode: Callable[[Path], np.ndarray], batch_size: int
    ) -> None:
        self.paths, self.bad = paths, []
        self._decode, self._batch_size = decode, batch_size
        self._start = time.perf_counter()

    def __iter__(self) -> Iterator[Batch]:
        paths: list[Path] = []
        decoded: list[np.ndarray] = []
        ahead = images.in_order(self._try, self.paths, ahead=self._batch_size + images.THREADS)
        for path, image in zip(
            self.paths, images.progress(ahead, len(self.paths), "images"), strict=True
        ):
            if isinstance(image, images.BadImage):
                warn(str(image))
                self.bad.append(path)
                continue
            if decoded and (len(decoded) == self._batch_size or decoded[0].shape != image.shape):
                yield _batch(paths, decoded)
                paths, decoded = [], []
            paths.append(path)
            decoded.append(image)
        if not decoded and len(self.bad) == len(self.paths):
            raise InputError(
                f"none of the {len(self.paths)} images could be read; nothing was written"
            )
        if decoded:
            yield _batch(paths, decoded)

    def _try(self, path: Path) -> np.ndarray | images.BadImage:
        try:
            return self._decode(path)
        except images.BadImage as error:
            return error

    def report(self, device: str, fallback: str) -> int:
        """Print the summary line on stderr, name the fallback if one was used, and return the exit status."""
        seconds = time.perf_counter() - self._start
        count = len(self.paths)
        note(f"{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s) on {device}")
        if not self.bad:
            return 0
        warn(f"{len(self.bad)} of {count} images could not be read and got {fallback}")
        return PARTIAL


def _batch(paths: list[Path], decoded: list[np.ndarray]) -> Batch:
    return Batch(paths, torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2))


class Predictor:
    """Calls ``classify`` (normalised float images -> class indices) on uint8 batches, on ``device``.

    Where a GPU's memory is too small for a batch, the batch is halved, for good.
    """

    def __init__(
        self, classify: Callable[[Tensor], Tensor], checkpoint: Checkpoint, device: torch.device
    ) -> None:
        self._classify, self._checkpoint, self._device = classify, checkpoint, device
        self._at_most = sys.maxsize
        # A GPU's convolutions would round their inputs to TF32's 10 bits: predictions would depend on its make and the batch.
        torch.backends.cudnn.allow_tf32 = False

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> np.ndarray:
        """(N, 3, H, W) uint8 -> what ``classify`` gives, as one array. Raises TooLarge."""
        done: list[Tensor] = []
        while (start := sum(map(len, done))) < len(batch):
            part = batch[start : start + self._at_most]
            try:
                inputs = augment.to_float(part.to(self._device, non_blocking=True))
                inputs = augment.normalise(inputs, self._checkpoint.mean, self._checkpoint.std)
                done.append(self._classify(inputs).cpu())
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    size = "x".join(str(side) for side in reversed(part.shape[2:]))
                    raise TooLarge(
                        f"an image of {size} does not fit the memory of {self._device}; the CPU may do"
                    ) from error
                self._at_most = len(part) // 2
                torch.cuda.empty_cache()
                warn(f"the GPU's memory is short; going on with batches of {self._at_most}")
        return torch.cat(done).numpy()
