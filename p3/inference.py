"""Segment satellite images: ``bash hw1_3.sh <image folder> <output folder>``."""

from __future__ import annotations

import core  # noqa: F401  # checks Python and the packages before anything else is imported

# isort: split
import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from core import images
from core.cli import InputError, Parser, entry, some
from core.files import atomic_write, check_outputs, output_folder, writable_file
from core.threads import InOrder
from p3 import data
from prediction import tiles
from prediction.flags import flags
from prediction.stream import Batch, Stream, on_device
from prediction.tables import write_rows

if TYPE_CHECKING:  # torch is imported while threads decode files: see prediction.stream
    import torch
    from torch import Tensor, nn

    from core.views import Views
    from prediction.predictor import Predictor

ROOT = Path(__file__).resolve().parents[1]
# An image that cannot be read, or is not done in time, gets a mask of the most common class. If the
# header does not give its size, the mask has the size of the course's images.
FALLBACK = data.CLASSES.index("agriculture")
FALLBACK_SIZE = (512, 512)
# Classes and, if requested, confidences: (H, W) uint8 each.
Planes = np.ndarray | Sequence[np.ndarray]
# PNG packs at most some 1,030 bytes, so grey pixels, into one byte. JPEG packs fewer.
PIXELS_PER_BYTE = 1100
GREY = np.arange(256, dtype=np.uint8)[:, None]


def arguments() -> argparse.Namespace:
    parser = Parser(prog="hw1_3.sh", description=__doc__)
    parser.add_argument(
        "images",
        type=Path,
        nargs="+",
        help="folder of images xxxx_sat.jpg (or xxxx.jpg) of any size, image files, or a pattern "
        "such as 'a/*.jpg'",
    )
    parser.add_argument("output", type=Path, help="folder for xxxx_mask.png (or xxxx.png)")
    flags(parser, ROOT / "checkpoints" / "p3_c.pt")
    parser.add_argument(
        "--rotate",
        action=argparse.BooleanOptionalAction,
        help="average over the image's four quarter turns (as the checkpoint says)",
    )
    parser.add_argument(
        "--confidence",
        type=Path,
        metavar="FOLDER",
        help="also write the network's confidence in each pixel, as grey images (255 is 1)",
    )
    return parser.parse_intermixed_args()  # flags may stand between the other arguments


def main() -> int:
    args = arguments()
    paths = images.find(args.images, data.select)
    data.check_names(paths)
    outputs = [args.output / data.mask_name(path.name) for path in paths]
    there = [path.name for path in outputs if os.path.lexists(path)]
    if there and args.output.resolve() in {path.parent.resolve() for path in paths}:
        # Masks in the images' folder may be the ground truth.
        raise InputError(
            f"{some(there)} in {args.output} would be overwritten; choose another output folder"
        )
    output_folder(args.output)
    if args.confidence:
        output_folder(args.confidence)
        outputs += [args.confidence / confidence_name(path) for path in paths]
    if args.probabilities:
        outputs.append(writable_file(args.probabilities))
    check_outputs(outputs, [args.checkpoint, *paths])
    # At most 96 MiB of decoded images wait, or a single larger image.
    with Stream(paths, images.read_rgb, 2**25, pixels_in_header, args.stop_at) as stream:
        return on_device(args.device, lambda device: segment(args, stream, device))


def pixels_in_header(path: Path) -> int:
    height, width = images.size_in_header(path) or FALLBACK_SIZE
    return height * width


def confidence_name(path: Path) -> str:
    return data.mask_name(path.name).removesuffix(".png").removesuffix("_mask") + "_confidence.png"


def segment(args: argparse.Namespace, stream: Stream, device: torch.device) -> int:
    """Do the program's work on ``device``; return the exit status."""
    from core import devices

    sure = bool(args.confidence or args.probabilities)
    predict, views = predictor(args.checkpoint, device, args.flip, args.bf16, sure, args.rotate)
    confidences: dict[Path, str] = {}

    def write(answer: tuple[Path, Planes]) -> None:
        path, planes = answer
        with atomic_write(args.output / data.mask_name(path.name)) as file:
            images.write_png(file, planes[0], data.COLOURS)
        if args.confidence:
            with atomic_write(args.confidence / confidence_name(path)) as file:
                images.write_png(file, planes[1], GREY)
        if args.probabilities:
            confidences[path] = f"{planes[1].mean(dtype=np.float64) / 255:.6f}"

    # At most 32 MiB of masks wait to be written, or a single larger mask.
    batch_size = args.batch_size or (2 if device.type == "cpu" else 8)
    every = answers(stream, predict, batch_size, views.reduce)
    for _ in InOrder(write, every, 2**25, cost=lambda answer: answer[1][0].size):
        pass
    if args.probabilities:
        rows = [(path.name, confidences[path]) for path in stream.paths]
        write_rows(args.probabilities, ("filename", "confidence"), rows)
    return stream.report(devices.describe(device), f"a mask that is all {data.CLASSES[FALLBACK]}")


def answers(
    stream: Stream, predict: Predictor, batch_size: int, simplify: Callable[[], str]
) -> Iterator[tuple[Path, Planes]]:
    """Each image's path and planes; the images that get the fallback come last."""
    for batch in stream.batches(batch_size, simplify):
        yield from segmented(batch, stream, predict)
        del batch  # frees a large image before the next one is decoded
    for path in (*stream.bad, *stream.late):
        size = fallback_size(path)
        yield path, [np.broadcast_to(np.uint8(value), size) for value in (FALLBACK, 0)]


def segmented(batch: Batch, stream: Stream, predict: Predictor) -> Iterator[tuple[Path, Planes]]:
    """The path and planes of each image of a batch, except those for which no time is left."""
    from core import devices

    if max(batch.images.shape[2:]) <= tiles.TILE:
        yield from zip(batch.paths, predict(batch.images), strict=True)
        return
    for path, image in zip(batch.paths, batch.images, strict=True):
        devices.return_freed_memory()  # memory that decoding has freed
        planes = tiles.in_tiles(predict, image, stream.time_is_up)
        devices.return_freed_memory()  # the next image may be as large
        if planes is None:
            stream.late.append(path)
        else:
            yield path, planes


def fallback_size(path: Path) -> tuple[int, int]:
    """(height, width) of the mask for a broken image.

    The size in the header is used if the file is large enough to contain so many pixels.
    """
    size = images.size_in_header(path)
    if size is None or size[0] * size[1] > PIXELS_PER_BYTE * os.path.getsize(path):
        return FALLBACK_SIZE
    return size


def predictor(
    path: Path,
    device: torch.device,
    flip: bool | None = None,
    bf16: bool = False,
    confidence: bool = False,
    rotate: bool | None = None,
) -> tuple[Predictor, Views]:
    """A checkpoint's predictor, and the views that it averages over.

    The predictor maps (N, 3, H, W) uint8 to the result of ``classify``. If ``flip`` or ``rotate``
    is None, the checkpoint decides. Raises InputError if the file is not a checkpoint of problem 3.
    """
    from core import checkpoint
    from core.views import Views
    from p3.model import build
    from prediction.folding import fold
    from prediction.predictor import Predictor, load_network

    saved = checkpoint.load(path, "p3")
    if saved.classes != data.CLASSES:
        raise InputError(
            f"{path} was trained on other classes than problem 3's {len(data.CLASSES)}; use a "
            "checkpoint of p3.train"
        )
    network = load_network(lambda: build(saved.architecture), saved, path, device)
    folded = fold(network, device, bf16)
    views = Views.of(saved, flip, rotate)
    predict = Predictor(lambda batch: classify(folded, batch, views, confidence), saved, device)
    return predict, views


def classify(network: nn.Module, batch: Tensor, views: Views, confidence: bool = False) -> Tensor:
    """Classify each pixel: normalised images (N, 3, H, W) of any size -> (N, 1, H, W) uint8.

    With ``confidence``, the result is (N, 2, H, W): also the class's probability, scaled to 0..255.
    A side shorter than 32 pixels, the least that the networks accept, is padded with its edge
    pixels.
    """
    import torch
    from torch import nn

    from core.views import SMALLEST

    height, width = batch.shape[2:]
    pads = (0, max(0, SMALLEST - width), 0, max(0, SMALLEST - height))
    batch = nn.functional.pad(batch, pads, mode="replicate") if any(pads) else batch
    out = views.logits(network, batch)[:, :, :height, :width]
    # argmax would take 1.3 times as long, and 10 times in contiguous layout.
    best, classes = out.max(1)
    if not confidence:
        return classes[:, None].to(torch.uint8)
    probability = (best - out.logsumexp(1)).exp()
    return torch.stack([classes, (255 * probability).round()], 1).to(torch.uint8)


if __name__ == "__main__":
    entry(main)
