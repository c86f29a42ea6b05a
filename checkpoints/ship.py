"""Add a trained checkpoint to those that ship.

``python3 -m checkpoints.ship runs/p1_A_hour/last.pt p1_a.pt`` scores it with the graders' script,
copies it to ``checkpoints/``, and updates the manifest and the table in README.md there.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from checkpoints import models
from checkpoints.__main__ import page
from checkpoints.export import SIZE
from checkpoints.graded import graded
from checkpoints.manifest import read_manifest
from core import checkpoint
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write, writable_file
from training import provenance

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("source", type=Path, help="a run's last.pt or best.pt")
    parser.add_argument("name", help="file name in checkpoints/: p1_a.pt, p2_c.pt, p3_c.pt, ...")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("hw1_data"),
        help="data set whose validation images it is scored on (%(default)s)",
    )
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="folder of the shipped files (%(default)s)"
    )
    args = parser.parse_args()
    # All this raises InputError before the minutes that scoring takes.
    read_manifest(args.folder / "manifest.json", "checkpoints")
    for name in ("manifest.json", "README.md"):
        writable_file(args.folder / name)
    fields = describe(args.source, args.name, args.data)
    manifest = json.loads((args.folder / "manifest.json").read_text())
    others = [one for one in manifest["checkpoints"] if one["name"] != args.name]
    manifest["checkpoints"] = sorted([*others, fields], key=lambda one: one["name"])
    table = page(manifest)
    packed = args.source.read_bytes()
    if hashlib.sha256(packed).hexdigest() != fields["sha256"]:
        raise InputError(
            f"{args.source} changed while it was scored; ship it again when its training has ended"
        )
    if args.source.resolve() != (args.folder / args.name).resolve():
        with atomic_write(args.folder / args.name) as file:
            file.write(packed)
    with atomic_write(args.folder / "manifest.json") as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
    with atomic_write(args.folder / "README.md") as file:
        file.write(table.encode())
    by_script = (
        f"{fields['graded']:.4f}" if fields["graded"] is not None else "no validation images"
    )
    say(f"{args.name}: {fields['bytes']:,} bytes, {fields['score']}; graders' script: {by_script}")


def describe(source: Path, name: str, data: Path = Path("hw1_data")) -> dict[str, Any]:
    """The manifest entry of the checkpoint ``source`` under the file name ``name``.

    Raises InputError if ``name`` is not such a name, or if ``source`` is not a checkpoint of the
    problem in ``name``, is too large or, like a backbone, has no score.
    """
    if not re.fullmatch(r"p[123]_\w+\.pt", name):
        raise InputError(f"{name!r} is not the name of a shipped file, such as p1_a.pt")
    problem = name.split("_")[0]
    saved = checkpoint.load(source, problem)
    packed = source.read_bytes()
    if len(packed) > checkpoint.MAX_BYTES:
        raise InputError(
            f"{source} has {len(packed):,} bytes; a file in the repository may have at most "
            f"{checkpoint.MAX_BYTES:,}"
        )
    metric = next((score for score in ("accuracy", "mean_iou") if score in saved.scores), None)
    if metric is None:
        raise InputError(
            f"{source} is {saved.architecture} without a score; give a checkpoint "
            "that pN.train wrote"
        )
    made, value = saved.made, saved.scores[metric]
    network = models.load(source).network
    score = graded(source.resolve(), problem, data.resolve())
    start = made.get("data", {})
    begin = start.get("pretrained", start.get("backbone", "None"))
    seen = ", contaminated" if provenance.is_contaminated(start) else ""
    return {
        "name": name,
        "bytes": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
        "url": None,
        "licence": "MIT for the weights' file; the data it learned from have their own terms",
        "architecture": saved.architecture,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        "multiply_adds": multiply_adds(network, SIZE[problem]),
        "side": SIZE[problem],
        "recipe": saved.recipe["name"],
        "initial_weights": ("random" if begin in ("None", None) else str(begin)) + seen,
        "what": f"{saved.architecture}, recipe {saved.recipe['name']}, epoch {made['epoch']}, "
        f"seed {made['seed']}",
        "command": made["command"],
        "made": f"{made['command']} at commit {made['commit']}",
        "score": f"validation {metric} {value:.4f} (in training)",
        "metric": metric,
        "value": value,
        "graded": score[0] if score else None,
        "validation_images": score[1] if score else None,
    }


@torch.no_grad()
def multiply_adds(network: torch.nn.Module, side: int) -> int:
    """Multiply-adds of the convolutions and linear layers for one image, ``side`` x ``side``."""
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    entry(main)
