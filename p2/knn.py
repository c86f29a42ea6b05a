"""A kNN probe: how well a backbone's features separate the classes, without any training.

Wu et al. 2018, "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", section
3.4. After a collapse, when all features are the same, its accuracy is that of chance.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from core import augment, devices, progress
from core.cli import say
from p2 import data
from p2.recipes import PretrainRecipe, TransferRecipe
from training import processes
from training.provenance import digest

NEIGHBOURS = 20
TEMPERATURE = 0.07


@dataclasses.dataclass(frozen=True)
class Probe:
    """The labelled images of a probe: (N, 3, 128, 128) uint8, and class indices (N,) int64."""

    images: Tensor
    labels: Tensor
    val_images: Tensor
    val_labels: Tensor


def load(office: Path, memory: float = math.inf) -> Probe | None:
    """Load the probe from ``office/{train,val}.csv``; None if a csv is missing.

    With several processes, only rank 0 loads it, because only rank 0 logs the accuracy. ``memory``:
    see ``cache.load``.
    """
    if processes.rank():
        return None
    tables = office / "train.csv", office / "val.csv"
    if missing := [str(table) for table in tables if not table.is_file()]:
        say(f"skipping the kNN probe; missing: {', '.join(missing)}")
        return None
    images, labels, _, classes = data.load_labelled(tables[0], office / "train", memory=memory)
    val_images, val_labels, _, _ = data.load_labelled(tables[1], office / "val", classes, memory)
    return Probe(images, labels, val_images, val_labels)


def identity(probe: Probe | None) -> str | None:
    """The digest of rank 0's probe, on all processes; None without a probe."""
    name = processes.from_rank_zero(
        lambda: (
            digest(probe.images, probe.labels, probe.val_images, probe.val_labels) if probe else ""
        )
    )
    return name or None


def accuracy(
    backbone: nn.Module, probe: Probe, recipe: PretrainRecipe | TransferRecipe, device: torch.device
) -> float:
    """The accuracy, 0..1, of ``classify`` on the probe's validation images.

    Leaves ``backbone`` in evaluation mode.
    """
    backbone.eval()
    train_features = features(backbone, probe.images, recipe, device)
    val_features = features(backbone, probe.val_images, recipe, device)
    right = classify(train_features, probe.labels, val_features) == probe.val_labels
    return right.double().mean().item()


@torch.no_grad()
def features(
    backbone: nn.Module,
    images: Tensor,
    recipe: PretrainRecipe | TransferRecipe,
    device: torch.device,
    mirrored: bool = False,
) -> Tensor:
    """Pooled features (N, D) float32, on the CPU, of ``images`` (N, 3, 128, 128) uint8.

    With ``mirrored``, of their mirror images. Computed in the number format of training.
    """
    pooled = []
    for batch in progress.over(images.split(64), "features"):
        batch = batch.flip(3) if mirrored else batch
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(batch.to(device)), recipe.mean, recipe.std)
            pooled.append(backbone(inputs).float().cpu())
    return torch.cat(pooled)


def classify(
    train_features: Tensor,
    train_labels: Tensor,
    queries: Tensor,
    neighbours: int = NEIGHBOURS,
) -> Tensor:
    """Classify the features ``queries`` (M, D) by a vote of their neighbours: classes (M,) int64.

    ``train_features``: (N, D), with ``train_labels`` (N,) int64. The ``neighbours`` (at most N)
    features with the highest cosine similarity each vote for their label, with the weight
    exp(cosine / ``TEMPERATURE``).
    """
    unit = nn.functional.normalize(train_features, dim=1)
    cosine = nn.functional.normalize(queries, dim=1) @ unit.T
    nearest, index = cosine.topk(min(neighbours, len(unit)), dim=1)
    votes = torch.zeros(len(queries), int(train_labels.max()) + 1)
    votes.scatter_add_(1, train_labels[index], (nearest / TEMPERATURE).exp())
    return votes.argmax(1)
