"""Draws figures in one style and exports them, as SVG for both themes of the page or as PNG.

The colours below are those of the light theme. In an SVG, ``VARIABLES`` turns each of them into a
CSS variable, so that the page can also show the figure in dark colours. pyplot is not used, because
it keeps figures in global state.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, MUTED, GRID, SURFACE = "#1d2126", "#5f6772", "#d9dde2", "#fdfdfe"
SERIES = ("#2463b4", "#c4570e", "#23835a", "#8a4bb5", "#b8324a", "#13808f")
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"} | {
    colour: f"--series-{k}" for k, colour in enumerate(SERIES)
}
DARK = {"--ink": "#e6e9ed", "--muted": "#a3acb8", "--grid": "#39414b", "--surface": "#171b20"} | {
    f"--series-{k}": colour
    for k, colour in enumerate(("#6ea8f0", "#f0944d", "#5cc497", "#c290ec", "#f07f90", "#52c3d3"))
}
STYLE = {
    "svg.fonttype": "none",  # keep text as text: it can be searched and uses the page's font
    "svg.hashsalt": "hw1",  # the same figure always gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.prop_cycle": matplotlib.cycler(color=SERIES),
    "figure.facecolor": SURFACE,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
# In inches. An SVG has 72 units an inch, so a panel is narrower than a phone's screen and its text
# is not scaled down there.
PANEL = (4.2, 3.0)


def panel(
    width: float = PANEL[0], height: float = PANEL[1], *, axes: bool = True
) -> tuple[Figure, Axes]:
    """Return an empty figure of ``width`` x ``height`` inches, and its axes.

    With ``axes=False``, these are a bare drawing area whose coordinates are inches.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained" if axes else None)
        if axes:
            return figure, figure.add_subplot()
        area = figure.add_axes((0, 0, 1, 1))
        area.set(xlim=(0, width), ylim=(0, height))
        area.set_axis_off()
        return figure, area


def lines(
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    size: tuple[float, float] = PANEL,
) -> Figure:
    """Plot named curves, each (x values, y values), with a legend if there is more than one."""
    figure, axes = panel(*size)
    for k, (name, (xs, ys)) in enumerate(series.items()):
        colour, marker = SERIES[k % len(SERIES)], "o" if len(xs) < 20 else None
        axes.plot(xs, ys, label=name, color=colour, marker=marker, markersize=3.5)
    if all(float(value).is_integer() for xs, _ in series.values() for value in xs):
        axes.xaxis.get_major_locator().set_params(integer=True)  # no tick at epoch 2.5
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(series) > 1:
        legend(axes)
    return figure


def label(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    *,
    size: float = 8,
    colour: str = MUTED,
    ha: str = "center",
    va: str = "center",
) -> None:
    """Write text at (x, y). ``size`` is in points; ``ha`` and ``va`` are matplotlib's."""
    axes.text(x, y, text, fontsize=size, color=colour, ha=ha, va=va)


def legend(owner: Axes | Figure, **where: Any) -> None:
    """Add a legend in the common style. ``where`` is passed on to matplotlib's ``legend``."""
    with matplotlib.rc_context(STYLE):
        owner.legend(**where)


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    title: str,
    detail: str = "",
    *,
    series: int | None = None,
) -> None:
    """Draw a labelled box with its lower left corner at (x, y); all lengths are in inches.

    ``series`` selects its colour from ``SERIES``; without it, the box is grey.
    """
    colour = MUTED if series is None else SERIES[series % len(SERIES)]
    style = "round,pad=0,rounding_size=0.06"
    colours = {"facecolor": to_rgba(colour, 0.12), "edgecolor": colour}
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, **colours))
    middle = x + width / 2
    label(axes, middle, y + height * (0.66 if detail else 0.5), title, size=9.5, colour=INK)
    if detail:
        label(axes, middle, y + height * 0.3, detail)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw a straight arrow."""
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, color=MUTED, linewidth=1.1, **style))


def svg(figure: Figure) -> str:
    """Return the figure as an ``<svg>`` element to embed in a page.

    It has no background, and its colours are CSS variables.
    """
    with matplotlib.rc_context(STYLE):
        text = io.StringIO()
        nothing = {"Date": None, "Creator": None}  # the same figure always gives the same bytes
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for colour, variable in VARIABLES.items():
        drawing = drawing.replace(colour, f"var({variable})")
    drawing = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", drawing)
    return unique_names(drawing)


def standalone(figure: Figure, *, dark: bool) -> str:
    """Return the figure as a standalone SVG file without a background, in light or dark colours."""
    colours = DARK if dark else {name: colour for colour, name in VARIABLES.items()}
    drawing = svg(figure).replace("var(--font)", "sans-serif")
    for name, colour in colours.items():
        drawing = drawing.replace(f"var({name})", colour)
    return drawing


def unique_names(drawing: str) -> str:
    """Prefix the ids in an ``<svg>`` with a hash of its content, as a page has many drawings."""
    prefix = f"f{zlib.crc32(drawing.encode()):x}"
    drawing = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', drawing)
    return re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", drawing)


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file in the light colours, with 200 pixels an inch."""
    with matplotlib.rc_context(STYLE):
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    return content.getvalue()
