"""Mixing each image of a batch with another one of it: mixup and CutMix, with a draw for every
image.

Both give (images, partner, weight): image i is mixed with image ``partner[i]``, (N,) int64, and
``weight[i]``, (N,) float32 in 0..1, is its own share. The labels, class indices (N,), stay as they
are, and the loss is mixed: ``cross_entropy``. Partners are a permutation of the batch, so an image
may now and then be its own.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from core.augment import inside


def mixup(images: Tensor, weight: Tensor, partner: Tensor) -> Tensor:
    """weight * image + (1 - weight) * its partner, in the images' own float format; bytes raise
    NotImplementedError.
    """
    return torch.lerp(
        images[partner], images, weight.to(images.device, images.dtype).view(-1, 1, 1, 1)
    )


def random_mixup(
    images: Tensor, alpha: float, rng: torch.Generator, p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", section 2: the weight is from
    Beta(alpha, alpha).

    An image is mixed with probability ``p`` and has else the weight 1. NOTE: the paper's code draws
    one weight a batch.
    """
    partner = torch.randperm(len(images), generator=rng)
    weight = _beta(len(images), alpha, rng)
    weight[torch.rand(len(images), generator=rng) >= p] = 1
    return mixup(images, weight, partner), partner.to(images.device), weight.to(images.device)


def cutmix(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, partner: Tensor
) -> Tensor:
    """Fill each image's box, (N,) each in pixels, with the same pixels of its partner.

    Any dtype and any number of channels: a mask stacked as a channel is cut along. A height of 0
    leaves the image as it is.
    """
    return torch.where(inside(images, top, left, height, width), images[partner], images)


def random_cutmix(
    images: Tensor, alpha: float, rng: torch.Generator, p: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers", section 3.1;
    the paper's alpha is 1.

    A box of the image's shape and of 1 - Beta(alpha, alpha) of its area lies about any of its
    pixels, cut off at the border. The weight is the share of pixels that are left, counted after
    that. An image is mixed with probability ``p``. NOTE: the paper's code draws one box a batch.
    """
    n, _, height, width = images.shape
    partner = torch.randperm(n, generator=rng)
    half = (1 - _beta(n, alpha, rng)).sqrt() / 2
    half[torch.rand(n, generator=rng) >= p] = 0
    top, bottom = _span(half, height, rng)
    left, right = _span(half, width, rng)
    weight = 1 - (bottom - top) * (right - left) / (height * width)
    mixed = cutmix(images, top, left, bottom - top, right - left, partner)
    return mixed, partner.to(images.device), weight.to(images.device)


def cross_entropy(
    logits: Tensor, labels: Tensor, partner: Tensor, weight: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """The batch's mean of weight * CE(label) + (1 - weight) * CE(the partner's label), of logits
    (N, classes).
    """
    own, other = (
        nn.functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=label_smoothing
        )
        for target in (labels, labels[partner])
    )
    return (weight * own + (1 - weight) * other).mean()


# --- draws ----------------------------------------------------------------------------------------


def _beta(n: int, alpha: float, rng: torch.Generator) -> Tensor:
    # (n,) float32 from Beta(alpha, alpha). torch's own takes no generator: numpy draws, seeded by
    # ours.
    if alpha == 1:
        return torch.rand(n, generator=rng)
    seed = int(torch.randint(2**63 - 1, (), generator=rng))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n)).float()


def _span(half: Tensor, side: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    # Where boxes of twice ``half`` of a side, each about a pixel of that side, begin and end within
    # it: (N,) int64 each.
    centre = torch.randint(side, half.shape, generator=rng)
    reach = (half * side).long()
    return (centre - reach).clamp(min=0), (centre + reach).clamp(max=side)
