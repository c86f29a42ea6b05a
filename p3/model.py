"""Problem 3's networks.

A: VGG16-FCN32s. B: DeepLabv3 on MobileNetV3-Large. C: DeepLabv3+ on EfficientNet-Lite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError
from core.efficientnet_lite import EfficientNetLite, load_imagenet

CLASSES = 7


class FCN32s(nn.Module):
    """Long et al. 2015, "Fully Convolutional Networks for Semantic Segmentation", sections 3 and 4.

    VGG16's two hidden fully connected layers become convolutions (fc6 7x7, fc7 1x1), and a 1x1
    convolution scores the classes. One transposed convolution of stride 32, initialised as bilinear
    interpolation, upsamples the scores to the image's resolution.
    NOTE: the authors keep the transposed convolution fixed, and their dropout drops single values;
    here it is trained, and dropout drops whole channels.
    """

    # The name of the backbone's module, which p3.pretrain, load_pretrained and training.optim.make
    # use, and the number of channels of its output.
    BACKBONE, CHANNELS = "features", 512

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        from torchvision.models import vgg16  # not at the top: model C needs no torchvision

        self.features = vgg16(weights=None).features
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                # NOTE: as in the paper's Caffe, so that the last pixel of an odd side is kept.
                layer.ceil_mode = True
        # NOTE: padding 3 keeps the feature map's size; the paper pads the image by 100 instead.
        self.fc6 = nn.Sequential(
            nn.Conv2d(512, 4096, 7, padding=3), nn.ReLU(inplace=True), nn.Dropout2d()
        )
        self.fc7 = nn.Sequential(nn.Conv2d(4096, 4096, 1), nn.ReLU(inplace=True), nn.Dropout2d())
        self.score = nn.Conv2d(4096, classes, 1)
        self.upscore = Upscale(classes, classes, 64, stride=32, bias=False)
        # With torch's default initialisation, the signal vanishes in these two wide layers.
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
    """A transposed convolution in float32: on a CPU, 60 times as fast as in bfloat16."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.conv_transpose2d(
                input.float(), self.weight.float(), stride=self.stride
            )


def bilinear(channels: int, size: int) -> Tensor:
    """The kernel that makes a transposed convolution interpolate each channel bilinearly.

    (channels, channels, size, size) float32, for a stride of half of ``size`` (Long et al. 2015,
    section 3.3).
    """
    factor = size // 2
    centre = factor - 0.5
    line = 1 - (torch.arange(size) - centre).abs() / factor
    return torch.eye(channels)[:, :, None, None] * (line[:, None] * line)


class DeepLabv3(nn.Module):
    """Chen et al. 2017, "Rethinking Atrous Convolution", on MobileNetV3-Large.

    torchvision's network without the auxiliary output.
    NOTE: its dilation rates are 12, 24 and 36, which the paper has at stride 8; at stride 16, as
    here, the paper has 6, 12 and 18.
    """

    BACKBONE, CHANNELS = "network.backbone", 960  # as in FCN32s

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

        self.network = deeplabv3_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=classes, aux_loss=False
        )
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                # NOTE: torchvision's MobileNetV3 has 0.01. In a short training from scratch, the
                # running statistics lag so far behind the weights that it predicts one class only.
                module.momentum = 0.1

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float -> logits (N, classes, H, W), upsampled bilinearly from stride 16."""
        return self.network(images)["out"]


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """A depthwise separable convolution: depthwise 3x3, then 1x1, each with BatchNorm and ReLU.

    (N, inputs, H, W) -> (N, outputs, H, W).
    """
    return nn.Sequential(
        nn.Conv2d(
            inputs, inputs, 3, padding=dilation, dilation=dilation, groups=inputs, bias=False
        ),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        *pointwise(inputs, outputs),
    )


def pointwise(inputs: int, outputs: int) -> nn.Sequential:
    """A 1x1 convolution, BatchNorm and ReLU: (N, inputs, H, W) -> (N, outputs, H, W)."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class DeepLabv3Plus(nn.Module):
    """Chen et al. 2018, "Encoder-Decoder with Atrous Separable Convolution", on EfficientNet-Lite.

    Section 3.1: atrous spatial pyramid pooling at stride 16 with separable convolutions, then a
    decoder, also of separable convolutions, that combines its output with the backbone's features
    at stride 4.
    NOTE: 192 channels instead of 256, and 64 instead of 48 for the skip connection: oneDNN is fast
    with their sum, 256.
    """

    WIDTH, SKIP, DILATIONS = 192, 64, (6, 12, 18)

    def __init__(self, classes: int = CLASSES, drop_path: float = 0.0) -> None:
        super().__init__()
        self.backbone = EfficientNetLite(output_stride=16, head=False, drop_path=drop_path)
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
        """(N, 3, H, W) float -> logits (N, classes, H, W), upsampled bilinearly from stride 4."""
        outputs = self.backbone(images)
        fine, deep = outputs[1], outputs[-1]
        pooled = self.whole_image(nn.functional.adaptive_avg_pool2d(deep, 1))
        # Without a copy in the layout of the others, cat returns the slower layout.
        pooled = pooled.expand(-1, -1, deep.shape[2], deep.shape[3]).contiguous(
            memory_format=torch.channels_last
        )
        branches = [*(branch(deep) for branch in self.pyramid), pooled]
        context = resize(self.project(torch.cat(branches, 1)), fine.shape[2:])
        out = self.decoder(torch.cat([context, self.skip(fine)], 1))
        return resize(out, images.shape[2:])


def resize(images: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, C, h, w) to (N, C, *size) bilinearly."""
    return nn.functional.interpolate(images, size, mode="bilinear", align_corners=False)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "vgg16_fcn32s": FCN32s,
    "deeplabv3_mobilenet_v3_large": DeepLabv3,
    "deeplabv3plus_efficientnet_lite0": DeepLabv3Plus,
}
OF_MODEL = {
    "A": "vgg16_fcn32s",
    "B": "deeplabv3_mobilenet_v3_large",
    "C": "deeplabv3plus_efficientnet_lite0",
}


def build(architecture: str, classes: int = CLASSES, drop_path: float = 0.0) -> nn.Module:
    """Build the network called ``architecture`` in a checkpoint, with random weights.

    ``drop_path``: only for DeepLabv3+, see ``EfficientNetLite``. Raises InputError if the name is
    unknown, or if another network has a ``drop_path``.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"problem 3 has no network {architecture!r}")
    make = ARCHITECTURES[architecture]
    if drop_path and make is not DeepLabv3Plus:
        raise InputError(f"drop_path is for model C only, not for {architecture}")
    return make(classes, drop_path=drop_path) if drop_path else make(classes)


def load_pretrained(network: nn.Module, weights: dict[str, Tensor], source: str) -> str:
    """Initialise ``network`` from pre-trained weights; return a line that says what was loaded.

    Weights of the same network, for instance from a finished run, are loaded completely, and so are
    those of its backbone from ``p3.pretrain``. Otherwise FCN32s loads torchvision's VGG16
    (ImageNet): the first two fully connected layers become convolutions, the third is skipped.
    DeepLabv3 loads torchvision's network (COCO, 21 classes) without its last layer and auxiliary
    head. DeepLabv3+ loads its backbone from a file of ImageNet weights (see
    ``core.efficientnet_lite``). Raises InputError if the other keys or shapes do not match.
    ``source``: where the weights come from, for messages.
    """
    if weights.keys() == network.state_dict().keys():
        checkpoint.load_weights(network, weights, source)
        return f"loaded the whole network from {source}"
    if isinstance(network, DeepLabv3Plus):
        load_imagenet(network.backbone, weights, source)
        return f"loaded the backbone from {source}; random weights: everything else"
    random = network.state_dict()
    others = {name: random[name] for name in random if not name.startswith(f"{network.BACKBONE}.")}
    if weights.keys() == random.keys() - others.keys():
        checkpoint.load_weights(network, weights | others, source)
        return f"loaded the backbone from {source}; random weights: everything else"
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
    return f"loaded {source} without {left_out}; random weights: {', '.join(new_layers)}"
