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
from prediction.labels import label
from prediction.stream import Stream, on_device
from prediction.tables import check_names, locate, read_rows

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
        columns = ("id", "filename")
        return on_device(
            args.device,
            lambda device: label(args, stream, device, predictor, columns, rows, (16, 128)),
        )


def predictor(
    path: Path, device: torch.device, flip: bool | None = None, bf16: bool = False
) -> tuple[Predictor, tuple[str, ...], Views]:
    """A checkpoint's predictor, its classes, and the views that it averages over.

    The predictor maps (N, 3, 128, 128) uint8 to logits (N, classes). If ``flip`` is None, the
    checkpoint decides. Raises InputError if the file is not a classifier of problem 2.
    """
    from core import checkpoint
    from p2.model import build
    from prediction.predictor import classifier, load_network

    saved = checkpoint.load(path, "p2")
    count = len(saved.classes)
    network = load_network(lambda: build(saved.architecture, count), saved, path, device)
    return classifier(network, saved, device, flip, bf16)


if __name__ == "__main__":
    entry(main)
