"""Draw the README's picture: ``python3 -m demo.picture``.

The upper part shows three drawn satellite scenes and their masks. The lower part compares the
scores of the committed runs with the original report's and the best published ones. There are two
files, for light and dark pages.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from core.cli import Parser, entry, say
from core.files import atomic_write
from demo.scenes import scene
from p3.data import colours_of
from report import charts
from report.overview import scores_on, shown
from report.runs import read_all

ROOT = Path(__file__).resolve().parents[1]
SCENES = (1, 4, 10)  # indices into demo.scenes.KINDS: a river through a forest, a town, lakes
SIDE = 160  # the side of a scene in pixels


def main() -> None:
    Parser(prog="demo.picture", description=__doc__).parse_args()
    figure = picture(ROOT / "results")
    for theme in ("light", "dark"):
        path = ROOT / "demo" / f"readme-{theme}.svg"
        with atomic_write(path) as file:
            file.write(charts.standalone(figure, dark=theme == "dark").encode())
        say(f"wrote {path.relative_to(ROOT)}")


def picture(folder: Path) -> Figure:
    """The picture for the runs whose logs are in ``folder``."""
    with matplotlib.rc_context(charts.STYLE):
        figure = Figure(figsize=(8.4, 5.6), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1, 2.6))
        for axes, pixels in zip(above.subplots(1, 2 * len(SCENES)).flat, pairs(), strict=True):
            axes.imshow(pixels)
            axes.set_axis_off()
        scores_on(below.subplots(), shown(read_all(folder)))
    return figure


def pairs() -> list[np.ndarray]:
    """Each scene followed by its mask, (SIDE, SIDE, 3) uint8."""
    images = []
    for index in SCENES:
        pixels, classes = scene(np.random.default_rng(index), index, SIDE)
        images += [pixels, colours_of(classes)]
    return images


if __name__ == "__main__":
    entry(main)
