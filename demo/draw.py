"""Draw a small data set in the course's layout: ``python3 -m demo.draw --out FOLDER``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

from core.cli import InputError, Parser, entry, positive
from core.files import writable_folder
from core.progress import counted
from core.threads import THREADS
from demo.scenes import scene
from demo.shapes import PAINTS, SHAPES, classes, thing
from p3.data import COLOURS, mask_name

VERSION = 1  # increase it when the same parameters draw something else
NOTE = "drawn.json"  # the file in a drawn folder that records its parameters
P1_CLASSES, OFFICE_CLASSES = classes(10), classes(13)
JPEG_QUALITY = 90
# The parts of the data set: an image is drawn with the generator of (seed, part, index).
P1, MINI, OFFICE, P3, OFFICE_ORDER = range(5)


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Everything that a drawing depends on; also the command's flags and their defaults."""

    seed: int = dataclasses.field(default=0, metadata={"help": "seed of all random numbers"})
    p1_train: int = dataclasses.field(
        default=40, metadata={"help": "problem 1: training images per class"}
    )
    p1_val: int = dataclasses.field(
        default=10, metadata={"help": "problem 1: validation images per class"}
    )
    p2_unlabelled: int = dataclasses.field(
        default=1500, metadata={"help": "problem 2: images without labels"}
    )
    p2_classes: int = dataclasses.field(
        default=65, metadata={"help": "problem 2: classes of the labelled images, at most 65"}
    )
    p2_train: int = dataclasses.field(
        default=20, metadata={"help": "problem 2: training images per class"}
    )
    p2_val: int = dataclasses.field(
        default=4, metadata={"help": "problem 2: validation images per class"}
    )
    p3_train: int = dataclasses.field(default=120, metadata={"help": "problem 3: training scenes"})
    p3_val: int = dataclasses.field(default=24, metadata={"help": "problem 3: validation scenes"})
    size: int = dataclasses.field(
        default=512, metadata={"help": "problem 3: side of a scene in pixels, at least 32"}
    )


def arguments() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to draw into, new or empty")
    for field in dataclasses.fields(Parameters):
        kind, text = (
            int if field.name == "seed" else positive,
            f"{field.metadata['help']} (%(default)s)",
        )
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            metavar="N",
            help=text,
        )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    parameters = Parameters(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(Parameters)}
    )
    print(f"drew {args.out}" if draw_all(args.out, parameters) else f"already drawn: {args.out}")


def draw_all(out: Path, parameters: Parameters) -> bool:
    """Draw ``p1_data``, ``p2_data`` and ``p3_data`` into the folder ``out``.

    The folder appears only when everything is drawn. Returns False, and does nothing, if ``out``
    was already drawn with the same parameters. Raises InputError if it contains anything else or
    cannot be written, or if the seed is below 0, the size below 32 or ``p2_classes`` above 65.
    """
    if parameters.seed < 0 or parameters.size < 32:
        raise InputError(
            f"seed {parameters.seed}, size {parameters.size}: they must be at least 0 and 32"
        )
    if parameters.p2_classes > len(OFFICE_CLASSES):
        raise InputError(
            f"{parameters.p2_classes} classes are too many for problem 2, which has 65"
        )
    out = out.absolute()
    try:
        if is_drawn(out, parameters):
            return False
        writable_folder(out.parent)
        with tempfile.TemporaryDirectory(
            dir=out.parent, prefix=f".{out.name[:100]}.", suffix=".part"
        ) as hidden:
            # One level deeper, because other users may not read the hidden folder itself.
            drawing = Path(hidden) / "drawing"
            draw_p1(drawing / "p1_data", parameters)
            draw_p2(drawing / "p2_data", parameters)
            draw_p3(drawing / "p3_data", parameters)
            (drawing / NOTE).write_text(json.dumps(note(parameters), indent=2) + "\n")
            os.replace(drawing, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return True


def note(parameters: Parameters) -> dict[str, int]:
    return {"version": VERSION} | dataclasses.asdict(parameters)


def is_drawn(out: Path, parameters: Parameters) -> bool:
    """Whether ``out`` already contains this drawing. Raises InputError if it contains another."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    try:
        found = json.loads((out / NOTE).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{out} already exists and is not by this program; choose another folder")
    wanted = note(parameters)
    other = [
        f"{name} {found.get(name)}, not {value}"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if other:
        raise InputError(
            f"{out} was drawn with {'; '.join(other)}; remove it or choose another folder"
        )
    return True


def draw_p1(folder: Path, p: Parameters) -> None:
    """Draw problem 1 into ``folder``: ``train_50`` and ``val_50``, 32x32, and ``val_gt.csv``.

    As in the course's data, the ids of the validation images continue those of the training images.
    """

    def draw(item: tuple[str, int, int]) -> None:
        split, label, number = item
        rng = np.random.default_rng([p.seed, P1, number * len(P1_CLASSES) + label])
        thing(rng, *P1_CLASSES[label], 32, 32).save(folder / split / f"{label}_{number}.png")

    splits = {
        "train_50": range(p.p1_train),
        "val_50": range(p.p1_train, p.p1_train + p.p1_val),
    }
    make(folder, splits)
    items = [
        (split, label, i)
        for split, numbers in splits.items()
        for label in range(len(P1_CLASSES))
        for i in numbers
    ]
    run(draw, items, "p1_data")
    rows = [(f"{label}_{number}.png", label) for split, label, number in items if split == "val_50"]
    write_csv(folder / "val_gt.csv", ("filename", "label"), rows)


def draw_p2(folder: Path, p: Parameters) -> None:
    """Draw problem 2 into ``folder``: ``mini/train``, and ``office`` with its csv files.

    Images in ``mini`` are 84x84 and show any shape in any paint, often not a class of ``office``.
    The classes of ``office`` are evenly spread over its 65. Its images have 90 to 400 pixels a
    side; neither their names nor their order reveal the label.
    """

    def draw_mini(index: int) -> None:
        rng = np.random.default_rng([p.seed, MINI, index])
        thing(rng, pick(rng, SHAPES), pick(rng, PAINTS), 84, 84).save(
            mini / f"{index}.jpg", quality=JPEG_QUALITY
        )

    def draw_office(item: tuple[str, str, int, int]) -> None:
        split, name, label, index = item
        rng = np.random.default_rng([p.seed, OFFICE, index])
        shorter = 90 * 2.6 ** rng.random()
        longer = min(400, shorter * rng.uniform(1, 1.75))
        width, height = (int(side) for side in rng.permutation([shorter, longer]))
        picture = thing(rng, *OFFICE_CLASSES[label], width, height, studio=0.4)
        picture.save(office / split / name, quality=JPEG_QUALITY)

    mini, office = folder / "mini" / "train", folder / "office"
    make(mini)
    run(draw_mini, range(p.p2_unlabelled), "p2_data/mini")
    make(office, ("train", "val"))
    first = 0
    for split, count in (("train", p.p2_train), ("val", p.p2_val)):
        drawn = np.arange(p.p2_classes) * len(OFFICE_CLASSES) // p.p2_classes
        every = np.repeat(drawn, count)
        labels = np.random.default_rng([p.seed, OFFICE_ORDER, first]).permutation(every)
        rows = [(i, f"{i:04}.jpg", int(label)) for i, label in enumerate(labels)]
        run(
            draw_office,
            [(split, name, label, first + i) for i, name, label in rows],
            f"p2_data/office/{split}",
        )
        write_csv(office / f"{split}.csv", ("id", "filename", "label"), rows)
        first += len(rows)


def draw_p3(folder: Path, p: Parameters) -> None:
    """Draw problem 3 into ``folder``: ``train`` and ``validation``, scenes and their masks.

    Every class occurs in any twelve consecutive scenes, except in unlikely cases.
    """

    def draw(item: tuple[str, int, int]) -> None:
        split, number, index = item
        picture, truth = scene(np.random.default_rng([p.seed, P3, index]), index, p.size)
        name = f"{number:04}_sat.jpg"
        Image.fromarray(picture).save(folder / split / name, quality=JPEG_QUALITY)
        Image.fromarray(COLOURS[truth]).save(folder / split / mask_name(name))

    make(folder, ("train", "validation"))
    items = [("train", i, i) for i in range(p.p3_train)] + [
        ("validation", i, p.p3_train + i) for i in range(p.p3_val)
    ]
    run(draw, items, "p3_data")


def make(folder: Path, names: Iterable[str] = (".",)) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)


def run(draw: Callable, items: Sequence, what: str) -> None:
    """Draw all items in threads: numpy and Pillow release Python's lock in the slow parts.

    After an error or Ctrl-C, items that have started are finished and the others are dropped, so
    that nothing is written afterwards.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in counted(pool.map(draw, items), len(items), what, "images"):
            pass


def pick(rng: Generator, names: dict[str, object]) -> str:
    return list(names)[rng.integers(len(names))]


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in [header, *rows]))


if __name__ == "__main__":
    entry(main)
