"""The part of problem 1's section that needs the validation images: projections and mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix
from torch import Tensor

from p1 import data
from report import problem1_figures as figures
from report import projections as projected
from report.measures import FETCH, Computed, Measured, Site
from report.page import (
    Block,
    Code,
    Drawing,
    Gap,
    Grid,
    Heading,
    Points,
    Table,
    Text,
    logged,
)
from report.recipes import through
from report.runs import RunLog, Stage, kept_stages, runs_of

PAIRS, WORST = 8, 12


@dataclasses.dataclass(frozen=True)
class Images:
    """The validation set.

    ``tensor``: (N, 3, 32, 32) uint8. ``pixels``: the same as (N, 32, 32, 3). ``labels``: (N,)
    int64.
    """

    folder: Path
    tensor: Tensor
    pixels: np.ndarray
    labels: np.ndarray
    paths: list[Path]


def read(site: Site) -> Images | None:
    folder = site.data / "p1_data" / "val_50"
    if not folder.is_dir():
        return None
    tensor, labels, paths = data.load(folder)
    return Images(folder, tensor, tensor.permute(0, 2, 3, 1).numpy(), labels.numpy(), paths)


def projections(site: Site, run: RunLog, images: Images | None) -> Iterator[Block]:
    yield Heading("The features during training", 3)
    stages = kept_stages(site.chain(run))
    if images is None:
        yield Gap("the features of the validation images, as the images are not here.", FETCH)
    elif len(stages) < 2:
        yield Gap(f"checkpoints of {run.name} from two or more epochs.", run.metadata["command"])
    elif not 1 < len(np.unique(images.labels)) < len(images.labels):
        yield Gap(f"several classes with several images each in {images.folder}.", FETCH)
    else:
        measured = {epoch: measure(site, stage, images) for epoch, stage in stages.items()}
        yield from pictures(stages, measured, images)
        yield from separation(site, stages, measured, images)


def measure(site: Site, stage: Stage, images: Images) -> Measured:
    """Project the features of a checkpoint by PCA and by t-SNE, and measure both."""

    def compute() -> Computed:
        features = figures.features(stage.path, images.tensor, site.device)
        neighbours = projected.neighbour_accuracy(features, images.labels)
        found: Computed = {"features neighbours": neighbours}
        for name, project in (("pca", projected.pca), ("tsne", projected.tsne)):
            xy, numbers = project(features)
            numbers |= projected.separation(xy, images.labels)
            found[name] = xy.astype(np.float32)
            found |= {f"{name} {what}": number for what, number in numbers.items()}
        return found

    return site.measures.of(f"{stage.key}/projections", [stage.path, images.folder], compute)


def pictures(
    stages: dict[int, Stage], measured: dict[int, Measured], images: Images
) -> Iterator[Block]:
    first = next(iter(measured.values()))
    yield Text(
        "The features of every validation image, that is, the input of the last layer. They are "
        "from up to three kept epochs of ",
        *through(runs_of(stages)),
        *first.words(
            " and are projected to two dimensions: by PCA, which is linear, and by t-SNE "
            "(perplexity {tsne perplexity:0}, seed {tsne seed:0}, starting from PCA's picture). A "
            "class has the same colour in all pictures. Point at a dot to see its image. The table "
            "below explains the numbers under the pictures."
        ),
    )
    colours = projected.palette(len(data.CLASSES))
    classes = tuple(f"class {name}" for name in data.CLASSES)
    for epoch, one in measured.items():
        captions = {
            "pca": (
                f"PCA, epoch {epoch}",
                ": the axes explain {pca explained 1:3} and {pca explained 2:3} of the variance; "
                "neighbours {pca neighbours:3}; silhouette {pca silhouette:3}.",
            ),
            "tsne": (
                f"t-SNE, epoch {epoch}",
                ": divergence {tsne divergence:3}; neighbours {tsne neighbours:3}; "
                "silhouette {tsne silhouette:3}.",
            ),
        }
        yield Grid(
            *(
                Points(
                    xy=one.arrays[name],
                    labels=images.labels,
                    classes=classes,
                    colours=colours,
                    images=images.pixels,
                    caption=(title, *one.words(template)),
                    alt=f"Scatter plot of the validation images by {name}, epoch {epoch}",
                    runs=(stages[epoch].run,),
                )
                for name, (title, template) in captions.items()
            )
        )


def separation(
    site: Site, stages: dict[int, Stage], measured: dict[int, Measured], images: Images
) -> Iterator[Block]:
    names = {"features": "features", "pca": "PCA", "tsne": "t-SNE"}
    by = {name: [one.numbers[f"{name} neighbours"] for one in measured.values()] for name in names}

    def compute() -> Computed:
        found = projected.finding(by["pca"], by["tsne"], by["features"], len(images.labels))
        return {"nearest": projected.NEIGHBOURS, **found}

    found = site.measures.of("p1/separation", [], compute)
    rows = [
        {
            "epoch": str(epoch),
            "accuracy": logged(stages[epoch].run, stages[epoch].line, "accuracy"),
            **{what: one.value(f"{name} neighbours", 3) for name, what in names.items()},
        }
        for epoch, one in measured.items()
    ]
    yield Table(
        found.words(
            "How well the classes are separated, judged by neighbours: the share of images whose "
            "label is the most frequent among the {nearest:0} nearest other images by Euclidean "
            "distance, in the full features and in each picture. The silhouette, given under the "
            "pictures, is 1 for classes that are far apart and below 0 for classes that are mixed."
        ),
        rows,
        tuple(runs_of(stages)),
    )
    yield Text(
        *found.words(
            "By this measure, PCA's picture has less than half the score of the full features at "
            "{little:0} of {stages:0} stages. t-SNE's picture improves by more than chance in "
            "{rises:0} of {steps:0} steps from stage to stage, and is better than PCA's by more "
            "than chance at {ahead:0} of {stages:0} stages (the 95 % intervals do not overlap). "
        ),
        verdict(found.numbers),
    )


def verdict(found: dict[str, float]) -> str:
    """Return the conclusion that the numbers of ``projections.finding`` allow."""
    claim = (
        "the original report's finding, that PCA separates the classes little at any stage and "
        "t-SNE more and more during training,"
    )
    if found["little"] == found["ahead"] == found["stages"] and found["rises"] == found["steps"]:
        return f"So {claim} holds here."
    if not found["little"] or not found["rises"] or not found["ahead"]:
        return f"So {claim} does not hold here."
    return f"So {claim} holds here only in part."


def mistakes(site: Site, run: RunLog, images: Images | None) -> Iterator[Block]:
    yield Heading("Model A's mistakes", 3)
    if images is None:
        yield Gap("the predictions on the validation images, as the images are not here.", FETCH)
        return
    if not run.checkpoint.is_file():
        yield Gap(f"the last checkpoint of {run.name}.", run.metadata["command"])
        return
    measured = predictions(site, run, images)
    predicted, confidence = measured.arrays["predicted"], measured.arrays["confidence"]
    matrix, pairs, worst = mistaken(images.labels, predicted, confidence)
    yield Text(
        "The predictions of ",
        Code("last.pt"),
        " in float32, made as ",
        Code("hw1_1.sh"),
        *measured.words(" does: accuracy {accuracy}, {right:0} of {count:0} correct. "),
        "The accuracy logged during training, in the number format of the training, is ",
        logged(run, run.last, "accuracy"),
        ".",
    )
    yield Drawing(
        figures.confusion_drawing(matrix),
        "Confusion matrix: correct predictions are blue, mistakes orange. The colour is stronger "
        "for a larger share of the true class, but not in proportion, so that single mistakes "
        "can be seen.",
        f"Confusion matrix of {len(matrix)} classes; the table below it has its largest counts "
        "off the diagonal",
        (run,),
    )
    if not pairs:
        return
    yield Table(
        "The most frequent mistakes.",
        [
            {
                "true class": str(true),
                "taken for": str(taken),
                "images": measured.value(f"{true} taken for {taken}", 0),
            }
            for true, taken in pairs
        ],
        (run,),
    )
    titles = [f"{images.labels[k]} → {predicted[k]}" for k in worst]
    confidences = [f"{confidence[k]:.3f}" for k in worst]
    yield Grid(
        Drawing(
            figures.pairs_drawing(images.pixels, images.labels, predicted, confidence, pairs),
            "The same pairs. Left: images of the true class that were taken for the other class. "
            "Right: images of that other class that were recognised. Both sides show the images "
            "with the highest confidence.",
            "Images of the most confused pairs: "
            f"{', '.join(f'{true} taken for {taken}' for true, taken in pairs)}",
            (run,),
        ),
        Drawing(
            figures.mistakes_drawing(images.pixels[worst], titles, confidences),
            "The worst mistakes: wrong predictions with the highest confidence, which is the "
            "largest softmax value. True class → predicted class.",
            f"Images of the worst mistakes: {', '.join(titles)}",
            (run,),
        ),
    )
    yield Table(
        "The worst mistakes by file.",
        [
            {
                "image": Code(images.paths[k].name),
                "true": str(images.labels[k]),
                "predicted": str(predicted[k]),
                "confidence": measured.value(f"confidence {images.paths[k].name}", 3),
            }
            for k in worst
        ],
        (run,),
    )


def mistaken(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray
) -> tuple[np.ndarray, list[tuple[int, int]], np.ndarray]:
    """Return the confusion matrix, its most confused pairs, and the worst mistakes' indices."""
    matrix = confusion_matrix(labels, predicted, labels=range(len(data.CLASSES)))
    worst = figures.most_confident(predicted != labels, confidence, WORST)
    return matrix, figures.confused_pairs(matrix, PAIRS), worst


def predictions(site: Site, run: RunLog, images: Images) -> Measured:
    def compute() -> Computed:
        made = figures.predictions(run.checkpoint, images.tensor, site.device)
        right = made["predicted"] == images.labels
        matrix, pairs, worst = mistaken(images.labels, **made)
        return {
            "accuracy": right.mean(),
            "right": right.sum(),
            "count": len(right),
            **{f"{true} taken for {taken}": matrix[true, taken] for true, taken in pairs},
            **{f"confidence {images.paths[k].name}": made["confidence"][k] for k in worst},
            **made,
        }

    made_from = [run.checkpoint, images.folder]
    return site.measures.of(f"{run.key()}/predictions", made_from, compute)
