"""BYOL: Grill et al. 2020, "Bootstrap Your Own Latent", section 3.

From one view of an image, an online network predicts the projection that a target network computes
from another view. The target network slowly follows the online network.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from core.cli import InputError
from training import optim


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The projector's and predictor's layers: linear, BatchNorm, ReLU, linear (section 3.3).

    (N, inputs) -> (N, outputs).
    """
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, outputs),
    )


class BYOL(nn.Module):
    """BYOL's networks around ``backbone``, which maps images (N, 3, H, W) to (N, ``features``).

    A training step calls ``forward``, updates the weights, and then calls ``update_target``.
    """

    def __init__(
        self, backbone: nn.Module, features: int, hidden: int = 4096, projection: int = 256
    ) -> None:
        super().__init__()
        self.online = nn.Sequential(backbone, mlp(features, hidden, projection))
        self.predictor = mlp(projection, hidden, projection)
        self.target = copy.deepcopy(self.online).requires_grad_(False)

    @property
    def backbone(self) -> nn.Module:
        return self.online[0]

    def forward(self, view_1: Tensor, view_2: Tensor) -> tuple[Tensor, Tensor]:
        """Two views (N, 3, H, W) of the same images -> (loss, spread).

        The loss is symmetric: the sum of ``regression_loss`` in both directions, averaged over the
        batch (equation 2 and section 3.2). The spread shows a collapse, see ``spread``. Each view
        has its own pass, so that BatchNorm's statistics come from one view.
        """
        projections = self.online(view_1), self.online(view_2)
        with torch.no_grad():
            targets = self.target(view_1), self.target(view_2)
        loss = regression_loss(self.predictor(projections[0]), targets[1])
        loss = loss + regression_loss(self.predictor(projections[1]), targets[0])
        return loss, spread(projections[0].detach())

    def update_target(self, decay: float) -> None:
        """target <- decay * target + (1 - decay) * online (equation 1), also for BatchNorm."""
        optim.update_average(self.target, self.online, decay)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 cos(prediction, target), each (N, D), in float32, averaged over N (equation 2)."""
    return 2 - 2 * nn.functional.cosine_similarity(prediction.float(), target.float(), dim=1).mean()


def spread(projections: Tensor) -> Tensor:
    """How widely the (N, D) projections spread, to detect a collapse.

    The standard deviation over N of the normalised projections, averaged over D, times sqrt(D).
    About 1 if they point in all directions, 0 if all are equal (Chen & He 2021, "SimSiam",
    section 4.1).
    """
    unit = nn.functional.normalize(projections.float(), dim=1)
    return unit.std(0).mean() * unit.shape[1] ** 0.5


def target_decay(base: float, schedule: str, step: int, total: int) -> float:
    """The target's decay at ``step`` of ``total``: constant, or a cosine from ``base`` to 1.

    See appendix J. Raises InputError if ``schedule`` is neither constant nor cosine.
    """
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return 1 - (1 - base) * (math.cos(math.pi * step / total) + 1) / 2
    raise InputError(
        f"unknown schedule {schedule!r} of the target's decay; choose constant or cosine"
    )
