"""Label 32x32 images: ``bash hw1_1.sh <image folder> <output.csv>``."""

from __future__ import annotations

import core  # noqa: F401  # checks Python and the packages before anything else is imported

# isort: split
import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from core import images
from core.cli import InputError, Parser, entry, file_path
from core.files import check_outputs, writable_file
from p1 import data
from prediction.flags import flags, top_flag
from prediction.labels import Labels
from prediction.stream import Stream, on_device
from prediction.tables import check_names, write_rows

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    import torch
    from torch import nn

    from core.checkpoint import Checkpoint
    from core.views import Views
    from prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
FALLBACK = data.CLASSES[0]  # the label of an image that cannot be read or is not done in time


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_1.sh", description=__doc__)
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        help="folder of PNG or JPEG images, image files, or a pattern such as 'a/*.png'",
    )
    parser.add_argument("output", type=file_path, help="csv to write: filename,label")
    flags(parser, ROOT / "checkpoints" / "p1_c.pt")
    top_flag(parser)
    return parser.parse_intermixed_args()  # flags may stand between the other arguments


def main() -> int:
    args = arguments()
    paths = images.find(args.images)
    check_names(paths)
    outputs = [writable_file(path) for path in (args.output, args.probabilities) if path]
    check_outputs(outputs, [args.checkpoint, *paths])
    with Stream(paths, data.decode, ahead=1024, stop_at=args.stop_at) as stream:
        return on_device(args.device, lambda device: label(args, stream, device))


def label(args: argparse.Namespace, stream: Stream, device: torch.device) -> int:
    """Do the program's work on ``device``; return the exit status."""
    from core import devices

    predict, classes, views = predictor(args.checkpoint, device, args.flip, args.bf16)
    labels = Labels(stream.paths, classes, FALLBACK, args)
    batch_size = args.batch_size or (32 if device.type == "cpu" else 512)
    for batch in stream.batches(batch_size, views.reduce):
        labels.add(batch.paths, predict(batch.images))
    rows = [(path.name, label) for path, label in labels.of.items()]
    write_rows(args.output, ("filename", "label"), rows)
    labels.write_more(("filename",), [(path.name,) for path in stream.paths])
    return stream.report(devices.describe(device), f"the label {FALLBACK}")


def predictor(
    path: Path, device: torch.device, flip: bool | None = None, bf16: bool = False
) -> tuple[Predictor, tuple[str, ...], Views]:
    """A checkpoint's predictor, its classes, and the views that it averages over.

    The predictor maps (N, 3, 32, 32) uint8 to logits (N, 50). If ``flip`` is None, the checkpoint
    decides. Raises InputError if the file is not a checkpoint of problem 1.
    """
    from core.views import Views
    from prediction.predictor import Predictor, fold

    network, saved = load_network(path, device)
    folded = fold(network, device, bf16)
    views = Views.of(saved, flip)
    predict = Predictor(lambda batch: views.logits(folded, batch), saved, device)
    return predict, saved.classes, views


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, Checkpoint]:
    """A checkpoint's network, ready on ``device``, and the checkpoint.

    Raises InputError if the file is not a checkpoint of problem 1 with its 50 classes.
    """
    from core import checkpoint
    from p1.model import build
    from prediction import predictor

    saved = checkpoint.load(path, "p1")
    if saved.classes != data.CLASSES:
        raise InputError(
            f"{path} was trained on other classes than problem 1's 0 to 49; use a checkpoint of "
            "p1.train"
        )
    make = functools.partial(build, saved.architecture, len(saved.classes))
    return predictor.load_network(make, saved, path, device), saved


if __name__ == "__main__":
    entry(main)
