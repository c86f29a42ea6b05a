"""Optimisers and learning-rate schedules by name, as the recipes call them."""

from __future__ import annotations

import math

import torch
from torch import nn

from core.lars import LARS


def make(
    name: str, network: nn.Module, lr: float, weight_decay: float, decay_vectors: bool
) -> torch.optim.Optimizer:
    """``adam``, ``adamw``, ``sgd`` (Nesterov's momentum 0.9) or ``lars`` over the parameters that have a gradient.

    Without ``decay_vectors``, biases and BatchNorm's scales and shifts do not decay; with ``lars`` they never do.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if decay_vectors or p.ndim >= 2]
    others = [p for p in parameters if not decay_vectors and p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    if name == "lars":
        return LARS(groups, lr=lr)
    raise ValueError(f"no optimiser {name!r}; there are adam, adamw, sgd and lars")


def warmup_cosine(step: int, warmup: float, total: float) -> float:
    """The factor of the learning rate at ``step`` (from 0): linear up over ``warmup`` steps, half a cosine down to 0."""
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = lr
