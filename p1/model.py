"""MobileNetV2 x1.4 for 32x32 images.

Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2, as published for CIFAR in
chenyaofo/pytorch-cifar-models (BSD-3): torchvision's network with its first two halvings of the resolution left out.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import MobileNetV2

from core import checkpoint
from core.cli import InputError

ARCHITECTURE = "mobilenet_v2_x1_4_32"
FEATURES = 1792  # width of the second-last layer: 1280 * 1.4


def mobilenet_v2(classes: int) -> MobileNetV2:
    """(N, 3, 32, 32) float -> logits (N, classes). 4,405,426 parameters with 50 classes, random weights."""
    network = MobileNetV2(num_classes=classes, width_mult=1.4)
    stem, expansion = network.features[0][0], network.features[2].conv[1][0]
    stem.stride = (1, 1)  # NOTE: stride 2 -> 1 for 32x32
    expansion.stride = (1, 1)  # NOTE: first stride of the 24-channel stage, 2 -> 1 for 32x32
    return network


def features(network: MobileNetV2, images: Tensor) -> Tensor:
    """The second-last layer: (N, 3, 32, 32) -> (N, 1792), before dropout and the classifier."""
    return nn.functional.adaptive_avg_pool2d(network.features(images), 1).flatten(1)


def load_pretrained(network: MobileNetV2, weights: dict[str, Tensor], source: str) -> str:
    """Load a state dict trained on other classes into ``network``, its own random head kept; says what was swapped.

    Every other key must match (InputError otherwise).
    """
    head = ("classifier.1.weight", "classifier.1.bias")
    missing = [name for name in head if name not in weights]
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}: it is not a MobileNetV2")
    own = network.state_dict()
    swapped = [f"{name} {tuple(weights[name].shape)} -> {tuple(own[name].shape)}" for name in head]
    checkpoint.load_weights(network, {**weights, **{name: own[name] for name in head}}, source)
    return "head swapped: " + ", ".join(swapped)


def logits(network: nn.Module, images: Tensor, flip_test: bool) -> Tensor:
    """Logits (N, classes) in float32; with ``flip_test`` the mean of the image's and of its mirror image's."""
    out = network(images).float()
    return (out + network(images.flip(3)).float()) / 2 if flip_test else out
