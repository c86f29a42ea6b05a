"""Writes a page as Markdown, with its figures as image files in a folder beside it."""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from core.files import atomic_write, writable_folder
from report import charts, page
from report.runs import RunLog
from training.provenance import commits

POINT_INCHES = 4.2
LAYERS_ACROSS = 3


def render(title: str, blocks: list[page.Block], figures: Path) -> str:
    """Return the text of the Markdown file, and write its figures to the folder ``figures``.

    The folder must be beside the Markdown file. Figures of an earlier build are removed.
    """
    writer = _Writer(writable_folder(figures))
    text = "\n\n".join([f"# {escape(title)}", *(writer.block(block) for block in blocks)]) + "\n"
    for path in figures.iterdir():
        # Only file names that this module gives: the user's own files stay.
        if path not in writer.written and re.fullmatch(r"\d\d+\.(png|jpg)", path.name):
            path.unlink()
    return text


def escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


def code(text: str) -> str:
    """Return a code span that nothing in ``text`` can end early, not even in a table cell.

    CommonMark 6.1: a span ends at a run of as many backticks as it began with. Line ends in
    ``text`` become spaces.
    """
    text = re.sub(r"\s", " ", text).replace("|", "\\|")
    longest = max(map(len, re.findall("`+", text)), default=0)
    room = " " if longest else ""
    fence = "`" * (longest + 1)
    return f"{fence}{room}{text}{room}{fence}"


def inline(parts: page.Parts) -> str:
    return "".join(
        code(part.text)
        if isinstance(part, page.Code)
        else escape(part.text if isinstance(part, page.Value) else part)
        for part in page.parts_of(parts)
    )


def provenance(runs: tuple[RunLog, ...]) -> str:
    """Return a list of runs, each with the command that made it, to append to a figure."""
    lines = [
        f"- {escape(run.name)}, seed {escape(str(run.metadata['seed']))}, "
        f"commit {escape(commits(run.metadata))}, {code(run.metadata['command'])}"
        for run in runs
    ]
    return "\n\n" + "\n".join(lines) if lines else ""


class _Writer:
    """Writes blocks and numbers the figure files."""

    def __init__(self, figures: Path) -> None:
        self._figures = figures
        self.written: set[Path] = set()

    def block(self, block: page.Block) -> str:
        match block:
            case page.Heading():
                return f"{'#' * block.level} {escape(block.text)}"
            case page.Text():
                return inline(block.parts)
            case page.Grid():
                return "\n\n".join(self.block(one) for one in block.blocks)
            case page.Gap():
                return f"> **Missing:** {escape(block.what)} To make it, run {code(block.command)}"
            case page.Table():
                rows = [map(escape, block.header), ["---"] * len(block.header)]
                rows += [map(inline, row.values()) for row in block.rows]
                lines = [f"| {' | '.join(row)} |".replace("\n", " ") for row in rows]
                return "\n".join([inline(block.caption), "", *lines]) + provenance(block.runs)
            case page.Drawing():
                return self._figure(block, block.figure)
            case page.Points():
                return self._figure(block, scatter(block))
            case page.Layers():
                return self._figure(block, side_by_side(block))

    def _figure(self, block: page.Figured, figure: Figure) -> str:
        path = self._figures / f"{len(self.written) + 1:02d}.png"
        with atomic_write(path) as out:
            out.write(charts.png(figure))
        self.written.add(path)
        picture = f"![{escape(block.alt)}]({self._figures.name}/{path.name})"
        return f"{picture}\n\n{inline(block.caption)}{provenance(block.runs)}"


def scatter(points: page.Points) -> Figure:
    figure, axes = charts.panel(POINT_INCHES, POINT_INCHES)
    axes.scatter(
        *points.xy.T,
        c=[points.colours[label] for label in points.labels],
        s=5,
        alpha=0.75,
        linewidths=0,
    )
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    return figure


def side_by_side(block: page.Layers) -> Figure:
    columns = min(LAYERS_ACROSS, len(block.layers))
    rows = -(-len(block.layers) // columns)
    legend = 0.35 * -(-len(block.legend) // 4)
    figure, area = charts.panel(2.4 * columns, 2.65 * rows + legend, axes=False)
    for k, (name, image) in enumerate(block.layers.items()):
        left, bottom = 2.4 * (k % columns), 2.65 * (rows - 1 - k // columns) + legend
        area.imshow(
            image, extent=(left + 0.05, left + 2.35, bottom + 0.05, bottom + 2.35), aspect="equal"
        )
        area.add_patch(
            Rectangle(
                (left + 0.05, bottom + 0.05), 2.3, 2.3, facecolor="none", edgecolor=charts.GRID
            )
        )
        area.text(left + 1.2, bottom + 2.5, name, ha="center", va="center", fontsize=9)
    area.set(xlim=(0, 2.4 * columns), ylim=(0, 2.65 * rows + legend))
    for k, (name, colour) in enumerate(block.legend.items()):
        x, y = 0.1 + (2.4 * columns / 4) * (k % 4), legend - 0.35 * (k // 4) - 0.22
        area.add_patch(Rectangle((x, y), 0.12, 0.12, facecolor=colour, edgecolor=charts.MUTED))
        area.text(x + 0.2, y + 0.06, name, va="center", fontsize=8)
    return figure
