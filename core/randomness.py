"""Randomness as a function of (seed, epoch, step), without hidden state.

These three numbers determine every draw of a step. So a killed run resumes without a saved
generator. A step's batch and augmentation are the same on the CPU and on a GPU. Dropout and drop
path use torch's own generators, which ``Run.batches`` seeds for each step; they draw other numbers
on a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch


def seed_of(*keys: int | str) -> int:
    """Return a 63-bit seed for the draws named by ``keys``; different keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(keys).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """Return a new generator for the draws named by ``keys``. It is always on the CPU."""
    return torch.Generator().manual_seed(seed_of(*keys))


def batches(
    count: int, batch_size: int, *, seed: int, epoch: int, start: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield ``(step, indices)`` of an epoch's shuffled batches, starting at step ``start``.

    ``indices``: (batch,) int64. A smaller last batch is dropped, since BatchNorm cannot learn from
    one image. If the whole set is smaller than a batch, it is the only batch.
    """
    order = torch.randperm(count, generator=generator(seed, epoch, "order"))
    for step in range(start, steps_per_epoch(count, batch_size)):
        yield step, order[step * batch_size : (step + 1) * batch_size]


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of batches that ``batches`` yields from step 0."""
    return max(1, count // batch_size)
