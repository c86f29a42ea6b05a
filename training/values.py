"""The values of an epoch's steps, such as the loss: summed for the log, read only now and then."""

from __future__ import annotations

import math

import torch

from core.cli import InputError
from training import processes

CHECK_EVERY = 25  # steps between two reads; a read waits for the GPU


class StepValues:
    """Sums of named scalars over the steps of an epoch.

    ``sums``: of the steps read so far, as means over the processes. ``shown``: the latest known
    values, as text.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums: dict[str, float] = {}
        self.shown = ""
        self._on_cpu = device.type == "cpu"
        self._unread: list[tuple[int, int, dict[str, torch.Tensor]]] = []

    def add(self, epoch: int, step: int, values: dict[str, torch.Tensor]) -> None:
        """Add a step's scalars. ``epoch`` and ``step`` count from 0. Raises like ``read``."""
        detached = {name: value.detach() for name, value in values.items()}
        self._unread.append((epoch, step, detached))
        if len(self._unread) >= CHECK_EVERY:
            self.read()
        elif self._on_cpu:
            self.shown = _in_words({name: value.item() for name, value in detached.items()})

    def read(self) -> dict[str, float]:
        """Read all values added so far and return their sums.

        With several processes, all of them must call this after the same step. Raises InputError,
        which names the step, if a value is not finite.
        """
        flat = [value.item() for *_, values in self._unread for value in values.values()]
        numbers = iter(processes.means(flat))
        for epoch, step, values in self._unread:
            known = {name: next(numbers) for name in values}
            for name, number in known.items():
                if not math.isfinite(number):
                    raise InputError(
                        f"{name} is {number} at step {step + 1} of epoch {epoch + 1}; "
                        "lower the learning rate"
                    )
                self.sums[name] = self.sums.get(name, 0.0) + number
            self.shown = _in_words(known)
        self._unread.clear()
        return self.sums

    def start_epoch(self) -> None:
        """Forget the sums of the epoch that has ended."""
        self.sums = {}


def _in_words(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
