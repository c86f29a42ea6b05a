"""Label the images in a csv: ``bash hw1_2.sh <images.csv> <image folder> <output.csv>``."""

from __future__ import annotations

import core  # noqa: F401  # checks Python and the packages before anything else is imported

# isort: split
import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from core import images
from core.cli import Parser, entry, file_path
from core.files import check_outputs, writable_file
from p2 import data
from prediction.flags import flags, top_flag
from prediction.labels import Labels
from prediction.stream import Stream, on_device
from prediction.tables import check_names, locate, read_rows, write_rows

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    import torch

    from core.views import Views
    from prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_2.sh", description=__doc__)
    parser.add_argument(
        "table",
        metavar="images.csv",
        type=Path,
        nargs="?",
        help="csv with the columns id and filename; without it, all images, numbered from 0",
    )
    parser.add_argument(
        "images",
        type=Path,
        help="folder of the images; without a csv, also a file or a pattern such as 'a/*.jpg'",
    )
    parser.add_argument("output", type=file_path, help="csv to write: id,filename,label")
    flags(parser, ROOT / "checkpoints" / "p2_c.pt")
    top_flag(parser)
    return parser.parse_intermixed_args()  # flags may stand between the other arguments


def main() -> int:
    args = arguments()
    if args.table:
        table = read_rows(args.table, ("id", "filename"))
        paths = locate(args.table, args.images, table)
        rows = [(row["id"], row["filename"]) for row in table]
    else:
        paths = images.find([args.images])
        check_names(paths)
        rows = [(str(number), path.name) for number, path in enumerate(paths)]
    outputs = [writable_file(path) for path in (args.output, args.probabilities) if path]
    check_outputs(outputs, [args.checkpoint, *([args.table] if args.table else []), *paths])
    with Stream(paths, data.decode, ahead=512, stop_at=args.stop_at) as stream:
        return on_device(args.device, lambda device: label(args, rows, stream, device))


def label(
    args: argparse.Namespace, rows: list[tuple[str, str]], stream: Stream, device: torch.device
) -> int:
    """Do the program's work on ``device``; return the exit status."""
    from core import devices

    predict, classes, views = predictor(args.checkpoint, device, args.flip, args.bf16)
    labels = Labels(stream.paths, classes, classes[0], args)
    batch_size = args.batch_size or (16 if device.type == "cpu" else 128)
    for batch in stream.batches(batch_size, views.reduce):
        labels.add(batch.paths, predict(batch.images))
    answers = [(*row, label) for row, label in zip(rows, labels.of.values(), strict=True)]
    write_rows(args.output, ("id", "filename", "label"), answers)
    labels.write_more(("id", "filename"), rows)
    return stream.report(devices.describe(device), f"the label {classes[0]}")


def predictor(
    path: Path, device: torch.device, flip: bool | None = None, bf16: bool = False
) -> tuple[Predictor, tuple[str, ...], Views]:
    """A checkpoint's predictor, its classes, and the views that it averages over.

    The predictor maps (N, 3, 128, 128) uint8 to logits (N, classes). If ``flip`` is None, the
    checkpoint decides. Raises InputError if the file is not a classifier of problem 2.
    """
    from core import checkpoint
    from core.views import Views
    from p2.model import build
    from prediction.predictor import Predictor, fold, load_network

    saved = checkpoint.load(path, "p2")
    count = len(saved.classes)
    network = load_network(lambda: build(saved.architecture, count), saved, path, device)
    folded = fold(network, device, bf16)
    views = Views.of(saved, flip)
    predict = Predictor(lambda batch: views.logits(folded, batch), saved, device)
    return predict, saved.classes, views


if __name__ == "__main__":
    entry(main)
