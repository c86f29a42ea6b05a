"""The section on problem 2, last part: how the settings differ, image by image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.files import natural
from prediction.tables import paired_bootstrap
from report import problem2_figures as figures
from report.measures import FETCH, Computed, Measured, Site
from report.original import SCORES
from report.page import Block, Drawing, Gap, Heading, Part, Table, Text
from report.problem2_pretraining import office, validation
from report.runs import RunLog

FEW = 5  # how many of the best classes are shown, and of the worst


def is_right(answer: Measured) -> np.ndarray:
    return answer.arrays["labels"] == answer.arrays["truth"]


def differences(
    site: Site, done: dict[str, RunLog], measured: dict[str, Measured]
) -> Iterator[Block]:
    yield Heading("Differences between the settings", 3)
    folder = office(site)
    if done and folder is None:
        yield Gap(
            "the settings' predictions image by image, as the images of office are not here.", FETCH
        )
    for name, run in done.items():
        if folder and name not in measured:
            yield Gap(
                f"setting {name}'s predictions image by image, as its last.pt is not here.",
                run.metadata["command"],
            )
    found = {
        name: difference(site, done, measured, name)
        for name in figures.COMPARED
        if set(name.split(" - ")) <= measured.keys()
    }
    if absent := [name for name in figures.COMPARED if name not in found]:
        yield Text(
            "These differences could not be measured, because predictions are missing (see above): "
            f"{', '.join(absent)}."
        )
    if not found or folder is None:
        return
    used = tuple(run for name, run in done.items() if name in measured)
    yield Text(
        *next(iter(measured.values())).words(
            "The table shows by how many points of accuracy the first setting is above the second. "
            "Both are measured on the same {images:0} images (office/val), in float32. The "
            "interval comes from a paired bootstrap: 10,000 resamples of the images, seed 0. A "
            "difference is called clear only if its interval does not contain 0. The interval "
            "covers the choice of images. It does not cover the choice of the seed, as each "
            "setting was trained only once."
        )
    )
    known = figures.digests(folder)
    if any(run.metadata["data"]["val"] not in known for run in used):
        yield Text(
            "The digest of the validation set in the run.json of some of these runs does not match "
            "the images and labels here (for older runs: the names, sizes and times of the files)."
        )
    rows = []
    for name, one in found.items():
        first, second = name.split(" - ")
        above, below = (first, second) if one.numbers["points"] > 0 else (second, first)
        rows.append(
            {
                "difference": f"{name}: {figures.COMPARED[name]}",
                "points": signed(one, "points"),
                "95 % interval": interval(one),
                "finding": f"clear: {above} above {below}" if is_clear(one) else "not clear",
                "original report": f"{100 * original(name):+.1f}",
            }
        )
    yield Table(
        "Differences between the settings. Those in the last column are for other data.", rows, used
    )
    yield Drawing(
        figures.difference_chart(
            {
                name: tuple(one.numbers[end] for end in ("points", "low", "high"))
                for name, one in found.items()
            }
        ),
        "The same differences, drawn. An interval that contains 0 is grey.",
        "A dot and its interval for each difference",
        used,
    )
    yield Text(*summary(found))
    if others := [name for name in figures.other_starts(done) if name in found]:
        yield Text(
            "In these differences, the two settings started from different backbone files. So they "
            f"also contain the difference between two pre-training runs: {', '.join(others)}."
        )


def difference(
    site: Site, done: dict[str, RunLog], measured: dict[str, Measured], name: str
) -> Measured:
    """Measure a difference, ``points``, and its interval, ``low`` to ``high``, all times 100."""
    first, second = name.split(" - ")

    def compute() -> Computed:
        ends = paired_bootstrap(is_right(measured[first]), is_right(measured[second]))
        return {name: 100 * end for name, end in zip(("points", "low", "high"), ends, strict=True)}

    key = f"{done[first].key()}/minus_{done[second].key().replace('/', '_')}"
    made_from = [done[first].checkpoint, done[second].checkpoint, *validation(site)]
    return site.measures.of(key, made_from, compute)


def original(name: str) -> float:
    """Return a difference between two of the original report's scores."""
    first, second = (SCORES[f"p2_{setting}"].value for setting in name.split(" - "))
    return first - second


def signed(measured: Measured, name: str) -> tuple[Part, ...]:
    value = measured.value(name, 1)
    return ("+" if measured.numbers[name] > 0 else "", value)


def interval(measured: Measured) -> tuple[Part, ...]:
    return (*signed(measured, "low"), " to ", *signed(measured, "high"))


def is_clear(measured: Measured) -> bool:
    return figures.is_clear(measured.numbers["low"], measured.numbers["high"])


def summary(found: dict[str, Measured]) -> Iterator[Part]:
    """Yield the findings: a sentence for each kind of difference, clear or not."""
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        agrees = original(name) * one.numbers["points"] > 0
        sign = "the same sign as in" if agrees else "the opposite sign to"
        what = f"Clear, with {sign} the original report" if is_clear(one) else "Not clear"
        groups.setdefault(what, []).append(name)
    for what, names in groups.items():
        yield f"{what}: "
        for k, name in enumerate(names):
            yield f"{', ' if k else ''}{name} "
            yield from (*signed(found[name], "points"), " (", *interval(found[name]), ")")
        yield ". "


def together(site: Site, done: dict[str, RunLog], measured: dict[str, Measured]) -> Iterator[Block]:
    """Tabulate how many settings label an image correctly, and the best and worst classes."""
    if not measured:
        return
    names = list(measured)
    truth = next(iter(measured.values())).arrays["truth"]
    right = {name: is_right(answer) for name, answer in measured.items()}
    classes = sorted(set(truth.tolist()), key=natural)

    def compute() -> Computed:
        times = np.sum(list(right.values()), axis=0)
        numbers: Computed = {f"right_in_{k}": np.sum(times == k) for k in range(len(names) + 1)}
        for k, label in enumerate(classes):
            chosen = truth == label
            numbers[f"class_{k}"] = chosen.sum()
            numbers |= {f"class_{k}_of_{name}": right[name][chosen].sum() for name in names}
        return numbers

    made_from = [*(done[name].checkpoint for name in names), *validation(site)]
    counted = site.measures.of(f"p2/{''.join(names)}/together", made_from, compute)
    runs = tuple(done[name] for name in names)
    yield Heading("Image by image and class by class", 3)
    if len(names) > 1:
        yield Table(
            f"Validation images by how many of the settings {', '.join(names)} label them "
            "correctly.",
            [
                {
                    "labelled correctly by": f"{k} of {len(names)}",
                    "images": counted.value(f"right_in_{k}", 0),
                }
                for k in range(len(names), -1, -1)
            ],
            runs,
        )

    def share(k: int) -> float:
        numbers = counted.numbers
        return sum(numbers[f"class_{k}_of_{name}"] for name in names) / numbers[f"class_{k}"]

    order = sorted(range(len(classes)), key=share, reverse=True)
    yield Table(
        f"How many images of a class each setting labels correctly, for the {FEW} classes with the "
        f"best and the {FEW} with the worst results over all these settings.",
        [
            {
                "class": classes[k],
                "images": counted.value(f"class_{k}", 0),
                **{name: counted.value(f"class_{k}_of_{name}", 0) for name in names},
            }
            for k in (order if len(order) <= 2 * FEW else [*order[:FEW], *order[-FEW:]])
        ],
        runs,
    )
