"""Train a head on a frozen backbone whose features are computed only once.

This works if mirroring is the only augmentation. The random draws, and so the training, are the
same as on the images themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core import devices
from p2 import knn
from p2.recipes import TransferRecipe
from training import processes


def applies(frozen: bool, recipe: TransferRecipe) -> bool:
    """Whether the backbone is frozen and sees each image only as it is or mirrored."""
    return frozen and recipe.crop_scale == (1.0, 1.0)


def both_features(
    backbone: nn.Module, images: Tensor, recipe: TransferRecipe, device: torch.device
) -> Tensor:
    """Pooled features (2, N, D) float32 on ``device``, of ``images`` and of their mirror images.

    ``images``: (N, 3, 128, 128) uint8. With several processes, each computes a share of them.
    """
    share = processes.local_share(images)
    own = torch.stack(
        [knn.features(backbone, share, recipe, device, mirrored) for mirrored in (False, True)],
        dim=1,
    )
    every = torch.zeros(len(images), *own.shape[1:])
    processes.local_share(every)[:] = own
    return processes.total(every).transpose(0, 1).to(device)


def drawn(features: Tensor, index: Tensor, rng: torch.Generator) -> Tensor:
    """A batch (B, D) of ``both_features``, flipped by the same draws as ``augment.random_flip``.

    ``index``: (B,) int64, the images of the batch.
    """
    mirrored = torch.rand(len(index), generator=rng) < 0.5
    return features[mirrored.long().to(features.device), index.to(features.device)]


@torch.no_grad()
def accuracy(
    head: nn.Module, features: Tensor, labels: Tensor, recipe: TransferRecipe, device: torch.device
) -> float:
    """The accuracy, 0..1, of ``head`` on ``both_features`` of the validation images.

    ``training.loop.accuracy`` returns the same for the whole network on the images.
    """
    with devices.autocast(device, recipe.bf16):
        out, mirrored = head(features).float()
    if recipe.flip_test:
        out = (out + mirrored) / 2
    return (out.argmax(1).cpu() == labels).double().mean().item()
