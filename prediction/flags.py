"""The flags that the inference programs share."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from core.cli import file_path, minutes, positive


def flags(parser: argparse.ArgumentParser, checkpoint: Path) -> None:
    """Add the flags that all inference programs share."""
    parser.add_argument(
        "--checkpoint", type=Path, default=checkpoint, help="checkpoint to use (%(default)s)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        help="auto (a working GPU, otherwise the CPU), cpu, cuda or cuda:N",
    )
    parser.add_argument(
        "--batch-size", type=positive, help="images per batch; halved when memory runs out"
    )
    parser.add_argument(
        "--bf16",
        action="store_true",
        help="use bfloat16 if the machine has it: faster, less precise",
    )
    parser.add_argument(
        "--flip",
        action=argparse.BooleanOptionalAction,
        help="average over the image and its mirror image (as the checkpoint says)",
    )
    parser.add_argument(
        "--max-minutes",
        type=deadline,
        default="9",
        metavar="MINUTES",
        dest="stop_at",
        help="time limit; if it is too short, average over fewer views of each image, then use the "
        "fallback for the rest (%(default)s; inf: no limit)",
    )
    parser.add_argument(
        "--probabilities", type=file_path, metavar="CSV", help="also write the network's confidence"
    )


def deadline(text: str) -> float:
    """An argparse type: minutes from now, or inf, as a time of ``time.monotonic``."""
    return math.inf if text == "inf" else time.monotonic() + 60 * minutes(text)


def top_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--top``, for the programs that label whole images."""
    parser.add_argument(
        "--top",
        type=positive,
        metavar="K",
        help="also print the K most likely labels of each image",
    )
