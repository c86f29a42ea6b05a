"""Draws any network of the project, by watching a forward pass.

``torch.fx`` tells which layer reads which, and ``torch.utils.flop_counter`` counts the
multiply-adds. So a changed stride, width or dilation shows in the drawing without any change here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from report import charts

BLOCKS = {  # blocks that are drawn as one box: class name -> label
    "InvertedResidual": "inverted residual",
    "Bottleneck": "bottleneck",
    "Block": "inverted residual",  # in core.efficientnet_lite
}
# In inches: the width of the drawing, the left edge, width and height of a box, the height of a
# branch, and the gap between two rows.
WIDTH, LEFT, BOX, HIGH, BRANCH, GAP = 4.2, 0.08, 2.78, 0.46, 1.0, 0.22
COLUMNS = (3.46, WIDTH - 0.06)  # the right edges of the numbers beside the boxes


@dataclasses.dataclass(frozen=True)
class Stage:
    """The network's input (the first stage), a layer or block, or several equal ones in a row.

    ``channels``, ``height`` and ``width`` are those of its output. ``dilation`` is the largest of
    its convolutions. ``expansion`` is the channels inside a block over those of its input; 0 if it
    has none, or if merged blocks differ. ``multiply_adds`` counts convolutions and linear layers,
    for one image. ``reads`` are the indices of the stages whose outputs it reads. ``pool`` names
    the pooling after it.
    """

    what: str
    channels: int
    height: int
    width: int
    parameters: int = 0
    multiply_adds: int = 0
    dilation: int = 1
    expansion: int = 0
    repeats: int = 1
    reads: tuple[int, ...] = ()
    pool: str = ""

    @property
    def title(self) -> str:
        count = f"{self.repeats} × " if self.repeats > 1 else ""
        return f"{count}{self.what}{self.pool}"

    @property
    def shape(self) -> str:
        if self.height == self.width == 1:
            return f"{self.channels}"
        return f"{self.channels} × {self.height}×{self.width}"


def stages(
    make: Callable[[], nn.Module], shape: tuple[int, int, int], *, merge: bool = True
) -> list[Stage]:
    """Return the stages of the network that ``make`` builds, from its input to its output.

    ``shape``: channels, height and width of the input. Only shapes are computed, so the weights
    take no memory. With ``merge``, equal layers that follow each other become one stage.
    """
    with FakeTensorMode(), torch.no_grad():
        found = _Watched(make().eval(), shape).stages
    return _merged(_merged(found, _separable), _repeated) if merge else found


class _Watched(fx.Interpreter):
    """Runs a network and notes a stage for each block, convolution and linear layer, in order."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int]) -> None:
        super().__init__(fx.GraphModule(network, _Tracer().trace(network)))
        self.stages = [Stage("input", *shape)]
        self._reads: dict[fx.Node, tuple[int, ...]] = {}  # node -> the stages that made its value
        out = self.run(torch.empty(1, *shape))
        if out.ndim == 4 and out.shape[2] != (height := self.stages[-1].height):
            how = "cut to the image" if height > out.shape[2] else "bilinear to the image"
            *_, output = self._reads.values()
            self.stages.append(Stage(how, *out.shape[1:], reads=output))

    def run_node(self, node: fx.Node) -> Any:
        with FlopCounterMode(display=False) as counter:
            output = super().run_node(node)
        reads = tuple(sorted({k for one in node.all_input_nodes for k in self._reads[one]}))
        if node.op == "placeholder":
            reads = (0,)
        elif not isinstance(output, Tensor):  # such as the size of an image
            reads = ()
        module = self.module.get_submodule(node.target) if node.op == "call_module" else None
        if module and _is_unit(module):
            (source, *_), _ = self.fetch_args_kwargs_from_env(node)
            stage = _stage(module, source, output, [self.stages[k] for k in reads], reads)
            flops = counter.get_total_flops()
            self.stages.append(dataclasses.replace(stage, multiply_adds=flops // 2))
            reads = (len(self.stages) - 1,)
        elif module and len(reads) == 1:
            self.stages[reads[0]] = _followed(self.stages[reads[0]], module, output)
        self._reads[node] = reads
        return output


class _Tracer(fx.Tracer):
    """Traces a block, convolution or linear layer of any class as one operation."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return _is_unit(module) or super().is_leaf_module(module, name)


def _is_unit(module: nn.Module) -> bool:
    return type(module).__name__ in BLOCKS or isinstance(
        module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    )


def _followed(stage: Stage, layer: nn.Module, output: Tensor) -> Stage:
    """Return ``stage`` extended by the layer that follows it, such as a BatchNorm or a pooling."""
    if isinstance(layer, nn.MaxPool2d):
        _, _, height, width = output.shape
        pool = f", max pool {layer.kernel_size}×{layer.kernel_size}"
        return dataclasses.replace(stage, height=height, width=width, pool=pool)
    own = sum(weight.numel() for weight in layer.parameters())
    return dataclasses.replace(stage, parameters=stage.parameters + own)


def _stage(
    unit: nn.Module, source: Tensor, output: Tensor, before: list[Stage], reads: tuple[int, ...]
) -> Stage:
    kernels = (nn.Conv2d, nn.ConvTranspose2d)
    convolutions = [module for module in unit.modules() if isinstance(module, kernels)]
    side = max((one.kernel_size[0] for one in convolutions), default=0)
    squeezed = any(type(module).__name__.startswith("Squeeze") for module in unit.modules())
    depthwise = [one for one in convolutions if one.groups == one.in_channels > 1]
    is_block = type(unit).__name__ in BLOCKS
    if is_block:
        what = f"{BLOCKS[type(unit).__name__]} {side}×{side}{' + SE' if squeezed else ''}"
    elif isinstance(unit, nn.Linear):
        what = "linear"
    elif isinstance(unit, nn.ConvTranspose2d):
        what = f"transposed conv {side}×{side}, stride {unit.stride[0]}"
    else:
        what = f"{'depthwise' if depthwise else 'conv'} {side}×{side}"
    pixels = source.shape[2:].numel() if source.ndim == 4 else 1
    if pixels == 1 and any(one.height * one.width > 1 for one in before):
        what = f"mean, {what}"  # the mean is a pooling layer or a function
    elif source.ndim == 4 and source.shape[2] > max(one.height for one in before):
        what = f"enlarged to {source.shape[2]}×{source.shape[3]}, {what}"
    return Stage(
        what,
        *(output.shape[1:] if output.ndim == 4 else (output.shape[1], 1, 1)),
        parameters=sum(weight.numel() for weight in unit.parameters()),
        dilation=max((one.dilation[0] for one in convolutions), default=1),
        expansion=depthwise[0].in_channels // source.shape[1] if is_block and depthwise else 0,
        reads=reads,
    )


def _merged(found: list[Stage], join: Callable) -> list[Stage]:
    """Merge each stage into the one before it where ``join(before, stage)`` returns a stage.

    The stage must read the one before it and nothing else, and no other stage may read that one.
    """
    readers = [sum(k in one.reads for one in found) for k in range(len(found))]
    kept: list[Stage] = []
    place: list[int] = []  # for each stage of ``found``, its index in ``kept``
    for k, stage in enumerate(found):
        alone = stage.reads == (k - 1,) and readers[k - 1] == 1
        if alone and (one := join(kept[-1], stage)):
            kept[-1] = one
        else:
            reads = tuple(place[read] for read in stage.reads)
            kept.append(dataclasses.replace(stage, reads=reads))
        place.append(len(kept) - 1)
    return kept


def _together(before: Stage, stage: Stage, what: str, **changes: int) -> Stage:
    return dataclasses.replace(
        stage,
        what=what,
        parameters=before.parameters + stage.parameters,
        multiply_adds=before.multiply_adds + stage.multiply_adds,
        dilation=max(before.dilation, stage.dilation),
        reads=before.reads,
        **changes,
    )


def _separable(before: Stage, stage: Stage) -> Stage | None:
    """Join a depthwise convolution and the 1x1 convolution after it: a separable convolution."""
    if not before.what.startswith("depthwise") or stage.what != "conv 1×1":
        return None
    return _together(before, stage, before.what.replace("depthwise", "separable"))


def _repeated(before: Stage, stage: Stage) -> Stage | None:
    alike = ("what", "channels", "dilation")
    if before.pool or any(getattr(before, name) != getattr(stage, name) for name in alike):
        return None
    if not stage.pool and before.height != stage.height:
        return None
    expansion = stage.expansion if before.expansion == stage.expansion else 0
    repeats = before.repeats + 1
    return _together(before, stage, stage.what, repeats=repeats, expansion=expansion)


def totals(found: list[Stage]) -> dict[str, float]:
    """Return the sums of ``parameters`` and ``multiply_adds``, and the largest other values.

    ``multiply_adds`` are for one image. ``stride`` is that of the coarsest map of more than one
    pixel, ``dilation`` the largest of all convolutions.
    """
    return {
        "parameters": sum(stage.parameters for stage in found),
        "multiply_adds": sum(stage.multiply_adds for stage in found),
        "stride": max(found[0].height / stage.height for stage in found if stage.height > 1),
        "dilation": max(stage.dilation for stage in found),
    }


def drawing(found: list[Stage], *, shortcut: bool = False) -> Figure:
    """Draw the stages from top to bottom, with their parameters and multiply-adds.

    Branches are side by side. With ``shortcut``, a line leads from the input past all stages to a
    sum at the end.
    """
    rows = _rows(found)
    heights = [HIGH if len(row) == 1 else BRANCH for row in rows]
    height = sum(heights) + GAP * len(rows) + 0.62
    figure, axes = charts.panel(WIDTH, height, axes=False)
    top = height - 0.34
    for x, name in zip(COLUMNS, ("params", "mult-adds"), strict=True):
        charts.label(axes, x, top + 0.12, name, ha="right")
    lower_edges: dict[int, tuple[float, float]] = {}  # their middles, for boxes in the row above
    for row, high in zip(rows, heights, strict=True):
        step = (WIDTH - 2 * LEFT) / len(row)
        wide, bottom = (BOX if len(row) == 1 else step - 0.05), top - high
        edges = {}
        for place, index in enumerate(row):
            stage, x = found[index], LEFT + place * step
            middle = x + wide / 2
            above = [lower_edges[read] for read in stage.reads if read in lower_edges]
            afar = [found[read] for read in stage.reads if read not in lower_edges]
            notes = [f"reads {one.shape}" for one in afar]
            if len(row) > 1:
                _branch(axes, (x, bottom, wide, high), stage, notes)
            else:
                details = ", ".join([_detail(stage, found[0].height / stage.height), *notes])
                charts.box(axes, x, bottom, wide, high, stage.title, details, series=_series(stage))
                _numbers(axes, bottom + high / 2, stage.parameters, stage.multiply_adds)
            edges[index] = (middle, bottom)
            for end in above:  # several arrows spread out along the upper edge of the box
                aim = middle if len(above) == 1 else middle + (end[0] - middle) * 0.35
                charts.arrow(axes, end, (aim, top))
        lower_edges, top = edges, bottom - GAP
    whole = totals(found)
    charts.label(axes, LEFT, top + 0.02, "total", size=9, colour=charts.INK, ha="left")
    _numbers(axes, top + 0.02, whole["parameters"], whole["multiply_adds"])
    if shortcut:
        (start, x), end = (height - 0.34 - HIGH - GAP / 2, LEFT + BOX + 0.1), top + GAP - 0.06
        middle = LEFT + BOX / 2
        axes.plot([middle, x, x], [start, start, end], color=charts.MUTED, linewidth=1.1)
        charts.arrow(axes, (x, end), (middle, end))
        charts.label(axes, x - 0.06, end - 0.1, "+ shortcut", ha="right", va="baseline")
    return figure


def _rows(found: list[Stage]) -> list[list[int]]:
    """Group the indices of the stages into rows; stages in one row do not read each other."""
    rows: list[list[int]] = [[0]]
    for k, stage in enumerate(found[1:], 1):
        if set(stage.reads) & set(rows[-1]):
            rows.append([k])
        else:
            rows[-1].append(k)
    return rows


def _detail(stage: Stage, stride: float) -> str:
    stride_words = f", stride {stride:g}" if stride > 1 and stage.height > 1 else ""
    expansion = f", expansion {stage.expansion}" if stage.expansion > 1 else ""
    dilation = f", dilation {stage.dilation}" if stage.dilation > 1 else ""
    return f"{stage.shape}{stride_words}{expansion}{dilation}"


def _numbers(axes: Axes, y: float, parameters: float, multiply_adds: float) -> None:
    for x, count in zip(COLUMNS, (parameters, multiply_adds), strict=True):
        charts.label(axes, x, y, short(count), size=9, colour=charts.INK, ha="right")


def _branch(
    axes: Axes, box: tuple[float, float, float, float], stage: Stage, notes: list[str]
) -> None:
    """Draw a narrow box with one line each for layer, channels, parameters and multiply-adds."""
    x, y, wide, high = box
    charts.box(axes, x, y, wide, high, "", series=_series(stage))
    dilation = [f"dilation {stage.dilation}"] if stage.dilation > 1 else []
    details = [*dilation, f"{stage.channels} ch.", *notes]
    numbers = [short(stage.parameters), short(stage.multiply_adds)]
    title = stage.title.replace("separable ", "separable, ").split(", ")
    lines = [(text, charts.INK) for text in title]
    lines += [(text, charts.MUTED) for text in details]
    lines += [(text, charts.INK) for text in numbers]
    for index, (text, colour) in enumerate(lines):
        place = y + high * (1 - (index + 0.6) / (len(lines) + 0.2))
        charts.label(axes, x + wide / 2, place, text, colour=colour)


def _series(stage: Stage) -> int | None:
    """Return the ``series`` of a box: 1 if it is dilated, 0 if not, None if it has no weights."""
    return (1 if stage.dilation > 1 else 0) if stage.parameters else None


def short(count: float) -> str:
    """Write a count with three digits and a unit, such as 14.7 M; "" for 0."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            digits = 2 - int(math.log10(count / factor))
            return f"{count / factor:.{max(0, digits)}f} {unit}"
    return f"{count:g}" if count else ""
