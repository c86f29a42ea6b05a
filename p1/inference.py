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
from prediction.labels import label
from prediction.stream import Stream, on_device
from prediction.tables import check_names

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    import torch
    from torch import nn

    from core.checkpoint import Checkpoint
    from core.views import Views
    from prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]


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
    rows = [(path.name,) for path in paths]
    with Stream(paths, data.decode, ahead=1024, stop_at=args.stop_at) as stream:
        return on_device(
            args.device,
            lambda device: label(args, stream, device, predictor, ("filename",), rows, (32, 512)),
        )


def predictor(
    path: Path, device: torch.device, flip: bool | None = None, bf16: bool = False
) -> tuple[Predictor, tuple[str, ...], Views]:
    """A checkpoint's predictor, its classes, and the views that it averages over.

    The predictor maps (N, 3, 32, 32) uint8 to logits (N, 50). If ``flip`` is None, the checkpoint
    decides. Raises InputError if the file is not a checkpoint of problem 1.
    """
    from prediction.predictor import classifier

    network, saved = load_network(path, device)
    return classifier(network, saved, device, flip, bf16)


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
