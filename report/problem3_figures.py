"""Figures for problem 3: maps of errors, the confusion matrix, and a curve for each class."""

from __future__ import annotations

import functools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from p3 import data
from report import charts
from report.runs import RunLog, joined

# Of problem3_predictions.CHANGES; they differ in lightness too.
CHANGE_COLOURS = ("#d5dae1", "#2463b4", "#6d1a63", "#ef9b45", "#000000")


def change_map(changed: np.ndarray) -> np.ndarray:
    """Turn ``problem3_predictions.changes`` (H, W) into colours (H, W, 3) uint8."""
    colours = [list(bytes.fromhex(colour[1:])) for colour in CHANGE_COLOURS]
    return np.array(colours, dtype=np.uint8)[changed]


def matrix(shares: np.ndarray) -> Figure:
    """Draw a confusion matrix (7, 7) in per cent: a row per true class, a column per predicted one.

    ``shares``: in 0..1, of the pixels of each row.
    """
    figure, axes = charts.panel(4.2, 4.1, axes=False)
    left, cell, top = 0.92, 0.445, 3.2
    middles = [left + (column + 0.5) * cell for column in range(len(data.CLASSES))]
    charts.label(axes, left - 0.08, top + 0.08, "true class", ha="right")
    for row, (name, parts) in enumerate(zip(data.CLASSES, shares, strict=True)):
        bottom = top - (row + 1) * cell
        charts.label(
            axes, left - 0.08, bottom + cell / 2, name, size=9, colour=charts.INK, ha="right"
        )
        slanted = {"rotation": 60, "rotation_mode": "anchor", "ha": "left", "va": "bottom"}
        short = name if len(name) < 9 else f"{name[:6]}."
        axes.text(middles[row] - 0.02, top + 0.04, short, fontsize=9, color=charts.INK, **slanted)
        for column, part in enumerate(parts):
            square = functools.partial(Rectangle, (left + column * cell, bottom), cell, cell)
            colour, order = (charts.INK, 3) if row == column else (charts.GRID, 2)
            axes.add_patch(square(facecolor=charts.SERIES[0], alpha=0.6 * part, linewidth=0))
            axes.add_patch(square(fill=False, edgecolor=colour, zorder=order))
            text = f"{100 * part:.0f}" if part >= 0.005 else "·"
            charts.label(axes, middles[column], bottom + cell / 2, text, size=9, colour=charts.INK)
    return figure


def class_curves(chain: list[RunLog]) -> Figure:
    """Plot the IoU of each class over the epochs of runs that continue one another."""
    series = {name: joined(chain, f"iou_{name}") for name in data.CLASSES[: data.UNKNOWN]}
    figure = charts.lines(
        {name: one for name, one in series.items() if one[0]}, x="epoch", y="IoU", size=(4.2, 3.6)
    )
    (axes,) = figure.axes
    axes.set_ylim(0, 1)
    if legend := axes.get_legend():
        legend.remove()
        charts.legend(figure, loc="outside lower center", ncols=3)
    return figure
