"""The flags of all training commands: the run's folder, its initial weights, when it stops.

``training.recipes`` has those that choose and change the recipe.
"""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import Any

from core import cli
from core.cli import InputError
from core.efficientnet_lite import imagenet_file


def command_line(description: str | None, *, data: str, run: str) -> cli.Parser:
    """Return a parser with the flags of all training commands.

    ``data``, ``run``: the default folders. ``--help`` is an ordinary flag here:
    ``recipes.choose_recipe`` handles it, since it knows the recipe.
    """
    parser = cli.Parser(
        prog=f"python3 -m {cli.program()}",
        description=description,
        add_help=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--help", "-h", action="store_true", help="show this help and the values of the recipe")
    add(
        "--recipe",
        default="original",
        help="name of a recipe, or list to see them all (%(default)s)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change a value of the recipe; may be repeated (see the end of --help)",
    )
    add(
        "--epochs",
        type=cli.positive,
        help="like --set epochs=, but in the recipe's own run folder: a run gets longer if its "
        "schedule allows it",
    )
    add("--batch-size", type=cli.positive, help="like --set batch_size=, but in the same folder")
    add("--data", type=Path, default=Path(data), help="folder in the course's layout (%(default)s)")
    add("--run", type=Path, help=f"run folder ({run})")
    add("--seed", type=int, default=0, help="seed of all random numbers (%(default)s)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (%(default)s)")
    add(
        "--data-memory",
        type=cli.gibibytes,
        metavar="GIB",
        default=cli.free_memory() // 2,
        help="larger data sets stay on disk, memory-mapped (half of the free memory)",
    )
    add("--fresh", action="store_true", help="start over; an existing run is renamed, not resumed")
    add(
        "--max-minutes",
        type=cli.minutes_from_start,
        metavar="MINUTES",
        dest="stop_at",
        default=math.inf,
        help="save and stop within this time; run the same command to continue",
    )
    add(
        "--save-minutes",
        type=cli.minutes,
        metavar="MINUTES",
        default=5.0,
        help="save this often; a kill loses no more steps than that (%(default)s)",
    )
    add(
        "--preview",
        type=cli.file_path,
        metavar="FILE.png",
        help="write the first batch as the network would see it, and exit",
    )
    return parser


def tune_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--tune``, which replaces the validation images: see ``loop.split_for_tune``."""
    parser.add_argument(
        "--tune",
        action="store_true",
        help="hold out a tenth of the training split and validate on that, to choose a recipe; if "
        "the recipe starts from another run's weights, train that run with --tune first; copies "
        "all images into memory, whatever --data-memory says",
    )


def initial_weights(args: argparse.Namespace, recipe: Any, architecture: str) -> Path | None:
    """Return the file that ``--pretrained`` or else the recipe names; None for random weights.

    ``imagenet`` is a file in an installed package. Sets ``args.pretrained`` to the name used.
    Raises InputError if ``architecture``, as in a checkpoint, has no EfficientNet-Lite backbone for
    it, if the package is missing, or if the recipe's file is not there.
    """
    given, args.pretrained = args.pretrained, args.pretrained or recipe.pretrained
    if args.pretrained in ("", "none"):
        args.pretrained = None
        return None
    if args.pretrained == "imagenet":
        backbone = re.search("efficientnet_(lite[0-9])", architecture)
        if not backbone:
            raise InputError("--pretrained imagenet is for model C; give a file of weights")
        return imagenet_file(backbone[1])
    if not given and getattr(args, "tune", False):
        # The run that this recipe continues must not have seen the images that --tune holds out.
        args.pretrained = re.sub(r"^(runs/p\d_[A-C]_\w+)/", r"\1_tune/", args.pretrained)
    path = Path(args.pretrained)
    if not given and not path.is_file():
        raise InputError(
            f"recipe {recipe.name} starts from {path}, which does not exist; make it first (see "
            "the README in the problem's folder), or choose another file with --pretrained"
        )
    return path


def run_folder(args: argparse.Namespace, prefix: str, recipe: Any) -> Path:
    """Return ``--run`` or ``runs/PREFIX_RECIPE``, extended by ``--tune`` and ``--set`` changes."""
    tune = ["tune"] if getattr(args, "tune", False) else []
    changes = [change.replace("/", "-").replace(" ", "") for change in args.set]
    return args.run or Path("runs") / "_".join([prefix, recipe.name, *tune, *changes])


def run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``training.run.Run`` that are flags."""
    return {
        "seed": args.seed,
        "fresh": args.fresh,
        "stop_at": args.stop_at,
        "save_minutes": args.save_minutes,
    }
