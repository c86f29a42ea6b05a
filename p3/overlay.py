"""A mask over its image: ``python3 -m p3.overlay --image 0013_sat.jpg --mask 0013_mask.png``.

The mask's classes lie over the image as a tint. Regions are outlined in their full colour. A legend
below names the classes that occur, with their shares of the pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from core import images
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write, writable_file
from p3 import data

PAIRS = (  # ours, and the two pairs of names that the course's viz_mask.py has had
    ("--image", "--mask"),
    ("--img_path", "--seg_path"),
    ("--sat_path", "--mask_path"),
)
TINT = 0.35  # of a class's colour over the image
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
            "name a pair"
        )
    with atomic_write(writable_file(out)) as file:
        Image.fromarray(overlay(image, data.classes_of(mask))).save(file, format="png")
    say(f"wrote {out}")


def arguments() -> tuple[Path, Path, Path]:
    """(image, mask, output).

    Raises InputError unless one whole pair of flags was given, or if the output is an input.
    """
    parser = Parser(prog="p3.overlay", description=__doc__, allow_abbrev=False)
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
    """(H, W, 3) uint8 and classes (H, W) to a picture of both, (H + legend, W or wider, 3)
    uint8.
    """
    colours = data.colours_of(classes)
    blended = np.rint(image * (1 - TINT) + colours * TINT).astype(np.uint8)
    lines = outlines(classes, max(1, round(min(classes.shape) / 512)))
    return np.array(
        with_legend(Image.fromarray(np.where(lines[..., None], colours, blended)), classes)
    )


def outlines(classes: np.ndarray, thick: int = 1) -> np.ndarray:
    """The pixels within ``thick`` of another class to the left, right, above or below:

    (H, W) bool.
    """
    found = np.zeros(classes.shape, dtype=bool)
    for step in range(1, thick + 1):
        for one, other in ((np.s_[step:], np.s_[:-step]), (np.s_[:, step:], np.s_[:, :-step])):
            differ = classes[one] != classes[other]
            found[one] |= differ
            found[other] |= differ
    return found


def with_legend(picture: Image.Image, classes: np.ndarray) -> Image.Image:
    """``picture`` with a strip below: a swatch, the name and the share of the pixels of each
    class in ``classes``.
    """
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
    sheet = Image.new("RGB", (width, picture.height + y + line), SURFACE)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for (index, text), (x, y) in zip(entries, places, strict=True):
        top = picture.height + y
        box = (x, top, x + swatch, top + swatch)
        draw.rectangle(box, fill=tuple(data.COLOURS[index].tolist()), outline=MUTED)
        draw.text(
            (x + swatch + round(0.4 * size), top + swatch / 2),
            text,
            fill=INK,
            font=font,
            anchor="lm",
        )
    return sheet


def share(count: int, total: int) -> str:
    """Per cent without a digit behind the point; what is there is never 0 %."""
    return f"{100 * count / total:.0f} %" if 200 * count >= total else "< 1 %"


if __name__ == "__main__":
    entry(main)
