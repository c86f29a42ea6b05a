"""A kNN probe: how well a backbone's features tell classes apart, without training anything on them.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section 3.4. A collapse, in
which all features become one, shows in it as chance.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, devices, processes
from core.cli import say
from core.provenance import digest
from p2 import data
from p2.recipes import PretrainRecipe, TransferRecipe

NEIGHBOURS = 20
TEMPERATURE = 0.07


@dataclasses.dataclass(frozen=True)
class Probe:
    """Labelled images to probe with: (N, 3, 128, 128) uint8, and class indices (N,) int64."""

    images: Tensor
    labels: Tensor
    val_images: Tensor
    val_labels: Tensor


def load(office: Path, memory: float = math.inf) -> Probe | None:
    """The probe of ``office/{train,val}.csv`` and their images; None, and a line that says so, where there are none.

    ``memory``: see ``cache.load``.
    """
    missing = [
        str(table) for table in (office / "train.csv", office / "val.csv") if not table.is_file()
    ]
    if missing:
        say(f"no kNN probe, as there is no {' and no '.join(missing)}")
        return None
    images, labels, _, classes = data.load_labelled(
        office / "train.csv", office / "train", memory=memory
    )
    val_images, val_labels, _, _ = data.load_labelled(
        office / "val.csv", office / "val", classes, memory
    )
    return Probe(images, labels, val_images, val_labels)


def identity(probe: Probe | None) -> str | None:
    """What ``core.provenance.digest`` knows the probe by; it is asked for by all processes, of which rank 0 has the probe."""
    name = processes.from_rank_zero(
        lambda: (
            digest(probe.images, probe.labels, probe.val_images, probe.val_labels) if probe else ""
        )
    )
    return name or None


def accuracy(
    backbone: nn.Module, probe: Probe, recipe: PretrainRecipe | TransferRecipe, device: torch.device
) -> float:
    """Accuracy, 0..1, on the probe's validation images of the labels that the training images' features give them.

    Leaves ``backbone`` in evaluation mode.
    """
    backbone.eval()
    train_features, val_features = (
        features(backbone, probe.images, recipe, device),
        features(backbone, probe.val_images, recipe, device),
    )
    return (
        (classify(train_features, probe.labels, val_features) == probe.val_labels)
        .double()
        .mean()
        .item()
    )


@torch.no_grad()
def features(
    backbone: nn.Module,
    images: Tensor,
    recipe: PretrainRecipe | TransferRecipe,
    device: torch.device,
    mirrored: bool = False,
) -> Tensor:
    """Pooled features (N, D) float32, on the CPU, of ``images`` (N, 3, 128, 128) uint8, in the training's number format.

    With ``mirrored`` those of their mirror images.
    """
    pooled = []
    for batch in images.split(64):
        batch = batch.flip(3) if mirrored else batch
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(batch.to(device)), recipe.mean, recipe.std)
            pooled.append(backbone(inputs).float().cpu())
    return torch.cat(pooled)


def classify(
    train_features: Tensor,
    labels: Tensor,
    val_features: Tensor,
    neighbours: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Class indices (M,) of ``val_features`` (M, D), by a vote of the nearest ``train_features``.

    ``train_features`` (N, D) have the classes ``labels`` (N,).
    The ``neighbours`` (or N, if that is less) with the highest cosine vote with the weight exp(cosine / temperature).
    """
    cosine = (
        nn.functional.normalize(val_features, dim=1)
        @ nn.functional.normalize(train_features, dim=1).T
    )
    nearest, index = cosine.topk(min(neighbours, len(train_features)), dim=1)
    votes = torch.zeros(len(val_features), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[index], (nearest / temperature).exp())
    return votes.argmax(1)
