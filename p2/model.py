"""ResNet50 with a linear head on its 2048 pooled features: the network of all five settings."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError

ARCHITECTURE = "resnet50_linear"
BACKBONE = "resnet50_backbone"
FEATURES = 2048


def make_backbone() -> nn.Module:
    """torchvision's ResNet50 (He et al. 2016) without its last layer, with random weights.

    (N, 3, H, W) float -> (N, 2048).
    """
    # Not at the top: inference speeds this import up (see prediction.predictor.load_network).
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    network.fc = nn.Identity()
    return network


class Classifier(nn.Module):
    """A backbone and a linear head: (N, 3, 128, 128) float -> logits (N, classes).

    A frozen backbone gets no gradients and stays in evaluation mode, so that its BatchNorm
    statistics do not change either.
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
    """Build the classifier called ``architecture`` in a checkpoint, with random weights.

    Raises InputError if the name is unknown or ``classes`` is 0.
    """
    if architecture != ARCHITECTURE or not classes:
        raise InputError(f"problem 2 has no classifier {architecture!r} with {classes} classes")
    return Classifier(classes)


def load_backbone(backbone: nn.Module, path: Path) -> None:
    """Load a checkpoint of ``p2.pretrain`` or ``p2.supervise``, or torchvision's ``resnet50``.

    The latter is a state dict, whose ``fc`` is skipped. Raises InputError if the file is neither
    of them or its other keys do not match.
    """
    if "format" in checkpoint.read(path):
        saved = checkpoint.load(path, "p2")
        if saved.architecture != BACKBONE:
            raise InputError(
                f"{path} is {saved.architecture}, not a {BACKBONE}; make one with p2.pretrain or "
                "p2.supervise"
            )
        weights = saved.weights
    else:
        weights = {
            name: value
            for name, value in checkpoint.read_weights(path).items()
            if name not in ("fc.weight", "fc.bias")
        }
    checkpoint.load_weights(backbone, weights, str(path))
