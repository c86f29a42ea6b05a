"""The section on problem 2, last part: how the settings differ, image by image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.files import natural
from prediction.tables import paired_bootstrap
from report import problem2_figures as figures
from report.measures import Computed, Measured, Site
from report.original import SCORES
from report.page import Block, Drawing, Gap, Heading, Parts, Table, Text, Value
from report.problem2_pretraining import FETCH, last, name_of, office
from report.runs import RunLog

FEW = 5  # how many of the best classes are shown, and of the worst


def is_right(answer: Measured) -> np.ndarray:
    return answer.arrays["labels"] == answer.arrays["truth"]


def differences(
    site: Site, done: dict[str, RunLog], measured: dict[str, Measured]
) -> Iterator[Block]:
    yield Heading("Differences between the settings", 3)
    if done and office(site) is None:
        yield Gap(
            "the settings' predictions image by image, as the images of office are not here.", FETCH
        )
    for name, run in done.items():
        if office(site) and name not in measured:
            yield Gap(
                f"setting {name}'s predictions image by image, as its last.pt is not here.",
                run.metadata["command"],
            )
    found: dict[str, Measured] = {}
    for first, second in figures.COMPARED:
        if first in measured and second in measured:
            found[f"{first} - {second}"] = difference(site, done, measured, first, second)
    absent = [
        f"{first} - {second}"
        for first, second in figures.COMPARED
        if f"{first} - {second}" not in found
    ]
    if absent:
        yield Text(
            f"These differences need the settings that are missing above: {', '.join(absent)}."
        )
    if not found:
        return
    used = tuple(run for name, run in done.items() if name in measured)
    rows: list[tuple[Parts, ...]] = []
    for (first, second), what in figures.COMPARED.items():
        if f"{first} - {second}" not in found:
            continue
        one = found[f"{first} - {second}"]
        low, high = one.numbers["low"], one.numbers["high"]
        above, below = (first, second) if one.numbers["points"] > 0 else (second, first)
        finding = f"clear: {above} above {below}" if figures.is_clear(low, high) else "not clear"
        original = f"{100 * originals(first, second):+.1f}"
        ends = (*signed(one, "low"), " to ", *signed(one, "high"))
        rows.append((f"{first} - {second}: {what}", signed(one, "points"), ends, finding, original))
    yield Text(
        *next(iter(measured.values())).words(
            "By how many points of accuracy the first setting is above the second on the same "
            "{images:0} images (office/val), in float32. The interval comes from a paired "
            "bootstrap: 10,000 resamples of the images, seed 0. A difference is called clear only "
            "if its interval does not contain 0. The interval covers the choice of images. It does "
            "not cover the choice of the seed, as each setting was trained only once."
        )
    )
    known = figures.digests(office(site))
    if any(run.metadata["data"]["val"] not in known for run in used):
        yield Text(
            "The digest of the validation set in the run.json of some of these runs does not match "
            "the images and labels here (for older runs: the names, sizes and times of the files)."
        )
    header = ("difference", "points", "95 % interval", "finding", "original report")
    yield Table(
        "Differences between the settings. Those in the last column are for other data.",
        header,
        rows,
        used,
    )
    figure = figures.difference_chart(
        {
            name: tuple(one.numbers[k] for k in ("points", "low", "high"))
            for name, one in found.items()
        }
    )
    yield Drawing(
        figure,
        "The same differences, drawn. An interval that contains 0 is grey.",
        "A dot and its interval for each difference",
        used,
    )
    yield Text(*summary(found))
    others = [
        f"{first} - {second}"
        for first, second in figures.other_starts(done)
        if f"{first} - {second}" in found
    ]
    if others:
        yield Text(
            "Also a difference between two pre-training runs, as the settings started from "
            f"different files: {', '.join(others)}."
        )


def difference(
    site: Site, done: dict[str, RunLog], measured: dict[str, Measured], first: str, second: str
) -> Measured:
    """Measure a difference, ``points``, and its interval, ``low`` to ``high``, all times 100."""
    folder = office(site)

    def compute() -> Computed:
        ends = paired_bootstrap(is_right(measured[first]), is_right(measured[second]))
        return {name: 100 * end for name, end in zip(("points", "low", "high"), ends, strict=True)}

    made_from = [last(done[first]), last(done[second]), folder / "val.csv", folder / "val"]
    return site.measures.of(
        f"{name_of(done[first])}/minus_{name_of(done[second]).replace('/', '_')}",
        made_from,
        compute,
    )


def originals(first: str, second: str) -> float:
    """Return the original report's score of the first setting minus that of the second."""
    return SCORES[f"p2_{first}"].value - SCORES[f"p2_{second}"].value


def signed(measured: Measured, name: str) -> tuple[str | Value, ...]:
    value = measured.value(name, 1)
    return ("+" if measured.numbers[name] > 0 else "", value)


def summary(found: dict[str, Measured]) -> list[str | Value]:
    """Return the findings: a sentence for each kind of difference, clear or not."""
    groups: dict[str, list[str]] = {}
    for name, one in found.items():
        first, second = name.split(" - ")
        theirs = originals(first, second)
        agrees = theirs * one.numbers["points"] > 0
        sign = "the same sign as in" if agrees else "the opposite sign to"
        what = f"Clear, with {sign} the original report" if is_clear(one) else "Not clear"
        groups.setdefault(what, []).append(name)
    said: list[str | Value] = []
    for what, names in groups.items():
        said.append(f"{what}: ")
        for k, name in enumerate(names):
            one = found[name]
            said += [
                ", " if k else "",
                f"{name} ",
                *signed(one, "points"),
                " (",
                *signed(one, "low"),
                " to ",
                *signed(one, "high"),
                ")",
            ]
        said.append(". ")
    return said


def is_clear(one: Measured) -> bool:
    return figures.is_clear(one.numbers["low"], one.numbers["high"])


def together(site: Site, done: dict[str, RunLog], measured: dict[str, Measured]) -> Iterator[Block]:
    """Tabulate how many settings label an image correctly, and the best and worst classes."""
    if not measured:
        return
    folder, names = office(site), list(measured)
    truth = next(iter(measured.values())).arrays["truth"]
    right = np.stack([is_right(answer) for answer in measured.values()])
    classes = sorted(set(truth.tolist()), key=natural)

    def compute() -> Computed:
        numbers = {f"right_in_{k}": np.sum(right.sum(0) == k) for k in range(len(names) + 1)}
        for k, label in enumerate(classes):
            chosen = truth == label
            numbers |= {
                f"class_{k}_of_{name}": right[row, chosen].sum() for row, name in enumerate(names)
            }
            numbers[f"class_{k}"] = chosen.sum()
        return numbers

    made_from = [*(last(done[name]) for name in names), folder / "val.csv", folder / "val"]
    counted = site.measures.of(f"p2/{''.join(names)}/together", made_from, compute)
    runs = tuple(done[name] for name in names)
    yield Heading("Image by image and class by class", 3)
    if len(names) > 1:
        rows = [
            (f"{k} of {len(names)}", counted.value(f"right_in_{k}", 0))
            for k in range(len(names), -1, -1)
        ]
        yield Table(
            f"Validation images by how many of the settings {', '.join(names)} label them "
            "correctly.",
            ("labelled correctly by", "images"),
            rows,
            runs,
        )
    numbers = counted.numbers
    share = [
        sum(numbers[f"class_{k}_of_{name}"] for name in names) / numbers[f"class_{k}"]
        for k in range(len(classes))
    ]
    order = sorted(range(len(classes)), key=lambda k: -share[k])
    shown = order if len(order) <= 2 * FEW else [*order[:FEW], *order[-FEW:]]
    rows = [
        (
            classes[k],
            counted.value(f"class_{k}", 0),
            *(counted.value(f"class_{k}_of_{name}", 0) for name in names),
        )
        for k in shown
    ]
    caption = (
        f"How many images of a class each setting labels correctly, for the {FEW} classes with the "
        f"best and the {FEW} with the worst results over all these settings."
    )
    yield Table(caption, ("class", "images", *names), rows, runs)
