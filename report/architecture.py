"""Problem 1's network as data, read from the model itself by forward hooks, and drawn."""

from __future__ import annotations

import dataclasses

import torch
from matplotlib.figure import Figure
from torch import nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual

from p1.data import SIZE
from report import charts

CONVOLUTION, RESIDUAL, MEAN, LINEAR = (
    "convolution",
    "inverted residual",
    "mean over all pixels",
    "linear layer",
)
SERIES = {CONVOLUTION: 0, RESIDUAL: 1, MEAN: None, LINEAR: 2}


@dataclasses.dataclass(frozen=True)
class Stage:
    """Equal blocks in a row. ``stride``: of the first of them; ``size``: the output's side in pixels; ``macs``: an image."""

    what: str
    repeats: int
    kernel: int
    stride: int
    expansion: int  # channels inside a block by those it gets; 0: not an inverted residual
    channels: int
    size: int
    parameters: int
    macs: int  # multiply-adds of convolutions and linear layers, biases and BatchNorm left out


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution inside a block, and the names of what follows it before the next one."""

    kernel: int
    stride: int
    depthwise: bool
    inputs: int
    outputs: int
    then: tuple[str, ...]


@torch.no_grad()
def shapes(network: nn.Module, size: int = SIZE) -> dict[nn.Module, torch.Size]:
    """The output's shape of every module that runs on one image of ``size``. Leaves ``network`` in evaluation mode."""
    seen: dict[nn.Module, torch.Size] = {}
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: seen.__setitem__(module, output.shape)
        )
        for module in network.modules()
    ]
    try:
        network.eval()(torch.zeros(1, 3, size, size, device=next(network.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def multiply_adds(module: nn.Module, output: torch.Size) -> int:
    """Of one convolution or linear layer, by the weights that reach each of its outputs; of other modules 0."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return 0
    return output.numel() * module.weight[0].numel()


def stages(network: MobileNetV2) -> list[Stage]:
    """The network from the image to the logits. A stage begins where a block has no shortcut round it."""
    seen = shapes(network)
    groups: list[list[nn.Module]] = []
    for block in network.features:
        if groups and isinstance(block, InvertedResidual) and block.use_res_connect:
            groups[-1].append(block)
        else:
            groups.append([block])
    found = [_stage(group, seen) for group in groups]
    last = found[-1]
    found.append(
        Stage(MEAN, 1, last.size, 1, 0, last.channels, 1, 0, 0)
    )  # a function in torchvision, no module: not hooked
    return found + [
        _stage([layer], seen) for layer in network.classifier if isinstance(layer, nn.Linear)
    ]


def _stage(blocks: list[nn.Module], seen: dict[nn.Module, torch.Size]) -> Stage:
    first, output = blocks[0], seen[blocks[-1]]
    macs = sum(
        multiply_adds(module, seen[module]) for block in blocks for module in block.modules()
    )
    parameters = sum(weight.numel() for block in blocks for weight in block.parameters())
    if isinstance(first, nn.Linear):
        return Stage(LINEAR, len(blocks), 1, 1, 0, output[1], 1, parameters, macs)
    convolutions = [module for module in first.modules() if isinstance(module, nn.Conv2d)]
    spatial = max(convolutions, key=lambda convolution: convolution.kernel_size)
    residual = isinstance(first, InvertedResidual)
    return Stage(
        what=RESIDUAL if residual else CONVOLUTION,
        repeats=len(blocks),
        kernel=spatial.kernel_size[0],
        stride=spatial.stride[0],
        expansion=spatial.in_channels // convolutions[0].in_channels if residual else 0,
        channels=output[1],
        size=output[2],
        parameters=parameters,
        macs=macs,
    )


def layers(block: InvertedResidual) -> list[Layer]:
    """The convolutions inside a block, in their order."""
    found: list[Layer] = []
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels > 1
            sizes = (
                module.kernel_size[0],
                module.stride[0],
                depthwise,
                module.in_channels,
                module.out_channels,
            )
            found.append(Layer(*sizes, then=()))
        elif found and not list(module.children()):
            name = type(module).__name__.removesuffix("2d")
            found[-1] = dataclasses.replace(found[-1], then=(*found[-1].then, name))
    return found


def totals(network: MobileNetV2) -> dict[str, float]:
    """What can be said of the network as a whole: sums over ``stages``, how many there are of what, dropout's rate."""
    found = stages(network)
    residuals = [stage for stage in found if stage.what == RESIDUAL]
    return {
        "parameters": sum(stage.parameters for stage in found),
        "multiply-adds": sum(stage.macs for stage in found),
        "stages of residuals": len(residuals),
        "blocks": sum(stage.repeats for stage in residuals),
        "features": next(stage.channels for stage in found if stage.what == MEAN),
        "halvings": sum(stage.stride == 2 for stage in found),
        "dropout": sum(layer.p for layer in network.classifier if isinstance(layer, nn.Dropout)),
    }


def drawing(found: list[Stage]) -> Figure:
    """The stages from top to bottom, each a box, with its output, parameters and multiply-adds beside it."""
    pitch, height, left, width = 0.55, 0.42, 0.06, 1.88
    columns = {"output": 2.4, "parameters": 3.13, "mult-adds": 3.82}  # middles, in inches
    figure, axes = charts.panel(4.2, pitch * len(found) + 0.5, axes=False)
    top, middle = pitch * len(found) + 0.3, left + width / 2
    for name, x in columns.items():
        axes.text(x, top, name, ha="center", va="center", fontsize=8, color=charts.MUTED)
    axes.text(
        middle,
        top,
        f"image, 3×{SIZE}×{SIZE}",
        ha="center",
        va="center",
        fontsize=9,
        color=charts.INK,
    )
    above = top - 0.09
    for k, stage in enumerate(found):
        y = top - 0.25 - pitch * k - height
        charts.arrow(axes, (middle, above), (middle, y + height))
        title = f"{stage.repeats} × {stage.what}" if stage.what == RESIDUAL else stage.what
        charts.box(axes, left, y, width, height, title, _detail(stage), series=SERIES[stage.what])
        output = (
            f"{stage.channels}×{stage.size}×{stage.size}" if stage.size > 1 else f"{stage.channels}"
        )
        for x, text in zip(
            columns.values(), (output, short(stage.parameters), short(stage.macs)), strict=True
        ):
            axes.text(
                x, y + height / 2, text, ha="center", va="center", fontsize=8.5, color=charts.INK
            )
        above = y
    return figure


def _detail(stage: Stage) -> str:
    if stage.what == LINEAR:
        return ""
    kernel = f"{stage.kernel}×{stage.kernel}"
    if stage.what == MEAN:
        return kernel
    return f"{kernel}, stride {stage.stride}" + (
        f", expansion {stage.expansion}" if stage.expansion else ""
    )


def short(number: int) -> str:
    """A count in three or four characters and a unit: 1.40 M, 31.2 k; nothing for none."""
    for unit, name in ((1e6, " M"), (1e3, " k"), (1, "")):
        if number >= unit:
            value = number / unit
            return (
                f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{name}"
                if name
                else str(number)
            )
    return "–"


def block_drawing(block: InvertedResidual) -> Figure:
    """One block from the inside, from top to bottom, with its shortcut if it has one."""
    found = layers(block)
    pitch, height, left, width = 0.66, 0.46, 0.3, 2.6
    figure, axes = charts.panel(4.2, pitch * len(found) + 0.9, axes=False)
    middle, top, bottom = left + width / 2, pitch * len(found) + 0.74, 0.16
    axes.text(
        middle,
        top,
        f"{found[0].inputs} channels",
        ha="center",
        va="center",
        fontsize=9,
        color=charts.INK,
    )
    above = top - 0.1
    for k, layer in enumerate(found):
        y = top - 0.4 - pitch * k - height + 0.06
        charts.arrow(axes, (middle, above), (middle, y + height))
        kind = "depthwise" if layer.depthwise else "convolution"
        title = f"{layer.kernel}×{layer.kernel} {kind}, {layer.inputs} → {layer.outputs}"
        detail = ", ".join([f"stride {layer.stride}"] * (layer.stride > 1) + list(layer.then))
        charts.box(axes, left, y, width, height, title, detail, series=1 if layer.depthwise else 0)
        above = y
    charts.arrow(axes, (middle, above), (middle, bottom + 0.1))
    if block.use_res_connect:
        side, start = left + width + 0.3, top - 0.2
        axes.plot([middle, side, side], [start, start, bottom], color=charts.MUTED, linewidth=1.1)
        charts.arrow(axes, (side, bottom), (middle + 0.12, bottom))
        axes.text(
            side + 0.08,
            (start + bottom) / 2,
            "shortcut",
            ha="left",
            va="center",
            fontsize=8,
            color=charts.MUTED,
        )
    sum_ = "+" if block.use_res_connect else f"{found[-1].outputs} channels"
    axes.text(
        middle,
        bottom,
        sum_,
        ha="center",
        va="center",
        fontsize=12 if sum_ == "+" else 9,
        color=charts.INK,
    )
    return figure
