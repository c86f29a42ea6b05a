"""The stream from image files to batches, and the device that predicts them.

Torch is imported only where it is first needed: threads decode files while the main thread imports
it. On two cores, all 424 validation images of problem 2 are decoded by the end of the import.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core import images, progress
from core.cli import PARTIAL, InputError, note, warn
from core.threads import InOrder

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def on_device(name: str, work: Callable[[torch.device], int]) -> int:
    """Do ``work`` on the device called ``name``, and return its exit status.

    With ``auto``, if the GPU fails, a warning is printed and the work starts again on the CPU.
    Raises InputError if a GPU that was named fails, or if memory is too small. Other errors on the
    CPU are bugs and are raised unchanged.
    """

    from core import devices
    from prediction.predictor import TooLarge

    device = devices.choose(name)
    try:
        return work(device)
    except (RuntimeError, MemoryError, TooLarge) as error:
        # GPU errors concern memory, cuDNN, cuBLAS or the driver; few have a class of their own.
        if device.type == "cpu":
            if devices.is_out_of_memory(error):
                raise InputError("not enough memory; free some, or use --batch-size 1") from error
            raise
        reason = f"{device} failed ({(str(error) or type(error).__name__).splitlines()[0]})"
        if name != "auto":
            raise InputError(f"{reason}; try --device cpu") from error
    # Not in the except block, where the error's frames still hold the GPU's memory.
    warn(f"{reason}; starting again on the CPU")
    return on_device("cpu", work)


PIXELS = 2**24  # at most, in a batch


@dataclasses.dataclass
class Batch:
    """Consecutive images of one size. ``images``: (N, 3, H, W) uint8 on the CPU, channels last."""

    paths: list[Path]
    images: Tensor


class Stream:
    """Decodes ``paths`` ahead in threads, starting now, and yields them in batches.

    At most ``ahead`` images wait or, with ``cost``, images that cost that much in total. A file
    that cannot be read leads to a warning and is added to ``bad``; the others go on. Images that
    are not done by ``stop_at`` (of ``time.monotonic``) are added to ``late``.
    """

    def __init__(
        self,
        paths: list[Path],
        decode: Callable[[Path], np.ndarray],
        ahead: int = 256,
        cost: Callable[[Path], int] = lambda path: 1,
        stop_at: float = math.inf,
    ) -> None:
        self.paths, self.stop_at = paths, stop_at
        self.bad: list[Path] = []
        self.late: list[Path] = []
        self._decode, self._ahead, self._cost = decode, ahead, cost
        self._start = time.perf_counter()
        self._decoded: InOrder | None = self._decode_all()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        if self._decoded:
            self._decoded.close()

    def batches(self, batch_size: int, simplify: Callable[[], str] = lambda: "") -> Iterator[Batch]:
        """Yield all readable images in batches; every call starts at the first image.

        When time is short, ``simplify`` is called. If it can, it makes the rest faster and returns
        what it leaves out. Raises InputError at the end if no image could be read.
        """
        decoded, self._decoded = self._decoded or self._decode_all(), None
        self.bad, self.late = [], []
        since, start = 0, time.monotonic()  # the pace is measured from this image and time
        batch: list[tuple[Path, np.ndarray]] = []
        try:
            counted = progress.counted(self.paths, len(self.paths), "predicting", "images")
            for index, path in enumerate(counted):
                image = next(decoded)
                if image is None and (image := self._try(path)) is None:
                    raise InputError(f"{path} does not fit in memory; free some")
                if isinstance(image, images.BadImage):
                    warn(str(image))
                    self.bad.append(path)
                    continue
                if batch and batch[0][1].shape != image.shape:
                    yield _batch(batch)
                    batch = []
                is_short = not batch and self._is_short(start, index - since, index)
                if is_short and (left_out := simplify()):
                    warn(f"time is running short; continuing without {left_out}")
                    since, start = index, time.monotonic()
                if self.time_is_up():
                    self.late += self.paths[index:]
                    break
                batch.append((path, image))
                at_most = max(1, min(batch_size, PIXELS // (image.shape[0] * image.shape[1])))
                del image  # so that a large image is not held while the next one is decoded
                if len(batch) >= at_most:
                    yield _batch(batch)
                    batch = []
        finally:
            decoded.close()
        if len(self.bad) == len(self.paths):
            raise InputError(
                f"none of the {len(self.paths)} images could be read; nothing was written"
            )
        if batch:
            yield _batch(batch)

    def time_is_up(self) -> bool:
        """Return whether ``--max-minutes`` have passed."""
        return time.monotonic() >= self.stop_at

    def _is_short(self, start: float, done: int, index: int) -> bool:
        """Return whether the images from ``index`` on will be late.

        The pace is that of ``done`` images since ``start``.
        """
        now = time.monotonic()
        if not done or now - start < min(5, (self.stop_at - start) / 10):  # too early to judge
            return False
        return now + (now - start) / done * (len(self.paths) - index) > self.stop_at

    def _decode_all(self) -> InOrder:
        return InOrder(self._try, self.paths, self._ahead, self._cost)

    def _try(self, path: Path) -> np.ndarray | images.BadImage | None:
        try:
            return self._decode(path)
        except images.BadImage as error:
            return error
        except MemoryError:
            return None  # ``batches`` tries again: other images may hold the memory now

    def report(self, device: str, fallback: str) -> int:
        """Print a summary and any use of the fallback on stderr; return the exit status."""
        seconds = time.perf_counter() - self._start
        count = len(self.paths)
        note(f"{count} images in {seconds:.1f} s ({count / seconds:.1f} images/s) on {device}")
        if self.bad:
            warn(f"{len(self.bad)} of {count} images could not be read and got {fallback}")
        if self.late:
            warn(
                f"{len(self.late)} of {count} images were not processed in time and got {fallback}"
            )
        return PARTIAL if self.bad or self.late else 0


def _batch(items: list[tuple[Path, np.ndarray]]) -> Batch:
    import torch

    # A large image is alone in its batch, and is not copied.
    stacked = np.stack([image for _, image in items]) if len(items) > 1 else items[0][1][None]
    return Batch([path for path, _ in items], torch.from_numpy(stacked).permute(0, 3, 1, 2))
