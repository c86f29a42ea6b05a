"""Exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """``average <- decay * average + (1 - decay) * model``, over parameters and buffers; counters are copied.

    BatchNorm's running statistics are averaged too, so that they belong to the averaged weights.
    """
    ours, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in theirs.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1.0 - decay)
    for name in theirs.keys() - set(floats):
        ours[name].copy_(theirs[name])


def warmed_up(decay: float, updates: int) -> float:
    """``decay``, or less in the first updates: min(decay, (1 + n) / (10 + n)), so that the start is forgotten soon."""
    return min(decay, (1 + updates) / (10 + updates))
