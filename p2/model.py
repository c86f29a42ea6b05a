"""ResNet50 with one linear head on its 2048 pooled features, the same network in all five settings."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError

ARCHITECTURE = "resnet50_linear"
BACKBONE = "resnet50_backbone"
FEATURES = 2048


def make_backbone() -> nn.Module:
    """He et al. 2016, torchvision's ResNet50 without its last layer: (N, 3, H, W) float -> (N, 2048). Random weights."""
    from torchvision.models import resnet50  # here, where the inference can make it quick

    network = resnet50(weights=None)
    network.fc = nn.Identity()
    return network


class Classifier(nn.Module):
    """A backbone and a linear head: (N, 3, 128, 128) float -> logits (N, classes).

    A frozen backbone has no gradients and stays in evaluation mode, so that its BatchNorm statistics do not move either.
    """

    def __init__(self, classes: int, frozen: bool = False) -> None:
        super().__init__()
        self.backbone = make_backbone()
        self.head = nn.Linear(FEATURES, classes)
        self.frozen = frozen
        self.backbone.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        self.backbone.train(mode and not self.frozen)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def build(architecture: str, classes: int) -> nn.Module:
    """A classifier with random weights by its name in a checkpoint. Raises InputError for another."""
    if architecture != ARCHITECTURE or not classes:
        raise InputError(f"problem 2 has no classifier {architecture!r} of {classes} classes")
    return Classifier(classes)


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load a backbone from ``p2.pretrain``'s checkpoint or from a torchvision ``resnet50`` state dict, its ``fc`` left out.

    Every other key must match. Raises InputError.
    """
    if "format" in checkpoint.read(path):
        saved = checkpoint.load(path, "p2")
        if saved.architecture != BACKBONE:
            raise InputError(
                f"{path} is {saved.architecture}, not a {BACKBONE}; make one with p2.pretrain"
            )
        weights = saved.weights
    else:
        weights = {
            name: value
            for name, value in checkpoint.read_weights(path).items()
            if name not in ("fc.weight", "fc.bias")
        }
    checkpoint.load_weights(backbone, weights, str(path))


def logits(network: nn.Module, images: Tensor, flip_test: bool) -> Tensor:
    """Logits (N, classes) in float32; with ``flip_test`` the mean of the image's and of its mirror image's."""
    out = network(images).float()
    return (out + network(images.flip(3)).float()) / 2 if flip_test else out
