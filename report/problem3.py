"""Problem 3's section: the two networks, their IoU by class, how they trained, and their masks (``problem3_masks``)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from p3 import data
from p3.model import ARCHITECTURES, OF_MODEL
from report import charts
from report import network as networks
from report import problem3_figures as figures
from report.measures import Site
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
    unfinished,
)
from report.problem3_masks import hardest, masks
from report.runs import RunLog

NAMES = {"A": "VGG16-FCN32s", "B": "DeepLabv3 on MobileNetV3-Large"}
MAKE = {model: f"python3 -m p3.train --model {model} --recipe hour" for model in NAMES}
ORIGINAL = {"A": "0.6257", "B": "0.7341, from COCO weights"}  # the original report's mean IoU


def section(site: Site) -> list[Block]:
    runs = {model: run for model in NAMES if (run := site.chosen(f"p3_{model}_*"))}
    return [
        Heading("Problem 3: land cover in satellite images"),
        Text(
            "Each pixel of a 512×512 satellite image gets one of seven classes. The score is the mean IoU of the six classes "
            "but unknown, their pixels counted over all validation images together. Model A is VGG16-FCN32s, model B is "
            "DeepLabv3 on MobileNetV3-Large. Where a model has several runs, the one with the best last epoch is shown, of the "
            "finished ones if there are any. So it is chosen by a validation score."
        ),
        *(
            Gap(f"a run of model {model}, {name}.", MAKE[model])
            for model, name in NAMES.items()
            if model not in runs
        ),
        *drawn(site, runs),
        *scores(site, runs),
        *training(runs),
        *masks(site, runs),
        *hardest(site, runs),
    ]


def drawn(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    def at(model: str, size: int) -> list[networks.Stage]:
        with torch.device("meta"):
            return networks.stages(ARCHITECTURES[OF_MODEL[model]](), size)

    stages = {model: at(model, networks.SIZE) for model in NAMES}
    crop = runs["B"].about["recipe"]["crop"] if "B" in runs else 0
    sizes = [networks.SIZE, *([crop] if crop and crop != networks.SIZE else [])]

    def compute() -> tuple[dict[str, float], dict[str, np.ndarray]]:
        numbers: dict[str, float] = {}
        for model, found in stages.items():
            numbers[f"{model}_parameters"] = sum(stage.parameters for stage in found)
            numbers[f"{model}_billion_multiply_adds"] = (
                sum(stage.multiply_adds for stage in found) / 1e9
            )
            numbers[f"{model}_stride"] = max(stage.stride for stage in found)
            numbers[f"{model}_largest_dilation"] = max(stage.dilation for stage in found)
        with torch.device("meta"):
            ours, published = (
                ARCHITECTURES[OF_MODEL["B"]](),
                deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None),
            )
        numbers |= {
            "B_momentum": figures.momentum(ours),
            "published_momentum": figures.momentum(published),
        }
        for size in sizes:
            for stage in at("B", size):
                if stage.branch and stage.dilation > 1:
                    numbers[f"{stage.name}_taps_of_{size}".replace(" ", "_")] = networks.on_the_map(
                        stage.dilation, stage.height
                    )
        return numbers, {}

    counted = site.measures.of("p3/networks", [], compute)
    yield Heading("The two networks", 3)
    yield Text(
        "Drawn from the models themselves: a forward pass of one 512×512 image gives every shape. A box says what it is and "
        "its output, as channels × height×width. At its right are its parameters and the multiply-adds of its convolutions. "
        "Orange: with dilated convolutions."
    )
    captions = {
        "A": "Model A. Dense layers fc6 and fc7 of VGG16 are convolutions; one transposed convolution brings the scores of the "
        "classes to the pixels.",
        "B": "Model B. Blocks are inverted residual blocks with the depthwise kernel named; SE: with squeeze and excitation. "
        "Below them atrous spatial pyramid pooling (ASPP): five branches side by side read the same map, three of them 3×3 "
        "convolutions of different dilation rates, one the map's mean; they are concatenated.",
    }
    yield Grid(
        *(
            Drawing(
                networks.drawing(found),
                captions[model],
                f"{NAMES[model]}: {', '.join(stage.name for stage in found)}",
            )
            for model, found in stages.items()
        )
    )
    rows: list[tuple[Parts, ...]] = [
        ("parameters", *(counted.value(f"{model}_parameters", 0) for model in NAMES)),
        (
            "multiply-adds of an image, billions",
            *(counted.value(f"{model}_billion_multiply_adds", 1) for model in NAMES),
        ),
        ("coarsest map, stride", *(counted.value(f"{model}_stride", 0) for model in NAMES)),
        ("largest dilation", *(counted.value(f"{model}_largest_dilation", 0) for model in NAMES)),
    ]
    momenta = (
        counted.value("B_momentum", 2),
        "; torchvision's ",
        counted.value("published_momentum", 2),
    )
    rows.append(("least momentum of a BatchNorm", "has none", momenta))
    caption = (
        "Both networks for 7 classes. The momentum is a batch's share in the statistics that evaluation uses: with "
        "torchvision's these lag far behind the weights in a short training from scratch."
    )
    yield Table(caption, ("", *NAMES), rows)
    rates = [stage.name for stage in stages["B"] if stage.branch and stage.dilation > 1]
    rows = [
        (rate, *(counted.value(f"{rate}_taps_of_{size}".replace(" ", "_"), 2) for size in sizes))
        for rate in rates
    ]
    yield Table(
        "How many of a dilated kernel's nine taps fall on the map and not on its padding, in the mean over the map, for an "
        + (
            f"image and for a {crop}×{crop} crop as in the training. At a "
            if len(sizes) > 1
            else "image. At a "
        )
        + "value of 1 only the kernel's centre is left: the other eight see zeros and do not learn.",
        ("branch", *(f"{size}×{size}" for size in sizes)),
        rows,
        (runs["B"],) if len(sizes) > 1 else (),
    )


def scores(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    if not runs:
        return
    yield Heading("IoU of each class", 3)
    lines = []  # (column's name, model, run, line of its log, which that is)
    for model, run in runs.items():
        if run.best is run.last:
            lines.append((model, model, run, run.last, "last and best"))
        else:
            lines.append((f"{model} last", model, run, run.last, "last"))
            lines.append((f"{model} best", model, run, run.best, "best"))
    rows: list[tuple[Parts, ...]] = []
    for name in data.CLASSES[: data.UNKNOWN]:
        ious = (
            logged(run, line, f"iou_{name}") if f"iou_{name}" in line else "-"
            for _, _, run, line, _ in lines
        )
        rows.append((name, *ious))
    rows.append(("mean", *(logged(run, line, "mean_iou") for _, _, run, line, _ in lines)))
    rows.append(("epoch", *(f"{line['epoch']}, {which}" for *_, line, which in lines)))
    rows.append(("original report's mean", *(ORIGINAL[model] for _, model, *_ in lines)))
    rows.append(("initial weights of ours", *(initial(run) for _, _, run, *_ in lines)))
    yield Table(
        "Validation IoU, as logged in training. The best epoch was chosen on the same images, which flatters it.",
        ("class", *(name for name, *_ in lines)),
        rows,
        tuple(runs.values()),
    )
    others = site.named("p3_[AB]_*")
    if len(others) > len(runs):
        yield Table(
            "Mean IoU of every run.",
            ("run", "last epoch", "best epoch", "initial weights"),
            [
                (
                    (Code(run.name),),
                    (logged(run, run.last, "mean_iou"), f" ({run.last['epoch']})"),
                    (logged(run, run.best, "mean_iou"), f" ({run.best['epoch']})"),
                    initial(run),
                )
                for run in others
            ],
            tuple(others),
        )
    yield from (unfinished(run) for run in others if not run.is_finished)


def initial(run: RunLog) -> Parts:
    """Where a run's weights came from."""
    source = run.about["data"].get("pretrained", "None")
    return "random, from scratch" if source == "None" else (Code(source),)


def training(runs: dict[str, RunLog]) -> Iterator[Block]:
    if not runs:
        return
    yield Heading("How they trained", 3)
    every = tuple(runs.values())
    named = " and ".join(runs)
    curves = []
    for name, what, unit in (
        ("loss", "Training loss", "cross entropy"),
        ("mean_iou", "Validation mean IoU", "mean IoU"),
        ("lr", "Learning rate at each epoch's end", "learning rate"),
    ):
        series = {model: run.column(name) for model, run in runs.items()}
        if name != "lr" or any(len(set(values)) > 1 for _, values in series.values()):
            figure = charts.lines(series, x="epoch", y=unit)
            curves.append(
                Drawing(figure, f"{what} of {named}.", f"{what} over the epochs, {named}", every)
            )
    for model, run in runs.items():
        alt = f"IoU of the six classes over the epochs, model {model}"
        curves.append(
            Drawing(figures.class_curves(run), f"IoU of each class, model {model}.", alt, (run,))
        )
    yield Grid(*curves)
    columns = [recipe_of(run) for run in every]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    yield Table("How the runs were made, from their run.json.", ("", *runs), rows, every)


def recipe_of(run: RunLog) -> dict[str, Parts]:
    """What run.json says of a training, in words."""
    recipe = run.about["recipe"]
    warmup = f", warm-up {recipe['warmup_epochs']:g} epochs" if recipe["warmup_epochs"] else ""
    symmetry = {"square": "all eight of the square", "flip": "left and right"}
    plateau = "a tenth after 10 epochs without a lower training loss"
    return {
        "run": (Code(run.name),),
        "recipe": recipe["name"],
        "initial weights": initial(run),
        "epochs": f"{run.last['epoch']} of {recipe['epochs']}",
        "patience": str(recipe["patience"] or "none"),
        "batch": str(recipe["batch_size"]),
        "seen of an image": f"{recipe['crop']}×{recipe['crop']} at random"
        if recipe["crop"]
        else "all of it",
        "symmetries": symmetry.get(recipe["symmetry"], recipe["symmetry"]),
        "jitter: brightness, contrast, saturation, hue": ", ".join(
            f"{part:g}" for part in recipe["jitter"]
        ),
        "pixels of class unknown": "left out of the loss"
        if recipe["ignore_unknown"]
        else "in the loss",
        "optimiser": recipe["optimiser"],
        "learning rate": f"{recipe['lr']:g}, "
        + (plateau if recipe["schedule"] == "plateau" else recipe["schedule"] + warmup),
        "weight decay": f"{recipe['weight_decay']:g}{'' if recipe['decay_vectors'] else ', matrices only'}",
        "averaged weights": f"decay {recipe['average']:g}" if recipe["average"] else "no",
        "mirrored at test": "yes" if recipe["flip_test"] else "no",
        "number format": "bfloat16 where the machine has it" if recipe["bf16"] else "float32",
        "machine": run.about["device"],
    }
