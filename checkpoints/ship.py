"""Make a trained checkpoint one that ships: ``python3 -m checkpoints.ship runs/p1_A_hour/last.pt p1_a.pt``.

Copies it to ``checkpoints/`` and writes its entry in the manifest, from what the checkpoint says of itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from checkpoints.download import read_manifest
from core import checkpoint
from core.cli import InputError, Parser, entry, say
from core.files import atomic_write

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints"


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("source", type=Path, help="a run's last.pt or best.pt")
    parser.add_argument("name", help="file name in checkpoints/: p1_a.pt, p2_c.pt, p3_b.pt, ...")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="%(default)s")
    args = parser.parse_args()
    fields = describe(args.source, args.name)
    read_manifest(
        args.folder / "manifest.json", "checkpoints"
    )  # raises if there is none, or it is broken
    manifest = json.loads((args.folder / "manifest.json").read_text())
    others = [one for one in manifest["checkpoints"] if one["name"] != args.name]
    manifest["checkpoints"] = sorted([*others, fields], key=lambda one: one["name"])
    with atomic_write(args.folder / args.name) as file:
        file.write(args.source.read_bytes())
    with atomic_write(args.folder / "manifest.json") as file:
        file.write((json.dumps(manifest, indent=2) + "\n").encode())
    say(f"{args.name}: {fields['bytes']:,} bytes, {fields['score']}")


def describe(source: Path, name: str) -> dict[str, object]:
    """The manifest's entry.

    Raises InputError if ``source`` is no checkpoint of the problem in ``name``, is too large, or has no score (a backbone).
    """
    saved = checkpoint.load(source, name.split("_")[0])
    content = source.read_bytes()
    if len(content) > checkpoint.MAX_BYTES:
        raise InputError(
            f"{source} has {len(content):,} bytes; at most {checkpoint.MAX_BYTES:,} may lie in the repository"
        )
    watched = next((score for score in ("accuracy", "mean_iou") if score in saved.scores), None)
    if watched is None:
        raise InputError(
            f"{source} is {saved.architecture} without a score; give a checkpoint that pN.train wrote"
        )
    made = saved.made
    return {
        "name": name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "url": None,
        "licence": "MIT for the weights' file; the data it learned from have their own terms",
        "what": f"{saved.architecture}, recipe {saved.recipe['name']}, epoch {made['epoch']}, seed {made['seed']}",
        "made": f"{made['command']} at commit {made['commit']}",
        "score": f"validation {watched} {saved.scores[watched]:.4f} (in training)",
    }


if __name__ == "__main__":
    entry(main)
