"""Inference as students write it: ``python3 -m benchmarks.naive p1|p2|p3``; --help says the rest.

A Dataset applies torchvision's transforms to Pillow images, a DataLoader without workers makes the
batches, and the network runs eagerly in float32 and torch's default memory layout. The networks,
the names of files and classes and the views that are averaged are our own, so that the answers can
be compared.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from core import views
from core.cli import InputError, Parser, entry
from p3.data import COLOURS, mask_name

SUFFIXES = (".png", ".jpg", ".jpeg")


class Images(Dataset):
    """One transformed image for each path."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def main() -> None:
    args = arguments()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    model = importlib.import_module(f"{args.problem}.model")
    network = model.build(saved["architecture"], len(saved["classes"]))
    network.load_state_dict(saved["weights"])
    network.eval()
    seen = saved["flip_test"], saved.get("test_scales", (1.0,)), saved.get("rotate_test", False)

    def logits(images: Tensor) -> Tensor:
        return views.logits(network, images, *seen)

    if args.problem == "p1":
        paths = sorted(path for path in args.images.iterdir() if path.suffix.lower() in SUFFIXES)
        labels = classify(logits, paths, saved, args.batch_size)
        write(
            args.output,
            [
                ("filename", "label"),
                *((path.name, label) for path, label in zip(paths, labels, strict=True)),
            ],
        )
    elif args.problem == "p2":
        with args.table.open(newline="", encoding="utf-8-sig") as file:
            asked = [(row["id"], row["filename"]) for row in csv.DictReader(file)]
        labels = classify(logits, [args.images / name for _, name in asked], saved, args.batch_size)
        write(
            args.output,
            [
                ("id", "filename", "label"),
                *((*row, label) for row, label in zip(asked, labels, strict=True)),
            ],
        )
    else:
        paths = sorted(
            path
            for path in args.images.iterdir()
            if path.suffix.lower() in SUFFIXES and "_mask" not in path.stem
        )
        args.output.mkdir(parents=True, exist_ok=True)
        segment(logits, paths, saved, args.batch_size, args.output)


def arguments() -> argparse.Namespace:
    parser = Parser(prog="python3 -m benchmarks.naive", description=__doc__)
    parser.add_argument("problem", choices=["p1", "p2", "p3"])
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a checkpoint that pN.train wrote"
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="folder; for p3, all images of a batch must have the same size",
    )
    parser.add_argument("--table", type=Path, help="p2: csv with the columns id and filename")
    parser.add_argument(
        "--output", type=Path, required=True, help="csv to write; p3: folder for the masks"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch (%(default)s)")
    args = parser.parse_args()
    if (args.problem == "p2") != (args.table is not None):
        raise InputError("--table CSV is required for p2, and only p2 accepts it")
    return args


def batches(paths: list[Path], saved: dict[str, Any], batch_size: int) -> Iterator[Tensor]:
    """The network's inputs, (batch, 3, H, W) float32."""
    size = saved["input_size"]
    steps = [transforms.Resize((size, size))] if size else []
    steps += [transforms.ToTensor(), transforms.Normalize(saved["mean"], saved["std"])]
    return iter(
        DataLoader(
            Images(paths, transforms.Compose(steps)),
            batch_size=batch_size,
            shuffle=False,
            num_workers=0,
        )
    )


def classify(
    logits: Callable[[Tensor], Tensor], paths: list[Path], saved: dict[str, Any], batch_size: int
) -> list[str]:
    """The label of each image."""
    labels: list[str] = []
    with torch.no_grad():
        for images in batches(paths, saved, batch_size):
            labels.extend(saved["classes"][k] for k in logits(images).argmax(1).tolist())
    return labels


def segment(
    logits: Callable[[Tensor], Tensor],
    paths: list[Path],
    saved: dict[str, Any],
    batch_size: int,
    output: Path,
) -> None:
    """Write the mask of each image into the folder ``output``."""
    written = iter(paths)
    with torch.no_grad():
        for images in batches(paths, saved, batch_size):
            batch = itertools.islice(written, len(images))
            for classes, path in zip(logits(images).argmax(1).numpy(), batch, strict=True):
                mask = np.zeros((*classes.shape, 3), dtype=np.uint8)
                for k, colour in enumerate(COLOURS):
                    mask[classes == k] = colour
                iio.imwrite(output / mask_name(path.name), mask)


def write(path: Path, rows: list[tuple[str, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    entry(main)
