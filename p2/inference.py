"""Label the images that a csv names: ``bash hw1_2.sh <images.csv> <image folder> <output.csv>``."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if not __package__:  # started by path, from any working directory, the packages lie beside this one
    sys.path[0] = str(ROOT)

import core  # noqa: E402, F401  # says in one line what this Python lacks, before anything else is imported

# isort: split
import argparse  # noqa: E402

import torch  # noqa: E402

from core import checkpoint, devices  # noqa: E402
from core.cli import InputError, Parser, entry  # noqa: E402
from core.files import writable_file  # noqa: E402
from core.inference import Predictor, Stream, flags, on_device  # noqa: E402
from core.predictions import locate, read_rows, write_rows  # noqa: E402
from p2 import data  # noqa: E402
from p2.model import ARCHITECTURE, Classifier, logits  # noqa: E402


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_2.sh", description=__doc__)
    parser.add_argument(
        "table", metavar="images.csv", type=Path, help="csv with the columns id and filename"
    )
    parser.add_argument(
        "images", type=Path, help="folder of the images that it names; others there do not count"
    )
    parser.add_argument("output", type=Path, help="csv to write: id,filename,label")
    flags(parser, ROOT / "checkpoints" / "p2_c.pt")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    rows = read_rows(args.table, ("id", "filename"))
    paths = locate(args.table, args.images, rows)
    writable_file(args.output)
    return on_device(args.device, lambda device: label(args, rows, paths, device))


def label(
    args: argparse.Namespace, rows: list[dict[str, str]], paths: list[Path], device: torch.device
) -> int:
    """The program's work on the device ``device``; the exit status."""
    predict, classes = predictor(args.checkpoint, device)
    fallback = classes[0]
    labels = dict.fromkeys(paths, fallback)
    stream = Stream(paths, data.decode, args.batch_size or (16 if device.type == "cpu" else 128))
    for batch in stream:
        labels.update(zip(batch.paths, (classes[k] for k in predict(batch.images)), strict=True))
    answers = [
        (row["id"], row["filename"], labels[path]) for row, path in zip(rows, paths, strict=True)
    ]
    write_rows(args.output, ("id", "filename", "label"), answers)
    return stream.report(devices.describe(device), f"the label {fallback}")


def predictor(path: Path, device: torch.device) -> tuple[Predictor, tuple[str, ...]]:
    """A checkpoint's network on ``device``: (N, 3, 128, 128) uint8 -> class indices (N,), and the classes.

    Raises InputError if it is no classifier of p2.
    """
    saved = checkpoint.load(path, "p2")
    if saved.architecture != ARCHITECTURE or not saved.classes:
        raise InputError(
            f"{path} is {saved.architecture}, not {ARCHITECTURE}; make one with p2.train"
        )
    network = Classifier(len(saved.classes))
    checkpoint.load_weights(network, saved.weights, str(path))
    network = devices.prepare(network.eval(), device)
    return Predictor(
        lambda images: logits(network, images, saved.flip_test).argmax(1), saved, device
    ), saved.classes


if __name__ == "__main__":
    entry(main)
