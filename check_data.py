"""Check the homework's data before training: ``python3 check_data.py hw1_data``.

Prints for each split the number of images, their sizes, the class balance, the numbers of
duplicates and unreadable files, and which images of a validation split are in the training split
too. Two images are the same if all their pixels are. The exit status is 3 if an image cannot be
used, 2 if a folder or a csv cannot be used, otherwise 0.
"""

from __future__ import annotations

import core  # noqa: F401  # reports in one line what this Python lacks

# isort: split
import collections
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from core import images, progress, threads
from core.cli import PARTIAL, InputError, Parser, answer, entry, some
from core.files import list_files, readable_folder
from p1 import data as p1
from p3 import data as p3
from prediction.tables import read_labelled

HEADER = ("split", "images", "sizes", "classes", "images per class", "duplicates", "unreadable")


@dataclasses.dataclass
class Split:
    """What was found in the files of a split. ``pixels``: problem 3's, counted by class."""

    name: str
    digests: dict[Path, bytes] = dataclasses.field(default_factory=dict)  # of the pixels
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    labels: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    pixels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(p3.CLASSES), int))
    bad: list[str] = dataclasses.field(default_factory=list)

    def row(self) -> tuple[str, ...]:
        """Return the split's line of the table."""
        counts = self.labels.values()
        spread = f"{min(counts)} to {max(counts)}" if counts else "-"
        return (
            self.name,
            f"{len(self.digests):,}",
            sizes(self.sizes),
            str(len(self.labels) or "-"),
            spread,
            str(len(self.digests) - len(set(self.digests.values()))),
            str(len(self.bad)),
        )


def main() -> int:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "data",
        type=Path,
        nargs="?",
        default=Path("hw1_data"),
        help="the course's data folder (%(default)s)",
    )
    folder = readable_folder(parser.parse_args().data)
    pairs = (
        (of_p1(folder / "p1_data/train_50"), of_p1(folder / "p1_data/val_50")),
        (of_p2(folder / "p2_data/office", "train"), of_p2(folder / "p2_data/office", "val")),
        (unlabelled(folder / "p2_data/mini/train"), None),
        (of_p3(folder / "p3_data/train"), of_p3(folder / "p3_data/validation")),
    )
    found = [split for pair in pairs for split in pair if split]
    if not found:
        raise InputError(
            f"{folder} contains none of p1_data, p2_data, p3_data; give the course's data folder"
        )
    for cells in (HEADER, ("---",) * len(HEADER), *(split.row() for split in found)):
        answer(f"| {' | '.join(cells)} |")
    for split in found:
        if split.pixels.any():
            shares = split.pixels / split.pixels.sum()
            named = zip(p3.CLASSES, shares, strict=True)
            answer(f"{split.name}: {', '.join(f'{name} {share:.1%}' for name, share in named)}")
        for line in split.bad[:10]:
            answer(f"{split.name}: {line}")
    for train, val in pairs:
        if train and val:
            seen = set(train.digests.values())
            both = [path.name for path, digest in val.digests.items() if digest in seen]
            answer(
                f"{val.name}: {len(both)} of {len(val.digests)} images are also in {train.name}"
                + (f": {some(both)}" if both else "")
            )
    return PARTIAL if any(split.bad for split in found) else 0


def of_p1(folder: Path) -> Split | None:
    if not folder.is_dir():
        return None
    paths = list_files(folder, images.SUFFIXES)
    return look(folder, paths, lambda path: p1.label_of(path.name))


def unlabelled(folder: Path) -> Split | None:
    return look(folder, list_files(folder, images.SUFFIXES)) if folder.is_dir() else None


def of_p2(office: Path, name: str) -> Split | None:
    table, folder = office / f"{name}.csv", office / name
    if not table.is_file() and not folder.is_dir():
        return None
    labels, paths = read_labelled(table, folder)
    return look(folder, paths, dict(zip(paths, labels, strict=True)).__getitem__)


def of_p3(folder: Path) -> Split | None:
    if not folder.is_dir():
        return None
    return look(folder, p3.list_images(folder), read=p3.read_pair)


def look(
    folder: Path,
    paths: list[Path],
    label_of: Callable[[Path], object] | None = None,
    read: Callable[[Path], np.ndarray] = images.read_rgb,
) -> Split:
    """Read and count all ``paths``.

    ``label_of``: an image's label by its path. ``read``: (H, W, 3) uint8, or (H, W, 4) with the
    class as the fourth channel.
    """
    split = Split(f"{folder.parent.name}/{folder.name}")

    def one(path: Path) -> np.ndarray | str:
        try:
            return read(path)
        except (images.BadImage, InputError) as error:
            return str(error)

    read_ahead = threads.InOrder(one, paths)
    for path, image in zip(
        paths, progress.counted(read_ahead, len(paths), split.name, "images"), strict=True
    ):
        if isinstance(image, str):
            split.bad.append(image)
            continue
        pixels = image[..., :3]
        content = repr(pixels.shape).encode() + pixels.tobytes()
        split.digests[path] = hashlib.blake2b(content, digest_size=16).digest()
        split.sizes[image.shape[:2]] += 1
        if image.shape[2] == 4:
            split.pixels += np.bincount(image[..., 3].ravel(), minlength=len(p3.CLASSES))
        if label_of:
            try:
                split.labels[label_of(path)] += 1
            except InputError as error:
                split.bad.append(str(error))
    return split


def sizes(counted: collections.Counter) -> str:
    """Format one size as 32x32; several as the range of widths and of heights."""
    if len(counted) < 2:
        return "".join(f"{width}x{height}" for height, width in counted)
    heights, widths = ([size[k] for size in counted] for k in (0, 1))
    return f"{min(widths)}-{max(widths)} x {min(heights)}-{max(heights)}"


if __name__ == "__main__":
    entry(main)
