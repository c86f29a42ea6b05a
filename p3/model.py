"""The segmentation networks.

A: VGG16-FCN32s. B: DeepLabv3 on MobileNetV3-Large. C: DeepLabv3+ on EfficientNet-Lite.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError
from core.efficientnet_lite import EfficientNetLite, imagenet_file, load_imagenet

CLASSES = 7
SMALLEST = 32  # pixels a side that the networks need


class FCN32s(nn.Module):
    """Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", sections 3 and 4.

    VGG16's two hidden dense layers become convolutions (fc6 7x7, fc7 1x1), a 1x1 convolution scores
    the classes, and one transposed convolution of stride 32, which starts as bilinear
    interpolation, brings the scores to the pixels.
    NOTE: the authors keep that transposed convolution fixed, and their dropout drops single values;
    here it is trained, and whole channels are dropped.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        from torchvision.models import vgg16  # here, as model C does without torchvision

        self.features = vgg16(weights=None).features
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                # NOTE: as in the paper's Caffe, so that no border of an odd size is dropped.
                layer.ceil_mode = True
        # NOTE: padding 3 keeps the map's size; the paper pads the image by 100 instead.
        self.fc6 = nn.Sequential(
            nn.Conv2d(512, 4096, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d()
        )
        self.fc7 = nn.Sequential(nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True), nn.Dropout2d())
        self.score = nn.Conv2d(4096, classes, 1)
        self.upscore = Upscale(classes, classes, 64, stride=32, bias=False)
        # torch's own default dies out over these two wide layers.
        for dense in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(dense.get_parameter("0.weight"), nonlinearity="relu")
            nn.init.zeros_(dense.get_parameter("0.bias"))
        for parameter in self.score.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            self.upscore.weight.copy_(bilinear(classes, 64))

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float, H and W from 32 up -> logits (N, classes, H, W)."""
        height, width = images.shape[2:]
        scores = self.score(self.fc7(self.fc6(self.features(images))))
        return self.upscore(scores)[:, :, 16 : 16 + height, 16 : 16 + width]


class Upscale(nn.ConvTranspose2d):
    """A transposed convolution in float32, which on a CPU is 60 times as fast as in bfloat16."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.conv_transpose2d(
                input.float(), self.weight.float(), stride=self.stride
            )


def bilinear(channels: int, size: int) -> Tensor:
    """The kernel with which a transposed convolution is bilinear interpolation of each channel.

    (channels, channels, size, size) float32; the stride is half of ``size``. Long et al. 2015,
    section 3.3.
    """
    factor = size // 2
    centre = factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    return torch.eye(channels)[:, :, None, None] * (line[:, None] * line)


class DeepLabv3(nn.Module):
    """Chen et al. 2017, "Rethinking Atrous Convolution", on MobileNetV3-Large.

    torchvision's network, with one output.
    """

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

        self.network = deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # NOTE: torchvision's MobileNetV3 has 0.01. In few steps from scratch its running
                # statistics then lag so far behind the weights that it predicts one class only.
                module.momentum = 0.1

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float -> logits (N, classes, H, W), bilinearly from stride 16."""
        return self.network(images)["out"]


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """A 3x3 convolution of each channel alone, then a 1x1 one over all, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
        ),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        *pointwise(inputs, outputs),
    )


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """A 1x1 convolution, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DeepLabv3Plus(nn.Module):
    """Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", on EfficientNet-Lite.

    Section 3.1: atrous spatial pyramid pooling at stride 16 by separable convolutions, then a
    decoder that joins it with the backbone's features of stride 4.
    NOTE: 192 channels instead of 256, 64 instead of 48 of the skip (together 256, which oneDNN is
    fast at), and the decoder's convolutions are separable too.
    """

    WIDTH, SKIP, DILATIONS = 192, 64, (6, 12, 18)

    def __init__(
        self, classes: int = CLASSES, variant: str = "lite0", drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(variant, output_stride=16, head=False, drop_path=drop_path)
        deep, fine = self.backbone.channels[-1], self.backbone.channels[1]
        self.pyramid = nn.ModuleList([pointwise(deep, self.WIDTH)])
        self.pyramid.extend(separable(deep, self.WIDTH, dilation) for dilation in self.DILATIONS)
        self.whole_image = pointwise(deep, self.WIDTH)
        self.project = pointwise(self.WIDTH * (len(self.DILATIONS) + 2), self.WIDTH)
        self.skip = pointwise(fine, self.SKIP)
        self.decoder = nn.Sequential(
            separable(self.WIDTH + self.SKIP, self.WIDTH),
            separable(self.WIDTH, self.WIDTH),
            nn.Conv2d(self.WIDTH, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float -> logits (N, classes, H, W), bilinearly from stride 4."""
        outputs = self.backbone(images)
        fine, deep = outputs[1], outputs[-1]
        pooled = self.whole_image(nn.functional.adaptive_avg_pool2d(deep, 1))
        branches = [
            *(branch(deep) for branch in self.pyramid),
            pooled.expand(-1, -1, deep.shape[2], deep.shape[3]),
        ]
        context = resize(self.project(torch.cat(branches, 1)), fine.shape[2:])
        out = self.decoder(torch.cat([context, self.skip(fine)], 1))
        return resize(out, images.shape[2:])


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """(N, C, h, w) to (N, C, *size), bilinearly."""
    return nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "vgg16_fcn32s": FCN32s,
    "deeplabv3_mobilenet_v3_large": DeepLabv3,
    "deeplabv3plus_efficientnet_lite0": DeepLabv3Plus,
    "deeplabv3plus_efficientnet_lite2": functools.partial(DeepLabv3Plus, variant="lite2"),
}
OF_MODEL = {
    "A": "vgg16_fcn32s",
    "B": "deeplabv3_mobilenet_v3_large",
    "C": "deeplabv3plus_efficientnet_lite0",
}


def build(architecture: str, classes: int = CLASSES, drop_path: float = 0.0) -> nn.Module:
    """The network called ``architecture`` in a checkpoint, with random weights.

    ``drop_path``: of DeepLabv3+ alone, see ``EfficientNetLite``. Raises InputError for another
    name.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"problem 3 has no network {architecture!r}")
    make = ARCHITECTURES[architecture]
    return make(classes, drop_path=drop_path) if drop_path else make(classes)


def pretrained_file(network: nn.Module, name: str | None) -> Path | None:
    """The file that ``--pretrained NAME`` means, or None without that flag.

    ``imagenet`` is the file of an installed package.
    Raises InputError if ``network`` has no EfficientNet-Lite or the package is not there.
    """
    if name != "imagenet":
        return Path(name) if name else None
    if not isinstance(network, DeepLabv3Plus):
        raise InputError("--pretrained imagenet is for model C; name a file of weights for A and B")
    return imagenet_file(network.backbone.variant)


def load_pretrained(network: nn.Module, weights: dict[str, Tensor], source: str) -> str:
    """Start ``network`` from published weights; returns a line that names what was left out.

    All weights of a network of the same kind, such as a finished run's, are taken as they are.
    FCN32s takes torchvision's VGG16 (ImageNet): its first two dense layers are reshaped to
    convolutions, the third is left out. DeepLabv3 takes torchvision's whole network (COCO, 21
    classes): its last layer and auxiliary head are left out. DeepLabv3+ takes its backbone from a
    file of ImageNet weights (see ``core.efficientnet_lite``). Every other key must match:
    InputError is raised if keys or shapes differ. ``source`` says in messages where the weights
    come from.
    """
    if weights.keys() == network.state_dict().keys():
        checkpoint.load_weights(network, weights, source)
        return f"the whole network from {source}"
    if isinstance(network, DeepLabv3Plus):
        load_imagenet(network.backbone, weights, source)
        return f"backbone from {source}; started anew: all else"
    random = network.state_dict()
    try:
        if isinstance(network, FCN32s):
            renamed = {
                name: value for name, value in weights.items() if name.startswith("features.")
            }
            renamed["fc6.0.weight"] = weights["classifier.0.weight"].view(4096, 512, 7, 7)
            renamed["fc6.0.bias"] = weights["classifier.0.bias"]
            renamed["fc7.0.weight"] = weights["classifier.3.weight"].view(4096, 4096, 1, 1)
            renamed["fc7.0.bias"] = weights["classifier.3.bias"]
            new_layers: tuple[str, ...] = ("score.weight", "score.bias", "upscore.weight")
            left_out = "classifier.6"
        else:
            renamed = {
                f"network.{name}": value
                for name, value in weights.items()
                if not name.startswith("aux_classifier.")
            }
            new_layers = ("network.classifier.4.weight", "network.classifier.4.bias")
            left_out = "classifier.4, aux_classifier"
    except (KeyError, RuntimeError) as error:
        raise InputError(
            f"{source} does not fit {type(network).__name__} ({error}). Nothing was loaded"
        ) from error
    checkpoint.load_weights(network, renamed | {name: random[name] for name in new_layers}, source)
    return f"left out of {source}: {left_out}; started anew: {', '.join(new_layers)}"


def logits(
    network: nn.Module,
    images: Tensor,
    flip_test: bool,
    test_scales: Sequence[float] = (1.0,),
    rotate_test: bool = False,
) -> Tensor:
    """Logits (N, classes, H, W) in float32: their mean over the images at each of ``test_scales``.

    With ``flip_test`` over the mirror images too, with ``rotate_test`` over the four quarter turns;
    each is turned back first. A scale is of the image's sides.
    """
    views = [
        (turns, is_mirrored)
        for turns in range(4 if rotate_test else 1)
        for is_mirrored in ([False, True] if flip_test else [False])
    ]
    total: Tensor | None = None
    for scale in test_scales:
        scaled = images
        if scale != 1:
            size = [max(SMALLEST, round(int(side) * scale)) for side in images.shape[2:]]
            scaled = nn.functional.interpolate(
                images, size, mode="bilinear", align_corners=False, antialias=scale < 1
            )
        out = seen_as(network, scaled, *views[0])
        for view in views[1:]:
            out = out + seen_as(network, scaled, *view)
        out = out / len(views)
        out = out if scale == 1 else resize(out, images.shape[2:])
        total = out if total is None else total + out
    if total is None:
        raise ValueError("there is no test scale")
    return total if len(test_scales) == 1 else total / len(test_scales)


def seen_as(network: nn.Module, images: Tensor, turns: int, is_mirrored: bool) -> Tensor:
    """The float32 logits of images (N, 3, H, W) that the network sees turned and mirrored.

    ``turns``: quarter turns. The logits, (N, classes, H, W), are turned back.
    """
    view = turned(images, turns)
    view = view.flip(3) if is_mirrored else view
    out = network(view).float()
    out = out.flip(3) if is_mirrored else out
    return turned(out, -turns)


def turned(images: Tensor, turns: int) -> Tensor:
    """(N, C, H, W) after so many quarter turns counter-clockwise, as ``torch.rot90``, which the
    export to ONNX lacks.
    """
    if turns % 2:
        return images.transpose(2, 3).flip(2 if turns % 4 == 1 else 3)
    return images.flip(2, 3) if turns % 4 else images
