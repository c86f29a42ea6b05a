"""Overlay a mask: ``python3 -m p3.overlay --image 0013_sat.jpg --mask 0013_mask.png``.

The mask's colours tint the image, and each region is outlined in its full colour. A legend below
names the classes that occur, with their shares of the pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import images
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write, writable_file
from p3 import data

# Our names first, then those that versions of the course's viz_mask.py have used.
IMAGE_FLAGS = ("--image", "--img_path", "--sat_path")
MASK_FLAGS = ("--mask", "--seg_path", "--mask_path")
TINT = 0.35  # opacity of a class's colour over the image
INK, MUTED, SURFACE = "#1d2126", "#5f6772", "#fdfdfe"  # the legend's text, frames and background


def main() -> None:
    image_path, mask_path, out = arguments()
    try:
        image, mask = images.read_rgb(image_path), images.read_rgb(mask_path)
    except images.BadImage as error:
        raise InputError(str(error)) from error
    if image.shape != mask.shape:
        raise InputError(
            f"{mask_path} is {images.size_of(mask)}, but {image_path} is {images.size_of(image)}; "
            "give an image and its own mask"
        )
    with atomic_write(writable_file(out)) as file:
        Image.fromarray(overlay(image, data.classes_of(mask))).save(file, format="png")
    say(f"wrote {out}")


def arguments() -> tuple[Path, Path, Path]:
    """The paths (image, mask, output) from the command line.

    Raises InputError if the output does not end in ``.png`` or is one of the inputs.
    """
    parser = Parser(prog="p3.overlay", description=__doc__, allow_abbrev=False)
    parser.add_argument(*IMAGE_FLAGS, dest="image", type=Path, required=True, metavar="FILE")
    parser.add_argument(*MASK_FLAGS, dest="mask", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE.png",
        help="file to write (the mask's name with _over_image.png, in the working folder)",
    )
    args = parser.parse_args()
    out = args.out or Path(f"{args.mask.stem}_over_image.png")
    if out.suffix.lower() != ".png":
        raise InputError(f"the output is a PNG file, so {out} should end in .png")
    if out.resolve() in (args.image.resolve(), args.mask.resolve()):
        raise InputError(f"{out} would overwrite an input; choose another --out")
    return args.image, args.mask, out


def overlay(image: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Draw classes (H, W) over their image (H, W, 3) uint8, with a legend below.

    The picture is (H + legend, W or wider, 3) uint8.
    """
    colours = data.colours_of(classes)
    tinted = np.rint(image * (1 - TINT) + colours * TINT).astype(np.uint8)
    borders = outlines(classes, max(1, round(min(classes.shape) / 512)))
    picture = Image.fromarray(np.where(borders[..., None], colours, tinted))
    return np.array(with_legend(picture, classes))


def outlines(classes: np.ndarray, thickness: int = 1) -> np.ndarray:
    """The pixels on a region's border, (H, W) bool.

    They have another class within ``thickness`` pixels to the left, right, above or below.
    """
    borders = np.zeros(classes.shape, dtype=bool)
    for step in range(1, thickness + 1):
        for here, there in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differ = classes[here] != classes[there]
            borders[here] |= differ
            borders[there] |= differ
    return borders


def with_legend(picture: Image.Image, classes: np.ndarray) -> Image.Image:
    """``picture`` with a legend below: the colour, name and share of each class that occurs.

    Entries wrap onto further lines. A picture that is too narrow for an entry is widened.
    """
    size = min(40, max(12, picture.width // 34))  # font size in pixels
    font = ImageFont.load_default(size)
    counts = np.bincount(classes.ravel(), minlength=len(data.CLASSES))
    present = np.nonzero(counts)[0]
    texts = [f"{data.CLASSES[k]} {share(counts[k], classes.size)}" for k in present]
    gap, line = round(0.4 * size), round(1.7 * size)
    widths = [size + gap + round(font.getlength(text)) + size for text in texts]
    width = max(picture.width, max(widths) + size)
    places, x, y = [], size, line // 3
    for entry_width in widths:
        if x > size and x + entry_width > width:
            x, y = size, y + line
        places.append((x, picture.height + y))
        x += entry_width
    sheet = Image.new("RGB", (width, picture.height + y + line), SURFACE)
    sheet.paste(picture, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for k, text, (x, y) in zip(present, texts, places, strict=True):
        colour = tuple(data.COLOURS[k].tolist())
        pen.rectangle((x, y, x + size, y + size), fill=colour, outline=MUTED)
        pen.text((x + size + gap, y + size / 2), text, fill=INK, font=font, anchor="lm")
    return sheet


def share(count: int, total: int) -> str:
    """``count`` as a percentage of ``total`` without decimals; "< 1 %" instead of "0 %"."""
    return f"{100 * count / total:.0f} %" if 200 * count >= total else "< 1 %"


if __name__ == "__main__":
    entry(main)
