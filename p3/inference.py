"""Segment a folder of satellite images: ``bash hw1_3.sh <image folder> <output folder>``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # started by path, from any working directory, the packages lie beside this one
    sys.path[0] = str(ROOT)

import core  # noqa: E402, F401  # says in one line what this Python lacks, before anything else is imported

# isort: split
import argparse  # noqa: E402
import os  # noqa: E402
from collections import deque  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from core import checkpoint, devices, images  # noqa: E402
from core.cli import InputError, Parser, entry, some  # noqa: E402
from core.files import atomic_write, writable_folder  # noqa: E402
from core.inference import Predictor, Stream, flags, on_device  # noqa: E402
from p3 import data  # noqa: E402
from p3.model import build, logits  # noqa: E402

FALLBACK = data.CLASSES.index(
    "agriculture"
)  # of an image that cannot be read: the commonest class, all over
LEAST = 32  # pixels a side that the networks need


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_3.sh", description=__doc__)
    parser.add_argument(
        "images", type=Path, help="folder of xxxx_sat.jpg (or xxxx.jpg), of any size"
    )
    parser.add_argument("output", type=Path, help="folder for xxxx_mask.png (or xxxx.png)")
    flags(parser, ROOT / "checkpoints" / "p3_b.pt")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    paths = data.list_images(args.images)
    if args.output.resolve() == args.images.resolve():  # the masks there may be the true ones
        there = [
            name
            for path in paths
            if os.path.exists(args.images / (name := data.mask_name(path.name)))
        ]
        if there:
            raise InputError(
                f"{some(there)} in {args.images} would be overwritten; name another output folder"
            )
    return on_device(args.device, lambda device: segment(args, paths, device))


def segment(args: argparse.Namespace, paths: list[Path], device: torch.device) -> int:
    """The program's work on the device ``device``; the exit status."""
    predict = predictor(args.checkpoint, device)
    writable_folder(args.output)
    stream = Stream(paths, images.read_rgb, args.batch_size or (1 if device.type == "cpu" else 8))
    with ThreadPoolExecutor(images.THREADS) as pool:
        writing: deque = deque()
        for batch in stream:
            for path, classes in zip(batch.paths, predict(batch.images), strict=True):
                writing.append(
                    pool.submit(write_mask, args.output / data.mask_name(path.name), classes)
                )
            while len(writing) > 2 * images.THREADS:
                writing.popleft().result()
        for path in stream.bad:
            classes = np.full(size_in_header(path), FALLBACK, dtype=np.uint8)
            writing.append(
                pool.submit(write_mask, args.output / data.mask_name(path.name), classes)
            )
        for one in writing:
            one.result()
    return stream.report(devices.describe(device), f"a mask of {data.CLASSES[FALLBACK]} all over")


def predictor(path: Path, device: torch.device) -> Predictor:
    """A checkpoint's network on ``device``: (N, 3, H, W) uint8 -> classes (N, H, W) uint8.

    Raises InputError if it is none of p3's.
    """
    saved = checkpoint.load(path, "p3")
    if saved.classes != data.CLASSES:
        raise InputError(f"{path} is of {len(saved.classes)} classes, not of problem 3's 7")
    network = build(saved.architecture)
    checkpoint.load_weights(network, saved.weights, str(path))
    network = devices.prepare(network.eval(), device)
    return Predictor(
        lambda batch: classify(network, batch, saved.flip_test, saved.test_scales), saved, device
    )


def classify(
    network: nn.Module, batch: Tensor, flip_test: bool, test_scales: tuple[float, ...] = (1.0,)
) -> Tensor:
    """Normalised images (N, 3, H, W) of any size -> classes (N, H, W) uint8. A side under 32 pixels is padded with its edge."""
    height, width = batch.shape[2:]
    padded = nn.functional.pad(
        batch, (0, max(0, LEAST - width), 0, max(0, LEAST - height)), mode="replicate"
    )
    out = logits(network, padded, flip_test, test_scales)
    return out[:, :, :height, :width].argmax(1).to(torch.uint8)


def write_mask(path: Path, classes: np.ndarray) -> None:
    with atomic_write(path) as file:
        Image.fromarray(data.colours_of(classes)).save(file, format="png", compress_level=1)


def size_in_header(path: Path) -> tuple[int, int]:
    """(height, width) that a broken image's header still says, else the course's 512x512."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # not even a header
        return 512, 512


if __name__ == "__main__":
    entry(main)
