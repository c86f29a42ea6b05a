"""Both networks as drawings: a forward pass through the model itself tells every stage's shape, dilation, weights and work."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from torchvision.models.mobilenetv3 import InvertedResidual
from torchvision.models.segmentation.deeplabv3 import ASPPPooling
from torchvision.ops.misc import SqueezeExcitation

from core.cli import InputError
from p3.model import DeepLabv3, FCN32s
from report import charts

SIZE = 512  # the side of the course's images
# Inches: the drawing's width, a box's left edge, width and height, a branch's height, the way between two.
WIDTH, LEFT, BOX, HIGH, BRANCH, GAP = 4.2, 0.08, 2.78, 0.46, 1.0, 0.22


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a network. ``channels``, ``height``, ``width``: of its output. ``stride``: input side by output side.

    ``dilation``: its convolutions' largest. ``multiply_adds``: of its convolutions, for one image; nothing else is counted.
    ``branch``: it reads what the branch before it reads, and both are concatenated.
    """

    name: str
    what: str
    channels: int
    height: int
    width: int
    stride: float
    dilation: int
    parameters: int
    multiply_adds: int
    branch: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """What becomes a stage: modules by their names in the network, the last one's output being the stage's."""

    name: str
    what: str
    modules: list[str]
    branch: bool = False


def stages(network: nn.Module, size: int = SIZE) -> list[Stage]:
    """The stages of an FCN32s or DeepLabv3, from an RGB image of ``size`` x ``size`` to its logits.

    Only shapes are computed, on torch's meta device: ``network`` is moved there and is of no use afterwards. Raises
    InputError at another network.
    """
    if not isinstance(network, FCN32s | DeepLabv3):
        raise InputError(f"{type(network).__name__} has no drawing; name an FCN32s or a DeepLabv3")
    network = network.to("meta").eval()
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}  # of a module's input and of its output

    def note(name: str, inputs: torch.Tensor, out: torch.Tensor | dict[str, torch.Tensor]) -> None:
        if isinstance(out, torch.Tensor):  # DeepLabv3's backbone gives a dict; no stage ends there
            shapes[name] = inputs.shape, out.shape

    hooks = [
        module.register_forward_hook(lambda _, inputs, out, name=name: note(name, inputs[0], out))
        for name, module in network.named_modules()
    ]
    out = network(torch.empty(1, 3, size, size, device="meta"))
    for hook in hooks:
        hook.remove()
    found = [Stage("image", "red, green, blue", 3, size, size, 1, 1, 0, 0)]
    for part in (
        fcn_parts(network) if isinstance(network, FCN32s) else deeplab_parts(network, shapes)
    ):
        inside = tuple(f"{module}." for module in part.modules)
        convs = [
            (name, module)
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and f"{name}.".startswith(inside)
        ]
        _, channels, height, width = shapes[part.modules[-1]][1]
        found.append(
            Stage(
                part.name, part.what, channels, height, width, size / height, max(conv.dilation[0] for _, conv in convs),
                sum(weight.numel() for module in part.modules for weight in network.get_submodule(module).parameters()),
                sum(multiply_adds(conv, *shapes[name]) for name, conv in convs), part.branch,
            )
        )  # fmt: skip
    last = found[-1]
    how = "cut to the image" if last.height > size else f"bilinear ×{size // last.height}"
    return [*found, Stage("logits", how, *out.shape[1:], 1, 1, 0, 0)]


def multiply_adds(conv: nn.Conv2d | nn.ConvTranspose2d, inputs: torch.Size, out: torch.Size) -> int:
    """Products of a convolution for one image: its weights, once a position of the output; transposed, of the input."""
    return (inputs if isinstance(conv, nn.ConvTranspose2d) else out)[
        2:
    ].numel() * conv.weight.numel()


def on_the_map(dilation: int, side: int) -> float:
    """How many of a dilated 3x3 kernel's 9 taps fall on a square map of ``side``, and not on its padding, in the mean.

    Chen et al. 2017, "Rethinking Atrous Convolution", section 3.3 and figure 4: at a rate near the map's side only the
    centre is left.
    """
    return (1 + 2 * max(0, side - dilation) / side) ** 2


def fcn_parts(network: FCN32s) -> Iterator[Part]:
    """VGG16's blocks, each up to its pooling, then the layers one by one."""
    start, features = 0, list(network.features)
    pools = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
    for number, end in enumerate(pools, 1):
        convs = [layer for layer in features[start:end] if isinstance(layer, nn.Conv2d)]
        what = f"{len(convs)} × {words(convs[0])}, max pool {features[end].kernel_size}"
        yield Part(
            f"block {number}", what, [f"features.{index}" for index in range(start, end + 1)]
        )
        start = end + 1
    yield Part("fc6", words(network.fc6[0]), ["fc6"])
    yield Part("fc7", words(network.fc7[0]), ["fc7"])
    yield Part("score", words(network.score), ["score"])
    yield Part(
        "upscore",
        f"transposed {words(network.upscore)[5:]}, stride {network.upscore.stride[0]}",
        ["upscore"],
    )


def deeplab_parts(
    network: DeepLabv3, shapes: dict[str, tuple[torch.Size, torch.Size]]
) -> Iterator[Part]:
    """MobileNetV3's bottlenecks, those alike together, then the branches of atrous spatial pyramid pooling, then the head."""
    backbone = list(network.network.backbone.named_children())
    yield Part("stem", words(backbone[0][1][0]), [f"network.backbone.{backbone[0][0]}"])

    def kind(item: tuple[str, InvertedResidual]) -> tuple:
        return *shapes[f"network.backbone.{item[0]}"][1], dilation_of(item[1]), depthwise(item[1])

    for (*_, dilation, (kernel, squeezed)), group in itertools.groupby(backbone[1:-1], kind):
        names = [name for name, _ in group]
        name = (
            f"block{'s' if len(names) > 1 else ''} {'–'.join(dict.fromkeys((names[0], names[-1])))}"
        )
        what = (
            f"{kernel}×{kernel}"
            + (" + SE" if squeezed else "")
            + (f", dilation {dilation}" if dilation > 1 else "")
        )
        yield Part(name, what, [f"network.backbone.{name}" for name in names])
    yield Part("widen", words(backbone[-1][1][0]), [f"network.backbone.{backbone[-1][0]}"])

    aspp, *_, score = network.network.classifier
    for index, branch in enumerate(aspp.convs):
        conv = next(module for module in branch if isinstance(module, nn.Conv2d))
        pooling = isinstance(branch, ASPPPooling)
        name = (
            "mean"
            if pooling
            else f"rate {conv.dilation[0]}"
            if conv.kernel_size[0] > 1
            else "point"
        )
        yield Part(name, words(conv), [f"network.classifier.0.convs.{index}"], branch=True)
    yield Part(
        "ASPP",
        f"concat {aspp.project[0].in_channels}, {words(aspp.project[0])}",
        ["network.classifier.0.project"],
    )
    head = [
        f"network.classifier.{index}" for index in range(1, len(network.network.classifier) - 1)
    ]
    yield Part("smooth", words(network.network.classifier[1]), head)
    yield Part("score", words(score), [f"network.classifier.{len(head) + 1}"])


def depthwise(block: InvertedResidual) -> tuple[int, bool]:
    """(the depthwise kernel's side, whether a squeeze and excitation follows it)."""
    (kernel,) = {
        conv.kernel_size[0]
        for conv in block.modules()
        if isinstance(conv, nn.Conv2d) and conv.groups > 1
    }
    return kernel, any(isinstance(module, SqueezeExcitation) for module in block.modules())


def dilation_of(module: nn.Module) -> int:
    return max(conv.dilation[0] for conv in module.modules() if isinstance(conv, nn.Conv2d))


def words(conv: nn.Conv2d | nn.ConvTranspose2d) -> str:
    return f"conv {conv.kernel_size[0]}×{conv.kernel_size[1]}"


def drawing(found: list[Stage]) -> Figure:
    """The stages from top to bottom, branches side by side; at the right of each its parameters and multiply-adds."""
    rows = [
        list(group)
        for _, group in itertools.groupby(
            found, lambda stage: "branches" if stage.branch else stage.name
        )
    ]
    heights = [BRANCH if row[0].branch else HIGH for row in rows]
    height = sum(heights) + GAP * len(rows) + 0.62
    figure, axes = charts.panel(WIDTH, height, axes=False)
    right = (3.46, WIDTH - 0.06)
    top = height - 0.34
    for x, name in zip(right, ("params", "mult-adds"), strict=True):
        axes.text(x, top + 0.12, name, ha="right", va="center", fontsize=8, color=charts.MUTED)
    ends: list[tuple[float, float]] = []  # where the arrows to the next row start
    for row, high in zip(rows, heights, strict=True):
        wide, step = (
            (BOX, 0.0)
            if len(row) == 1
            else ((WIDTH - 2 * LEFT) / len(row) - 0.05, (WIDTH - 2 * LEFT) / len(row))
        )
        starts, bottom = [], top - high
        for index, stage in enumerate(row):
            x = LEFT + index * step
            middle = x + wide / 2
            if stage.branch:
                branch_box(axes, x, bottom, wide, high, stage)
            else:
                charts.box(
                    axes,
                    x,
                    bottom,
                    wide,
                    high,
                    f"{stage.name}: {stage.what}",
                    shape(stage),
                    series=series_of(stage),
                )
                for at, count in zip(right, (stage.parameters, stage.multiply_adds), strict=True):
                    axes.text(
                        at,
                        bottom + high / 2,
                        short(count),
                        ha="right",
                        va="center",
                        fontsize=9,
                        color=charts.INK,
                    )
            starts.append((middle, bottom))
            for end in ends:  # several come together along the box's upper side
                aim = middle if len(ends) == 1 else middle + (end[0] - middle) * 0.35
                charts.arrow(axes, end, (aim, top))
        ends, top = starts, bottom - GAP
    total = (sum(stage.parameters for stage in found), sum(stage.multiply_adds for stage in found))
    axes.text(
        LEFT, top + 0.02, "all together", ha="left", va="center", fontsize=9, color=charts.INK
    )
    for at, count in zip(right, total, strict=True):
        axes.text(
            at, top + 0.02, short(count), ha="right", va="center", fontsize=9, color=charts.INK
        )
    return figure


def branch_box(axes: Axes, x: float, y: float, wide: float, high: float, stage: Stage) -> None:
    """A narrow box: name, kernel and channels, weights and multiply-adds, a line each."""
    charts.box(axes, x, y, wide, high, "", series=series_of(stage))
    made = (stage.name, stage.what, f"{stage.channels} ch.")
    for index, line in enumerate((*made, short(stage.parameters), short(stage.multiply_adds))):
        size, colour = (9, charts.INK) if index in (0, 3, 4) else (8, charts.MUTED)
        axes.text(
            x + wide / 2,
            y + high * (0.88 - 0.19 * index),
            line,
            ha="center",
            va="center",
            fontsize=size,
            color=colour,
        )


def series_of(stage: Stage) -> int | None:
    """A box's colour: one for what is dilated, one for what is not, the ink's for what has no weights."""
    return (1 if stage.dilation > 1 else 0) if stage.parameters else None


def shape(stage: Stage) -> str:
    return f"{stage.channels} × {stage.height}×{stage.width}" + (
        f", stride {stage.stride:g}" if stage.stride > 1 else ""
    )


def short(count: int) -> str:
    """A count in three digits: 14.7 M; nothing for 0."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            return f"{count / factor:.{max(0, 3 - len(str(count // factor)))}f} {unit}"
    return str(count or "")
