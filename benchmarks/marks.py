"""The targets and what was measured for each: the first table of benchmarks/README.md."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

Part = dict[str, Any]  # what one part of benchmarks measured


class Mark(NamedTuple):
    """A target: ``measured(part)`` must be at most (``sign`` "≤") or at least ("≥") ``bound``."""

    what: str
    part: str
    measured: Callable[[Part], float]
    sign: str
    bound: float

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.sign == "≤" else value >= self.bound


def ratio(other: str, field: str) -> Callable[[Part], float]:
    """Our ``field`` divided by that of ``other``: the median over the turns that both have."""

    def measured(part: Part) -> float:
        others = part["runs"][other]  # programs that take minutes have fewer turns than ours
        turns = zip(part["runs"]["ours"][: len(others)], others, strict=True)
        return median(ours[field] / its[field] for ours, its in turns)

    return measured


def to_floor(part: Part) -> float:
    return median(use["wall"] for use in part["runs"]["ours"]) / part["floor s"]


def identical(part: Part) -> float:
    """The percentage of the naive program's answers that equal ours."""
    return 100 * part["identical"]["naive"]


def peak(part: Part) -> float:
    return median(use["peak"] for use in part["runs"]["ours"])


def memory_growth(problem: str) -> Callable[[Part], float]:
    """The peak memory with all images, divided by that with a tenth of them."""

    def measured(part: Part) -> float:
        *_, tenth, whole = part[problem]
        return whole["peak"] / tenth["peak"]

    return measured


def faster(group: str, ours: str, other: str) -> Callable[[Part], float]:
    """How many times as fast as ``other`` a step of ``ours`` is; NaN if ``other`` is missing."""

    def measured(part: Part) -> float:
        steps = part[group]["steps"]
        if other not in steps:
            return float("nan")
        turns = zip(steps[ours], steps[other], strict=True)
        return median(its["wall"] / own["wall"] for own, its in turns)

    return measured


FLOAT, LUCID = "ours, float32", "byol-pytorch"
MARKS = [
    Mark("metric: wall time, ours / naive", "metric", ratio("naive", "wall"), "≤", 0.18),
    Mark("metric: CPU time, ours / decoding alone", "metric", ratio("decode", "cpu"), "≤", 1.5),
    Mark("metric: MiB at the peak", "metric", peak, "≤", 48),
    Mark("problem 1: wall time, ours / naive", "p1", ratio("naive", "wall"), "≤", 0.34),
    Mark("problem 1: wall time, ours / floor", "p1", to_floor, "≤", 1.5),
    Mark("problem 1: % of labels the naive way's", "p1", identical, "≥", 100),
    Mark("problem 2: wall time, ours / naive", "p2", ratio("naive", "wall"), "≤", 0.47),
    Mark("problem 2: wall time, ours / floor", "p2", to_floor, "≤", 1.25),
    Mark("problem 2: % of labels the naive way's", "p2", identical, "≥", 100),
    Mark("problem 3: wall time, ours / naive", "p3", ratio("naive", "wall"), "≤", 0.25),
    Mark("problem 3: wall time, ours / floor", "p3", to_floor, "≤", 1.15),
    Mark("problem 3: % of pixels the naive way's", "p3", identical, "≥", 99.99),
    *(
        Mark(
            f"problem {problem[1]}: memory, all images / a tenth",
            "growth",
            memory_growth(problem),
            "≤",
            1.05,
        )
        for problem in ("p1", "p2", "p3")
    ),
    Mark("problem 1's step: naive / ours", "steps", faster("p1", "ours", "naive"), "≥", 5),
    Mark("BYOL's step: byol-pytorch / ours", "steps", faster("byol", "ours", LUCID), "≥", 3.2),
    Mark("BYOL's step: byol-pytorch / float32", "steps", faster("byol", FLOAT, LUCID), "≥", 1.8),
    Mark("BYOL's step: lightly / float32", "steps", faster("byol", FLOAT, "lightly"), "≥", 1.3),
    Mark("two views: Pillow / ours", "steps", faster("views", "ours", "naive"), "≥", 3.5),
]


def table(parts: dict[str, Part]) -> list[str]:
    """A table with a line for each target of the parts that were measured."""
    lines = ["| what | mark | measured | met |", "|---|---|---|---|"]
    for mark in MARKS:
        if mark.part in parts:
            value = mark.measured(parts[mark.part])
            cells = ("not installed", "-")
            if value == value:
                cells = (f"{value:.4g}", "yes" if mark.is_met(value) else "no")
            lines.append(f"| {mark.what} | {mark.sign} {mark.bound:g} | {' | '.join(cells)} |")
    return lines
