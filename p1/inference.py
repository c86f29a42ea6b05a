"""Label a folder of 32x32 images: ``bash hw1_1.sh <image folder> <output.csv>``."""

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
from torch import nn  # noqa: E402

from core import checkpoint, devices  # noqa: E402
from core.cli import InputError, Parser, entry  # noqa: E402
from core.files import list_files, writable_file  # noqa: E402
from core.inference import Predictor, Stream, flags, on_device  # noqa: E402
from core.predictions import write_rows  # noqa: E402
from p1 import data  # noqa: E402
from p1.model import build, logits  # noqa: E402

FALLBACK = data.CLASSES[0]  # the label of a file that cannot be read


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_1.sh", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of PNG or JPEG images")
    parser.add_argument("output", type=Path, help="csv to write: filename,label")
    flags(parser, ROOT / "checkpoints" / "p1_a.pt")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    paths = list_files(args.images, data.SUFFIXES)
    writable_file(args.output)
    return on_device(args.device, lambda device: label(args, paths, device))


def label(args: argparse.Namespace, paths: list[Path], device: torch.device) -> int:
    """The program's work on the device ``device``; the exit status."""
    network, saved = load_network(args.checkpoint, device)
    predict = Predictor(
        lambda images: logits(network, images, saved.flip_test).argmax(1), saved, device
    )

    labels = dict.fromkeys(paths, FALLBACK)
    stream = Stream(paths, data.decode, args.batch_size or (32 if device.type == "cpu" else 512))
    for batch in stream:
        labels.update(
            zip(batch.paths, (saved.classes[k] for k in predict(batch.images)), strict=True)
        )
    write_rows(
        args.output, ("filename", "label"), [(path.name, label) for path, label in labels.items()]
    )
    return stream.report(devices.describe(device), f"the label {FALLBACK}")


def load_network(path: Path, device: torch.device) -> tuple[nn.Module, checkpoint.Checkpoint]:
    """A checkpoint's network, ready on ``device``, and the checkpoint. Raises InputError if it is none of p1's 50 classes."""
    saved = checkpoint.load(path, "p1")
    if saved.classes != data.CLASSES:
        raise InputError(f"{path} is of {len(saved.classes)} classes, not of problem 1's 50")
    network = build(saved.architecture, len(saved.classes))
    checkpoint.load_weights(network, saved.weights, str(path))
    return devices.prepare(network.eval(), device), saved


if __name__ == "__main__":
    entry(main)
