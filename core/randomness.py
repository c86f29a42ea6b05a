"""Randomness as a function of (seed, epoch, step), never hidden state.

Whoever knows the three numbers can repeat any draw of any step: a killed run is resumed without a
saved generator, and the same step draws the same on the CPU and on a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch


def seed_of(*keys: int | str) -> int:
    """A 63-bit seed for the draws named by ``keys``; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """A fresh CPU generator for the draws named by ``keys``. Parameters are drawn on the CPU for
    every device.
    """
    return torch.Generator().manual_seed(seed_of(*keys))


def batches(
    count: int, batch_size: int, *, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield ``(step, indices)`` of one epoch's shuffled batches, from step ``start``; indices:
    (batch,) int64.

    A last batch smaller than the others is left out, as BatchNorm cannot learn from one image; only
    where the whole set is smaller than a batch, that batch is the set.
    """
    order = torch.randperm(count, generator=generator(seed, epoch, "order"))
    for step in range(start, steps_per_epoch(count, batch_size)):
        yield step, order[step * batch_size : (step + 1) * batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """The number of batches that ``batches`` yields."""
    return max(1, count // batch_size)
