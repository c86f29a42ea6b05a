"""The section on problem 3: the networks, their IoU by class, their training and their masks."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from p3 import data
from p3.model import OF_MODEL, build
from report import network, recipes
from report import problem3_figures as figures
from report.measures import Computed, Site
from report.original import SCORES
from report.page import (
    Block,
    Code,
    Drawing,
    Gap,
    Grid,
    Heading,
    Parts,
    Table,
    Text,
    logged,
    scored,
    unfinished,
)
from report.problem3_masks import hardest, masks
from report.runs import RunLog

SIZE = 512  # side of the course's images in pixels
NAMES = {
    "A": "VGG16-FCN32s",
    "B": "DeepLabv3 on MobileNetV3-Large",
    "C": "DeepLabv3+ on EfficientNet-Lite0",
}
MAKE = {
    "A": "python3 -m p3.pretrain --model A && python3 -m p3.train --model A --recipe best",
    "B": "python3 -m p3.pretrain --model B && python3 -m p3.train --model B --recipe best",
    "C": "python3 -m p3.train --model C --recipe best",
}
CAPTIONS = {
    "A": "Model A. The dense layers fc6 and fc7 of VGG16 become convolutions. One transposed "
    "convolution brings the class scores to the resolution of the image.",
    "B": "Model B. SE stands for squeeze and excitation. In atrous spatial pyramid pooling (ASPP), "
    "five parallel branches read the same map: three are 3×3 convolutions of different dilation, "
    "and one takes the mean of the map. Their outputs are concatenated.",
    "C": "Model C. ASPP with separable convolutions (each channel by itself, then a 1×1 "
    "convolution). Its output is enlarged and concatenated with the backbone's features of "
    "stride 4.",
}


def section(site: Site) -> list[Block]:
    runs = {model: run for model in NAMES if (run := site.chosen(f"p3_{model}_*"))}
    models = ", ".join(f"model {model} is {name}" for model, name in NAMES.items())
    blocks: list[Block] = [
        Heading("Problem 3: land cover in satellite images"),
        Text(
            "Each pixel of a 512×512 satellite image belongs to one of seven classes. The score is "
            "the mean IoU of the six classes other than unknown, with the pixels of all validation "
            f"images counted together. {models[0].upper()}{models[1:]}."
        ),
        *(
            Gap(f"a run of model {model}, {name}.", MAKE[model])
            for model, name in NAMES.items()
            if model not in runs
        ),
        *networks(site, runs),
    ]
    for part in (scores, training, masks, hardest) if runs else ():
        blocks += part(site, runs)
    return blocks


def networks(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    """Draw the networks from the models themselves, and tabulate their sizes."""
    with torch.device("meta"):
        made = {model: build(OF_MODEL[model]) for model in NAMES}
        published = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None)
    stages = {
        model: network.stages(lambda model=model: build(OF_MODEL[model]), (3, SIZE, SIZE))
        for model in NAMES
    }
    crops = {model: runs[model].metadata["recipe"].get("crop") or SIZE for model in runs}
    dilated = {  # model -> its pyramid's dilated branches, which all read the same map
        model: [
            one
            for one in found
            if one.dilation > 1 and sum(other.reads == one.reads for other in found) > 1
        ]
        for model, found in stages.items()
    }

    def compute() -> Computed:
        numbers = {"published_momentum": momentum(published)}
        for model, found in stages.items():
            numbers |= {f"{model}_{name}": number for name, number in network.totals(found).items()}
            numbers[f"{model}_billions"] = numbers[f"{model}_multiply_adds"] / 1e9
            if (least := momentum(made[model])) is not None:
                numbers[f"{model}_momentum"] = least
            for one in dilated[model]:
                for size in {SIZE, crops.get(model, SIZE)}:
                    taps = on_the_map(one.dilation, one.height * size // SIZE)
                    numbers[f"{model}_dilation_{one.dilation}_taps_of_{size}"] = taps
        return numbers

    counted = site.measures.of("p3/networks", [], compute)
    yield Heading("The networks", 3)
    yield Text(
        "The drawings are made from the models themselves: a forward pass of one 512×512 image "
        "gives every shape. A box names its layers and the shape of their output, channels × "
        "height×width. To its right are its parameters and the multiply-adds of its convolutions. "
        "Orange boxes have dilated convolutions."
    )
    yield Grid(
        *(
            Drawing(
                network.drawing(found),
                CAPTIONS[model],
                f"{NAMES[model]}: {', '.join(stage.title for stage in found)}",
            )
            for model, found in stages.items()
        )
    )
    columns = {
        model: {
            what: counted.value(f"{model}_{name}", digits)
            if f"{model}_{name}" in counted.numbers
            else "none"
            for what, name, digits in (
                ("parameters", "parameters", 0),
                ("multiply-adds per image, billions", "billions", 1),
                ("stride of the coarsest map", "stride", 0),
                ("largest dilation", "dilation", 0),
                ("smallest momentum of a BatchNorm", "momentum", 2),
            )
        }
        for model in NAMES
    }
    yield recipes.table(
        counted.words(
            "The networks for 7 classes. The momentum is the share of one batch in the running "
            "statistics that evaluation uses. With torchvision's momentum for B, "
            "{published_momentum:2}, these lag far behind the weights in a short training from "
            "scratch."
        ),
        columns,
    )
    rows = []
    for model, branches in dilated.items():
        size = crops.get(model, SIZE)
        for one in branches:
            key = f"{model}_dilation_{one.dilation}_taps_of"
            rows.append(
                {
                    "branch": f"{model}, dilation {one.dilation}",
                    f"{SIZE}×{SIZE}": counted.value(f"{key}_{SIZE}", 2),
                    "crop": counted.value(f"{key}_{size}", 2) if size != SIZE else "-",
                }
            )
    yield Table(
        "How many of the nine taps of a dilated kernel fall on the map and not on its padding, on "
        "average over the map. The last column is for a crop, if training uses crops. At a value "
        "of 1, only the centre of the kernel is left: the other eight taps see zeros and do not "
        "learn.",
        rows,
        tuple(runs[model] for model in runs if dilated[model]),
    )


def momentum(model: nn.Module) -> float | None:
    """Return the smallest momentum of the model's BatchNorms; None if it has none."""
    layers = (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return min((layer.momentum for layer in layers), default=None)


def on_the_map(dilation: int, side: int) -> float:
    """Return how many of the 9 taps of a dilated 3x3 kernel fall on a square map, on average.

    The others fall on the padding. ``side``: that of the map. Chen et al. 2017, "Rethinking Atrous
    Convolution", section 3.3 and figure 4: at a rate near the side, only the centre is left.
    """
    return (1 + 2 * max(0, side - dilation) / side) ** 2


def scores(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    yield Heading("IoU of each class", 3)
    columns = {}
    for model, run in runs.items():
        lines = {"last": run.last, "best": run.best}
        if run.best is run.last:
            lines = {"last and best": run.last}
        for which, line in lines.items():
            columns[f"{model} {which}" if len(lines) > 1 else model] = {
                **{
                    name: logged(run, line, f"iou_{name}") if f"iou_{name}" in line else "-"
                    for name in data.CLASSES[: data.UNKNOWN]
                },
                "mean": logged(run, line, "mean_iou"),
                "epoch": f"{line['epoch']}, {which}",
                "original report's mean": str(SCORES.get(f"p3_{model}", "-")),
                "our initial weights": initial(run),
            }
    yield recipes.table(
        "Validation IoU, as logged during training. The best epoch was chosen on the same images, "
        "so its scores are too optimistic.",
        columns,
        runs.values(),
        corner="class",
    )
    others = [run for model in NAMES for run in site.named(f"p3_{model}_*")]
    if len(others) > len(runs):
        yield Table(
            "Mean IoU of every run.",
            [
                {
                    "run": Code(run.name),
                    "last epoch": (*scored(run, run.last, "mean_iou"), run.marks),
                    "best epoch": scored(run, run.best, "mean_iou"),
                    "initial weights": initial(run),
                }
                for run in others
            ],
            tuple(others),
        )
    yield from (unfinished(run) for run in others if not run.is_finished)


def initial(run: RunLog) -> Parts:
    """Say in a table cell where a run's initial weights came from."""
    source = run.pretrained
    if source == "imagenet":
        return "ImageNet, backbone only"
    return (Code(source),) if source else "random, from scratch"


def training(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    yield Heading("Training curves and recipes", 3)
    every = tuple(runs.values())
    curves = list(recipes.curves(site, runs, "mean_iou"))
    for model, run in runs.items():
        alt = f"IoU of the six classes over the epochs, model {model}"
        chain = site.chain(run)
        figure = figures.class_curves(chain)
        curves.append(Drawing(figure, f"IoU of each class, model {model}.", alt, tuple(chain)))
    yield Grid(*curves)
    yield recipes.table(
        "How the models were trained, from run.json.",
        {model: recipes.made(site, run, initial(run)) for model, run in runs.items()},
        every,
    )
