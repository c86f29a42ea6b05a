"""Problem 1's networks.

Models A and B are MobileNetV2 x1.4 (Sandler et al. 2018, "MobileNetV2: Inverted Residuals and
Linear Bottlenecks", table 2), adapted to 32x32 images as chenyaofo/pytorch-cifar-models (BSD-3)
does for CIFAR: torchvision's network without its first two downsampling steps.
Model C is EfficientNet-Lite; the network itself enlarges the images.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError
from core.efficientnet_lite import EfficientNetLite, load_imagenet

ARCHITECTURE = "mobilenet_v2_x1_4_32"
FEATURES = 1792  # width of MobileNetV2's penultimate layer: 1280 * 1.4


def build(architecture: str, classes: int, drop_path: float = 0.0) -> nn.Module:
    """Build the network called ``architecture`` in a checkpoint, with random weights.

    The name is ``mobilenet_v2_x1_4_32``, or for instance ``efficientnet_lite0_128``, which gives
    the variant and the side in pixels to which images are enlarged. ``drop_path``: see
    ``EfficientNetLite``. Raises InputError if the name is unknown, or if MobileNetV2 gets one.
    """
    if architecture == ARCHITECTURE:
        if drop_path:
            raise InputError("drop_path is for model C only; set it to 0")
        return mobilenet_v2(classes)
    match = re.fullmatch(r"efficientnet_(lite[02])_([1-9]\d{1,2})", architecture)
    if not match:
        raise InputError(
            f"problem 1 has no network {architecture!r}; choose {ARCHITECTURE}, "
            "efficientnet_lite0_SIDE or efficientnet_lite2_SIDE (SIDE in pixels, 10 to 999)"
        )
    return EnlargedEfficientNet(classes, match[1], int(match[2]), drop_path)


def mobilenet_v2(classes: int) -> nn.Module:
    """MobileNetV2 x1.4 with random weights: (N, 3, 32, 32) float -> logits (N, classes).

    4,405,426 parameters with 50 classes.
    """
    from torchvision.models import MobileNetV2  # not at the top: model C needs no torchvision

    network = MobileNetV2(num_classes=classes, width_mult=1.4)
    network.BACKBONE = "features"  # for backbone_rate: see training.optim.make
    stem, expansion = network.features[0][0], network.features[2].conv[1][0]
    stem.stride = (1, 1)  # NOTE: stride 2 -> 1 for 32x32
    expansion.stride = (1, 1)  # NOTE: first stride of the 24-channel stage, 2 -> 1 for 32x32
    return network


class EnlargedEfficientNet(nn.Module):
    """EfficientNet-Lite on images enlarged to ``side`` x ``side`` pixels (bicubic).

    The published weights were trained on objects of a hundred pixels or more, not 32.
    """

    def __init__(self, classes: int, variant: str, side: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.side = side
        self.backbone = EfficientNetLite(variant, drop_path=drop_path)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))
        nn.init.normal_(self.classifier.get_parameter("1.weight"), std=0.01)
        nn.init.zeros_(self.classifier.get_parameter("1.bias"))

    def features(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) float -> (N, 1280, side / 32, side / 32)."""
        size = (self.side, self.side)
        images = nn.functional.interpolate(images, size, mode="bicubic", align_corners=False)
        return self.backbone(images)[-1]

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, 32, 32) float -> logits (N, classes)."""
        return self.classifier(self.features(images).mean((2, 3)))


def features(network: Any, images: Tensor) -> Tensor:
    """The output of the penultimate layer, before dropout and the classifier.

    (N, 3, 32, 32) -> (N, 1792) for MobileNetV2, (N, 1280) for EfficientNet-Lite.
    """
    return nn.functional.adaptive_avg_pool2d(network.features(images), 1).flatten(1)


def load_pretrained(
    network: nn.Module, weights: dict[str, Tensor], source: str, whole: bool = False
) -> str:
    """Initialise ``network`` from pre-trained weights; return a line that says what was loaded.

    ``weights``: as ``checkpoint.read_weights`` returns them. MobileNetV2 keeps its random head.
    EfficientNet-Lite takes a backbone trained on ImageNet, or all weights of the same network.
    ``whole``: load the head too. ``source``: where the weights come from, for messages. Raises
    InputError if the keys, apart from a head that is not loaded, do not match.
    """
    enlarged = isinstance(network, EnlargedEfficientNet)
    # The keys are equal if the weights come from a finished run of the same model.
    if whole or (enlarged and weights.keys() == network.state_dict().keys()):
        checkpoint.load_weights(network, weights, source)
        return f"loaded the whole network from {source}"
    if isinstance(network, EnlargedEfficientNet):
        load_imagenet(network.backbone, weights, source)
        return f"loaded the backbone from {source}; random weights: classifier"
    head = ("classifier.1.weight", "classifier.1.bias")
    missing = [name for name in head if name not in weights]
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}: it is not a MobileNetV2")
    random = network.state_dict()
    swapped = [
        f"{name} {tuple(weights[name].shape)} -> {tuple(random[name].shape)}" for name in head
    ]
    checkpoint.load_weights(network, {**weights, **{name: random[name] for name in head}}, source)
    return "replaced the head: " + ", ".join(swapped)
