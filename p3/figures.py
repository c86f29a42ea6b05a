"""A mask over its image: ``python3 -m p3.figures --image 0013_sat.jpg --mask 0013_mask.png``, and problem 3's other figures.

The mask's classes lie over the image as a tint, regions are outlined in their full colour, and a legend below names the
classes that occur with their shares of the pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from core import charts, images
from core.cli import InputError, entry
from core.files import whole, writable_file
from core.runlog import RunLog
from p3 import data

PAIRS = (
    ("--image", "--mask"),
    ("--img_path", "--seg_path"),
    ("--sat_path", "--mask_path"),
)  # ours, and the course's two
TINT = 0.35  # of a class's colour over the image
CHANGE_COLOURS = (
    "#d5dae1",
    "#2463b4",
    "#6d1a63",
    "#ef9b45",
    "#000000",
)  # by predictions.CHANGES, by lightness too


def main() -> None:
    image_path, mask_path, out = arguments()
    try:
        image, mask = images.read_rgb(image_path), images.read_rgb(mask_path)
    except images.BadImage as error:
        raise InputError(str(error)) from error
    if image.shape != mask.shape:
        raise InputError(
            f"{mask_path} is {images.size_of(mask)}, but {image_path} is {images.size_of(image)}; name a pair"
        )
    with whole(writable_file(out)) as file:
        Image.fromarray(overlay(image, data.classes_of(mask))).save(file, format="png")
    print(f"wrote {out}")


def arguments() -> tuple[Path, Path, Path]:
    """(image, mask, output). Raises InputError unless one whole pair of flags was given, or if the output is an input."""
    parser = argparse.ArgumentParser(prog="p3.figures", description=__doc__, allow_abbrev=False)
    for index, pair in enumerate(PAIRS):
        for flag, what in zip(
            pair, ("the satellite image", "its mask, in the seven colours"), strict=True
        ):
            parser.add_argument(
                flag,
                type=Path,
                metavar="FILE",
                help=what if index == 0 else f"the same as {PAIRS[0][pair.index(flag)]}",
            )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="(the mask's name with _over_image.png, in the working folder)",
    )
    args = vars(parser.parse_args())
    given = {
        flag: path
        for pair in PAIRS
        for flag in pair
        if (path := args[flag.lstrip("-")]) is not None
    }
    if tuple(given) not in PAIRS:
        wanted = " or ".join(" ".join(pair) for pair in PAIRS)
        raise InputError(f"give one pair of {wanted}; given: {' '.join(given) or 'none'}")
    image, mask = given.values()
    out = args["out"] or Path(f"{mask.stem}_over_image.png")
    if out.suffix.lower() != ".png":
        raise InputError(
            f"the output {out} would be a png under another name; name it {out.stem}.png"
        )
    if out.resolve() in (image.resolve(), mask.resolve()):
        raise InputError(f"{out} would overwrite an input; name another --out")
    return image, mask, out


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 and classes (H, W) to a picture of both, (H + legend, W or wider, 3) uint8."""
    colours = data.colours_of(classes)
    blended = np.rint(image * (1 - TINT) + colours * TINT).astype(np.uint8)
    lines = outlines(classes, max(1, round(min(classes.shape) / 512)))
    return np.array(
        with_legend(Image.fromarray(np.where(lines[..., None], colours, blended)), classes)
    )


def outlines(classes: np.ndarray, thick: int = 1) -> np.ndarray:
    """The pixels within ``thick`` of another class to the left, right, above or below: (H, W) bool."""
    found = np.zeros(classes.shape, dtype=bool)
    for step in range(1, thick + 1):
        for one, other in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differ = classes[one] != classes[other]
            found[one] |= differ
            found[other] |= differ
    return found


def with_legend(picture: Image.Image, classes: np.ndarray) -> Image.Image:
    """``picture`` with a strip below: a swatch, the name and the share of the pixels of each class in ``classes``."""
    size = min(40, max(12, picture.width // 34))
    font, counts = (
        ImageFont.load_default(size),
        np.bincount(classes.ravel(), minlength=len(data.CLASSES)),
    )
    entries = [
        (index, f"{data.CLASSES[index]} {share(counts[index], classes.size)}")
        for index in np.nonzero(counts)[0]
    ]
    swatch, line = size, round(1.7 * size)
    wide = [swatch + round(0.4 * size + font.getlength(text)) + size for _, text in entries]
    width = max(picture.width, max(wide) + size)
    places, x, y = [], size, line // 3
    for one in wide:
        if x > size and x + one > width:
            x, y = size, y + line
        places.append((x, y))
        x += one
    sheet = Image.new("RGB", (width, picture.height + y + line), charts.SURFACE)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (index, text), (x, y) in zip(entries, places, strict=True):
        top = picture.height + y
        box = (x, top, x + swatch, top + swatch)
        draw.rectangle(box, fill=tuple(data.COLOURS[index].tolist()), outline=charts.MUTED)
        draw.text(
            (x + swatch + round(0.4 * size), top + swatch / 2),
            text,
            fill=charts.INK,
            font=font,
            anchor="lm",
        )
    return sheet


def share(count: int, total: int) -> str:
    """Per cent without a digit behind the point; what is there is never 0 %."""
    return f"{100 * count / total:.0f} %" if 200 * count >= total else "< 1 %"


def hexadecimal(colour: np.ndarray) -> str:
    return "#" + "".join(f"{value:02x}" for value in colour)


def change_map(changed: np.ndarray) -> np.ndarray:
    """``predictions.changes`` (H, W) to colours (H, W, 3) uint8."""
    return np.array(
        [tuple(bytes.fromhex(colour[1:])) for colour in CHANGE_COLOURS], dtype=np.uint8
    )[changed]


def matrix(shares: np.ndarray) -> Figure:
    """A confusion matrix (7, 7) of shares of each row in per cent: true classes down, predicted ones across."""
    figure, axes = charts.panel(4.2, 4.1, axes=False)
    left, cell, top = 0.92, 0.445, 3.2
    middles = [left + (column + 0.5) * cell for column in range(len(data.CLASSES))]
    axes.text(
        left - 0.08,
        top + 0.08,
        "true class",
        fontsize=8,
        color=charts.MUTED,
        ha="right",
        va="center",
    )
    for row, (name, parts) in enumerate(zip(data.CLASSES, shares, strict=True)):
        bottom = top - (row + 1) * cell
        axes.text(
            left - 0.08,
            bottom + cell / 2,
            name,
            ha="right",
            va="center",
            fontsize=9,
            color=charts.INK,
        )
        slanted = {"rotation": 60, "rotation_mode": "anchor", "ha": "left", "va": "bottom"}
        short = name if len(name) < 9 else f"{name[:6]}."
        axes.text(middles[row] - 0.02, top + 0.04, short, fontsize=9, color=charts.INK, **slanted)
        for column, part in enumerate(parts):
            corner, own = (left + column * cell, bottom), row == column
            axes.add_patch(
                Rectangle(
                    corner, cell, cell, facecolor=charts.SERIES[0], alpha=0.6 * part, linewidth=0
                )
            )
            frame = Rectangle(
                corner,
                cell,
                cell,
                fill=False,
                edgecolor=charts.INK if own else charts.GRID,
                zorder=3 if own else 2,
            )
            axes.add_patch(frame)
            text = f"{100 * part:.0f}" if part >= 0.005 else "·"
            axes.text(
                middles[column],
                bottom + cell / 2,
                text,
                ha="center",
                va="center",
                fontsize=9,
                color=charts.INK,
            )
    return figure


def class_curves(run: RunLog) -> Figure:
    """The IoU of each class over a run's epochs."""
    series = {name: run.column(f"iou_{name}") for name in data.CLASSES[: data.UNKNOWN]}
    figure = charts.lines(
        {name: one for name, one in series.items() if one[0]}, x="epoch", y="IoU", size=(4.2, 3.6)
    )
    (axes,) = figure.axes
    axes.set_ylim(0, 1)
    with rc_context(charts.STYLE):
        if legend := axes.get_legend():
            legend.remove()
            figure.legend(loc="outside lower center", ncols=3)
    return figure


def momentum(network: nn.Module) -> float:
    """The least momentum of the network's BatchNorms."""
    return min(
        module.momentum for module in network.modules() if isinstance(module, nn.BatchNorm2d)
    )


if __name__ == "__main__":
    entry(main)
