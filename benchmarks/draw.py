"""Draw the images for the benchmarks, as large and as hard to decode as the course's.

``python3 -m benchmarks.draw p1|p2|p3|masks FOLDER COUNT``, or ``grown FOLDER COUNT SOURCE``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from core.images import write_png
from p3.data import COLOURS


def picture(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth patches of colour with noise; its JPEG has as many bytes per pixel as a photograph."""
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 6, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def small_images(folder: Path, count: int) -> None:
    """Draw problem 1's images: PNG, 32x32."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture(np.random.default_rng(i), 32, 32).save(folder / f"{i % 50}_{i}.png")


def photographs(folder: Path, count: int) -> None:
    """Draw problem 2's images: JPEG, 300 to 1,000 pixels a side, listed in ``FOLDER.csv``."""
    folder.mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        width, height = rng.integers(300, 1001, 2)
        picture(rng, int(width), int(height)).save(folder / f"{i:04d}.jpg", quality=90)
    names = "".join(f"{i},{i:04d}.jpg,None\n" for i in range(count))
    folder.with_suffix(".csv").write_text(f"id,filename,label\n{names}")


def scenes(folder: Path, count: int) -> None:
    """Draw problem 3's images: JPEG, 512x512."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture(np.random.default_rng(i), 512, 512).save(folder / f"{i:04d}_sat.jpg", quality=90)


def masks(folder: Path, count: int) -> None:
    """Draw pairs of 512x512 masks in ``truth`` and ``predicted``; a third of the patches differ."""
    truths, predictions = folder / "truth", folder / "predicted"
    for folder in (truths, predictions):
        folder.mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        patches = rng.integers(0, len(COLOURS), (8, 8), dtype=np.uint8)
        other = rng.integers(0, len(COLOURS), (8, 8), dtype=np.uint8)
        guess = np.where(rng.random((8, 8)) < 1 / 3, other, patches)
        for folder, classes in ((truths, patches), (predictions, guess)):
            with (folder / f"{i:04d}_mask.png").open("wb") as file:
                write_png(file, np.kron(classes, np.ones((64, 64), np.uint8)), COLOURS)


def grown(folder: Path, count: int, source: Path) -> None:
    """Make a folder of ``count`` links to the images of ``source`` in turn, and a csv of names."""
    folder.mkdir(parents=True)
    paths = sorted(path for path in source.iterdir() if path.is_file())
    for i in range(count):
        path = paths[i % len(paths)]
        (folder / f"{i:06d}_{path.name}").symlink_to(path.resolve())
    names = "".join(f"{i},{i:06d}_{paths[i % len(paths)].name},\n" for i in range(count))
    folder.with_suffix(".csv").write_text(f"id,filename,label\n{names}")


KINDS = {"p1": small_images, "p2": photographs, "p3": scenes, "masks": masks}

if __name__ == "__main__":
    kind, folder, count, *source = sys.argv[1:]
    if kind == "grown":
        grown(Path(folder), int(count), Path(source[0]))
    else:
        KINDS[kind](Path(folder), int(count))
