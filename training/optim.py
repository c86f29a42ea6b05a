"""Optimisers, learning-rate schedules and weight averaging, by the names used in recipes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from core.cli import InputError

ENDLESS = ("constant", "plateau")  # schedules that do not depend on the number of epochs


def make(
    name: str,
    network: nn.Module,
    lr: float,
    weight_decay: float,
    decay_vectors: bool,
    backbone_rate: float = 1.0,
) -> torch.optim.Optimizer:
    """Return the optimiser ``name`` for the parameters that have a gradient.

    ``adam``, ``adamw``, ``sgd`` (with Nesterov momentum 0.9) or ``lars``. Without
    ``decay_vectors``, biases and BatchNorm's scales and shifts have no weight decay; with ``lars``
    they never do. The backbone's learning rate is ``backbone_rate * lr``. The backbone is the
    submodule whose name is ``network.BACKBONE`` or, without this attribute, ``backbone``. Raises
    InputError if there is no such optimiser.
    """
    backbone = f"{getattr(network, 'BACKBONE', 'backbone')}."
    by_rates: dict[tuple[float, float], dict[str, Any]] = {}
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decay = weight_decay if decay_vectors or parameter.ndim >= 2 else 0.0
            rate = backbone_rate if parameter_name.startswith(backbone) else 1.0
            group = by_rates.setdefault(
                (decay, rate), {"params": [], "weight_decay": decay, "rate": rate, "lr": lr * rate}
            )
            group["params"].append(parameter)
    groups = list(by_rates.values())
    # fused: one pass over the weights takes a fifth of the time of torch's default on the CPU.
    if name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)
    if name == "lars":
        return LARS(groups, lr=lr)
    raise InputError(f"unknown optimiser {name!r}; choose from adam, adamw, sgd, lars")


class LARS(torch.optim.Optimizer):
    """SGD with momentum in which each weight matrix moves in proportion to its own norm.

    You, Gitman & Ginsburg 2017, "Large Batch Training of Convolutional Networks", section 4. For a
    parameter w of two or more dimensions with gradient g, ``d = g + weight_decay * w`` is scaled by
    ``trust * |w| / |d|`` (by 1 if either norm is 0). For biases and BatchNorm's vectors, ``d = g``:
    they are neither decayed nor scaled (Grill et al. 2020, section 3.3). Then
    ``v = momentum * v + d`` and ``w = w - lr * v``.

    NOTE: the original's algorithm 1 divides by ``|g| + weight_decay * |w|`` and has lr inside the
    momentum; here both follow BYOL's published code.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        super().__init__(
            parameters,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust},
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; return the closure's loss, if any."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, change: Tensor, group: dict[str, Any]) -> None:
        # ``change`` starts as the gradient.
        if weight.ndim >= 2:
            change = change.add(weight, alpha=group["weight_decay"])
            length, step = weight.norm(), change.norm()
            # No branch on the norms: reading them would make the program wait for the GPU each
            # time.
            change = change * torch.where(
                (length > 0) & (step > 0), group["trust"] * length / step, 1.0
            )
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        state["velocity"].mul_(group["momentum"]).add_(change)
        weight.sub_(state["velocity"], alpha=group["lr"])


# --- schedules ------------------------------------------------------------------------------------


def warmup_cosine(step: int, warmup: float, total: float) -> float:
    """Return the learning rate's factor, 0..1, at ``step`` (from 0) of ``total``.

    It rises linearly over ``warmup`` steps, then falls to 0 along half a cosine (Loshchilov &
    Hutter 2017, "SGDR", equation 5, without restarts).
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set each group's learning rate to ``lr`` times the group's own rate (see ``make``)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("rate", 1.0)  # saved states of older runs have no rate


def plateau(
    optimizer: torch.optim.Optimizer, schedule: str
) -> torch.optim.lr_scheduler.ReduceLROnPlateau | None:
    """Return the scheduler of the schedule ``plateau``; None for the others.

    It lowers the learning rate to a tenth in the 11th epoch in a row without a lower loss.
    """
    if schedule != "plateau":
        return None
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=10)


# --- averaged weights -----------------------------------------------------------------------------


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Update ``average <- decay * average + (1 - decay) * model``: parameters and buffers.

    BatchNorm's running statistics are averaged too, so that they fit the averaged weights; counters
    are copied.
    """
    ours, theirs = average.state_dict(), model.state_dict()
    floats = [name for name, value in theirs.items() if value.is_floating_point()]
    torch._foreach_lerp_([ours[n] for n in floats], [theirs[n] for n in floats], 1.0 - decay)
    for name in theirs.keys() - set(floats):
        ours[name].copy_(theirs[name])


def warmed_up(decay: float, updates: int) -> float:
    """Return ``decay``, or less in the first updates: min(decay, (1 + n) / (10 + n)).

    So the average soon forgets the initial weights. With a ``decay`` of 1 it is n / (n + 1), and
    the average is the mean over all updates (Izmailov et al. 2018, "Averaging Weights Leads to
    Wider Optima and Better Generalization", section 3.1, with the weights of every step).
    """
    if decay == 1:
        return updates / (updates + 1)
    return min(decay, (1 + updates) / (10 + updates))
