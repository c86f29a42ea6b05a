"""The section on problem 1: networks, accuracies, how the models were trained, and curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from torchvision.models import MobileNetV2

from p1.data import SIZE
from p1.model import FEATURES, build, mobilenet_v2
from p1.recipes import RECIPES
from report import network, recipes
from report.measures import FETCH, Computed, Site
from report.original import SCORES
from report.page import (
    Block,
    Code,
    Drawing,
    Gap,
    Grid,
    Heading,
    Part,
    Parts,
    Table,
    Text,
    logged,
    scored,
    unfinished,
)
from report.problem1_images import Images, mistakes, projections, read
from report.runs import RunLog

NAMES = {
    "A": "MobileNetV2 from scratch",
    "B": "the same, pre-trained",
    "C": "EfficientNet-Lite0 from ImageNet weights",
}
MAKE = {
    "A": "python3 -m p1.train --model A --recipe hour",
    "B": "python3 -m p1.pretrain --recipe hour && python3 -m p1.train --model B --recipe hour",
    "C": "python3 -m p1.train --model C --recipe best",
}


def section(site: Site) -> list[Block]:
    runs = {model: run for model in NAMES if (run := site.chosen(f"p1_{model}_*"))}
    images = read(site)
    blocks: list[Block] = [
        Heading("Problem 1: small images in 50 classes"),
        Text(
            "Each image of 32×32 pixels belongs to one of 50 classes, which have numbers instead "
            "of names. The score is the accuracy on the validation images. Model A is a "
            "MobileNetV2 trained from random weights. Model B is the same network, but starts "
            "from weights that were learned elsewhere. Model C is an EfficientNet-Lite0 that "
            "starts from ImageNet weights and enlarges the images first."
        ),
        *(
            Gap(f"a run of model {model}.", command)
            for model, command in MAKE.items()
            if model not in runs
        ),
        *networks(site, runs.get("C")),
        *accuracies(site, runs, images),
    ]
    if runs:
        named = {f"model {model}": run for model, run in runs.items()}
        drawn = recipes.curves(site, named, "accuracy")
        blocks += [*implementation(site, runs), Heading("Training", 3), Grid(*drawn)]
    if run := runs.get("A"):
        blocks += [*projections(site, run, images), *mistakes(site, run, images)]
    return blocks


def networks(site: Site, run: RunLog | None) -> Iterator[Block]:
    """Draw the networks from the models themselves. ``run``: model C's run, if there is one."""
    architecture = (
        run.metadata["recipe"]["architecture"] if run else RECIPES["best"]["C"].architecture
    )
    image = (3, SIZE, SIZE)
    stages = network.stages(lambda: mobilenet_v2(50), image)
    # The published image size. In an image of 32x32, the last halvings would leave a single pixel,
    # whose stride ``totals`` does not count.
    usual = (3, 224, 224)
    published = network.stages(lambda: MobileNetV2(num_classes=50, width_mult=1.4), usual)
    of_c = network.stages(lambda: build(architecture, 50), image)
    first = stages[3]  # the first stage of several blocks; its second block has a shortcut
    shape = (first.channels, first.height, first.width)
    inside = network.stages(lambda: mobilenet_v2(50).features[3], shape, merge=False)

    def compute() -> Computed:
        residuals = [stage for stage in stages if stage.what.startswith("inverted")]
        whole = network.totals(stages)
        return whole | {
            **{f"C {name}": number for name, number in network.totals(of_c).items()},
            "blocks": sum(stage.repeats for stage in residuals),
            "features": FEATURES,
            "halvings": math.log2(whole["stride"]),
            "published halvings": math.log2(network.totals(published)["stride"]),
        }

    counted = site.measures.of("p1/network", [], compute)
    yield Heading("The networks", 3)
    yield Text(
        *counted.words(
            "Models A and B are MobileNetV2 (Sandler et al. 2018) with 1.4 times its channels: "
            "{blocks:0} inverted residual blocks between two convolutions, the mean over all "
            "pixels, which gives {features:0} features, and a linear layer. Since the images are "
            "small, the resolution is halved {halvings:0} times, and in the network as published "
            "{published halvings:0} times. The network has {parameters:0} parameters and needs "
            "{multiply_adds:0} multiply-adds per image. Model C's EfficientNet-Lite (Tan & Le "
            "2019, without squeeze and excitation) has {C parameters:0} parameters and needs "
            "{C multiply_adds:0} multiply-adds."
        )
    )
    yield Grid(
        Drawing(
            network.drawing(stages),
            "Models A and B, stage by stage, drawn from the model that the code builds. A "
            "forward pass gives the shapes. Multiply-adds are those of the convolutions and the "
            "linear layer. The first block of a stage has no shortcut; the others have one, and "
            "stride 1.",
            f"The network from top to bottom: {', '.join(stage.title for stage in stages)}",
        ),
        Drawing(
            network.drawing(of_c),
            f"Model C: {architecture}. It enlarges the image first.",
            f"The network from top to bottom: {', '.join(stage.title for stage in of_c)}",
        ),
        Drawing(
            network.drawing(inside, shortcut=True),
            "Inside the first block with a shortcut: one convolution expands the channels, the "
            "next filters each channel by itself, and the last projects them back. BatchNorm "
            "follows each convolution, and ReLU6 the first two.",
            f"A block: {', '.join(stage.title for stage in inside[1:])}, and a shortcut past them",
        ),
    )


def accuracies(site: Site, runs: dict[str, RunLog], images: Images | None) -> Iterator[Block]:
    every = {model: site.named(f"p1_{model}_*") for model in NAMES}
    yield Heading("Accuracy", 3)
    rows = []
    unmatched = []
    for model, of_model in every.items():
        for run in of_model:
            bounds: Parts | None = None
            if images and not run.is_tuned:
                key, count = f"{run.name}/interval", len(images.labels)
                bounds = site.interval(key, run, "accuracy", images.folder, count)
                if not bounds:
                    unmatched.append(run)
            rows.append(
                {
                    "model": (f"{model}, ", Code(run.name)),
                    "last epoch": (*scored(run, run.last, "accuracy"), run.marks),
                    "95 % interval": bounds or "-",
                    "best epoch": scored(run, run.best, "accuracy"),
                    "initial weights": start(site, run),
                }
            )
        if original := SCORES.get(f"p1_{model}"):
            rows.append(
                {
                    "model": f"{model}, original report",
                    "last epoch": "-",
                    "95 % interval": "-",
                    "best epoch": f"{original.value:.4f} ({original.epoch})",
                    "initial weights": "CIFAR-100: contaminated" if original.note else "random",
                }
            )
    yield Table(
        "Validation accuracy as logged during training, with the epoch in brackets. The interval "
        "is Wilson's, for the last epoch. The best epoch was chosen on the same images that it is "
        "measured on, so its accuracy is too optimistic.",
        rows,
        tuple(run for of_model in every.values() for run in of_model),
    )
    if images is None and any(every.values()):
        what = "the intervals, which need the number of validation images."
        yield Gap(what, FETCH)
    for run in unmatched:
        yield Gap(
            f"the interval of {run.name}: its accuracy cannot come from the {len(images.labels)} "
            f"images in {images.folder}.",
            run.metadata["command"],
        )
    yield from (
        unfinished(run) for of_model in every.values() for run in of_model if not run.is_finished
    )
    for model, of_model in every.items():
        if len(of_model) > 1:
            yield Text(f"Shown below for model {model}: ", Code(runs[model].name), ".")
    yield Text(
        f"The original report's {SCORES['p1_B'].value} for model B is contaminated: all images of "
        "this problem, including the validation images, are from CIFAR-100's training split, and "
        "the initial weights had been trained on that split with its labels. So this score does "
        "not measure how well the network does on images that it has not seen."
    )
    for run in every["B"]:
        yield Text(*told(site, run))


def maker(site: Site, run: RunLog) -> RunLog | None:
    """Return the run of ``p1.pretrain`` that made ``run``'s initial weights; None if absent."""
    source = run.pretrained
    of = next((log for log in site.logs if source and log.name == Path(source).parent.name), None)
    return of if of and "p1.pretrain" in of.metadata["command"] else None


def start(site: Site, run: RunLog) -> Parts:
    """Say in a table cell where a run's initial weights came from."""
    source = run.pretrained
    if source is None:
        return "random"
    if run.is_contaminated:
        return ("CIFAR-100: contaminated, ", Code(source))
    if source == "imagenet":
        return "ImageNet"
    return ("another labelled set, ", Code(source)) if maker(site, run) else (Code(source),)


def told(site: Site, run: RunLog) -> tuple[Part, ...]:
    """Return a paragraph about the weights that a run of model B started from."""
    made_by = maker(site, run)
    began = (Code(run.name), " starts from ", Code(run.pretrained or "unknown weights"))
    if run.is_contaminated:
        return (
            *began,
            ", which was trained on CIFAR-100. So its score is contaminated, like that of the "
            "original report.",
        )
    if made_by is None:
        return (*began, ". The runs here do not record what these weights were trained on.")
    return (
        *began,
        ", made by ",
        Code(made_by.metadata["command"]),
        ". This trains the same network on another labelled data set. On unseen images of that "
        "data set, the network had an accuracy of ",
        logged(made_by, made_by.last, "accuracy"),
        " in epoch ",
        logged(made_by, made_by.last, "epoch", 0),
        ". The classifier was then replaced; all other weights were kept.",
    )


def implementation(site: Site, runs: dict[str, RunLog]) -> Iterator[Block]:
    yield Heading("Implementation", 3)
    yield recipes.table(
        "How the models were trained, from run.json. In addition, every training image is "
        "mirrored with probability 1/2. The loss is cross entropy.",
        {
            f"model {model}": recipes.made(site, run, start(site, run))
            for model, run in runs.items()
        },
        runs.values(),
    )
