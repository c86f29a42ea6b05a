"""LARS: You, Gitman & Ginsburg 2017, "Large Batch Training of Convolutional Networks", section 4."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class LARS(torch.optim.Optimizer):
    """SGD with momentum in which every weight matrix moves in proportion to its own length.

    For a parameter w of two or more dimensions with the gradient g, ``d = g + weight_decay * w`` is scaled by
    ``trust * |w| / |d|`` (1 where either norm is 0); for biases and BatchNorm's vectors ``d = g``: they neither decay nor
    adapt (Grill et al. 2020, section 3.3). Then ``v = momentum * v + d`` and ``w = w - lr * v``.

    NOTE: the original's algorithm 1 divides by ``|g| + weight_decay * |w|`` and has lr inside the momentum; here both are
    as in BYOL's published code.
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
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update of every parameter that has a gradient; the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        change = weight.grad
        if weight.ndim >= 2:
            change = change.add(weight, alpha=group["weight_decay"])
            length, step = weight.norm(), change.norm()
            # No branch on the norms: reading them would make a GPU wait, once for every parameter.
            change = change * torch.where(
                (length > 0) & (step > 0), group["trust"] * length / step, 1.0
            )
        state = self.state[weight]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(weight)
        state["velocity"].mul_(group["momentum"]).add_(change)
        weight.sub_(state["velocity"], alpha=group["lr"])
