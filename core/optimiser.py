"""Optimisers and learning-rate schedules by name, as the recipes call them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from core.lars import LARS


def make(
    name: str,
    network: nn.Module,
    lr: float,
    weight_decay: float,
    decay_vectors: bool,
    backbone_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """``adam``, ``adamw``, ``sgd`` (Nesterov's momentum 0.9) or ``lars`` over the parameters that have a gradient.

    Without ``decay_vectors``, biases and BatchNorm's scales and shifts do not decay; with ``lars``
    they never do. What the network has under ``backbone`` learns at ``backbone_rate`` times ``lr``.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if decay_vectors or parameter.ndim >= 2 else 0.0
            rate = backbone_rate if parameter_name.startswith("backbone.") else 1.0
            group = groups.setdefault(
                (decay, rate), {"params": [], "weight_decay": decay, "rate": rate, "lr": lr * rate}
            )
            group["params"].append(parameter)
    groups = list(groups.values())
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
    """Set the learning rate of each group to ``lr`` times the group's own rate (see ``make``)."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["rate"]
