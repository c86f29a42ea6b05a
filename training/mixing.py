"""CutMix: each image gets a box of another image of its batch, with a draw for every image.

Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers", section 3.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def random_cutmix(images: Tensor, rng: torch.Generator, p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image (N, C, H, W) with another one of the batch with probability ``p``.

    Returns (images, partner, share). Image i has a box of image ``partner[i]``, (N,) int64, and
    ``share[i]``, (N,) float32 in 0..1, of its pixels are still its own. The partners are a
    permutation of the batch, so an image is sometimes its own partner. The box has the image's
    aspect ratio and 1 - r of its area, with r uniform in 0..1; it is centred on a random pixel and
    clipped at the border.
    NOTE: the paper's code draws one box per batch.
    """
    n, _, height, width = images.shape
    partner = torch.randperm(n, generator=rng)
    half = (1 - torch.rand(n, generator=rng)).sqrt() / 2
    half[torch.rand(n, generator=rng) >= p] = 0
    top, bottom = _span(half, height, rng)
    left, right = _span(half, width, rng)
    share = 1 - (bottom - top) * (right - left) / (height * width)
    mixed = cutmix(images, top, left, bottom - top, right - left, partner)
    return mixed, partner.to(images.device), share.to(images.device)


def cutmix(
    images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor, partner: Tensor
) -> Tensor:
    """Fill each image's box, (N,) values in pixels, with the same pixels of its partner.

    Works for any dtype and number of channels. A height of 0 leaves the image unchanged.
    """
    ys = torch.arange(images.shape[2], device=images.device)[:, None]
    xs = torch.arange(images.shape[3], device=images.device)
    top, left, height, width = (
        side.to(images.device).view(-1, 1, 1, 1) for side in (top, left, height, width)
    )
    inside = (ys >= top) & (ys < top + height) & (xs >= left) & (xs < left + width)
    return torch.where(inside, images[partner], images)


def cross_entropy(
    logits: Tensor, labels: Tensor, partner: Tensor, share: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean over N of share * CE(label) + (1 - share) * CE(partner's label).

    ``logits``: (N, classes). ``labels``: (N,) int64. ``partner``, ``share``: as ``random_cutmix``
    returns them.
    """
    own, other = (
        nn.functional.cross_entropy(
            logits, target, reduction="none", label_smoothing=label_smoothing
        )
        for target in (labels, labels[partner])
    )
    return (share * own + (1 - share) * other).mean()


def _span(half: Tensor, side: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    # Returns where boxes begin and end, (N,) int64 each. They cover twice ``half`` of a side, are
    # centred on random pixels of it and clipped to it.
    centre = torch.randint(side, half.shape, generator=rng)
    reach = (half * side).long()
    return (centre - reach).clamp(min=0), (centre + reach).clamp(max=side)
