"""Problem 1's section, first part: the network, drawn from the model itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torchvision.models import MobileNetV2

from p1.model import mobilenet_v2
from report import architecture
from report.measures import Site
from report.page import Block, Drawing, Grid, Heading, Text


def network(site: Site) -> Iterator[Block]:
    model, published = mobilenet_v2(50), MobileNetV2(num_classes=50, width_mult=1.4)

    def compute() -> tuple[dict[str, float], dict[str, np.ndarray]]:
        usual = architecture.totals(published)
        return architecture.totals(model) | {"published halvings": usual["halvings"]}, {}

    counted = site.measures.of("p1/network", [], compute)
    yield Heading("The network", 3)
    yield Text(
        "MobileNetV2 (Sandler et al. 2018) with 1.4 times its channels: ", counted.value("blocks", 0),
        " inverted residual blocks in ", counted.value("stages of residuals", 0), " stages between two convolutions, the mean "
        "over all pixels, which gives the ", counted.value("features", 0), " features, dropout of ",
        counted.value("dropout", 1), " in training and a linear layer. The resolution is halved ",
        counted.value("halvings", 0), " times, as the images are small; in the network as published ",
        counted.value("published halvings", 0), " times. In all ", counted.value("parameters", 0), " parameters and ",
        counted.value("multiply-adds", 0), " multiply-adds an image.",
    )  # fmt: skip
    found = architecture.stages(model)
    block = next(block for block in model.features if getattr(block, "use_res_connect", False))
    alt = ", ".join(
        f"{stage.repeats} {stage.what} to {stage.channels}x{stage.size}x{stage.size}"
        for stage in found
    )
    yield Grid(
        Drawing(
            architecture.drawing(found),
            "The stages, drawn from the model that the code makes: shapes by hooks on a forward pass, parameters and "
            "multiply-adds (those of convolutions and of the linear layer) counted. The stride is that of a stage's first "
            "block, which has no shortcut; the others have one and stride 1.",
            f"The network from top to bottom: {alt}",
        ),
        Drawing(
            architecture.block_drawing(block),
            "The first block with a shortcut, from the inside: the channels are expanded, filtered each by itself, and "
            "projected back without a nonlinearity. First blocks of stages lack the shortcut; of expansion 1, the first layer.",
            "A block: 1x1 convolution, 3x3 depthwise convolution, 1x1 convolution, and a shortcut round them",
        ),
    )
