"""Print the table of models, made from the manifest: ``python3 -m checkpoints``.

``checkpoints/README.md`` contains what it prints.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from checkpoints.manifest import read_manifest
from core.cli import Parser, answer, entry
from prediction.tables import wilson

MANIFEST = Path(__file__).resolve().parent / "manifest.json"
DATA = {
    "p1": "the course's p1_data",
    "p2": "a stand-in for p2_data (Tiny-ImageNet, Caltech-101)",
    "p3": "the course's p3_data",
}
HEADER = (
    "file",
    "network",
    "parameters",
    "multiply-adds",
    "MB",
    "validation score",
    "in training",
    "data",
    "initial weights",
    "recipe",
    "command",
    "licence",
)
TEXT = """# Weights

The weights that ship with this repository, and published weights that a training can start from.
`python3 -m checkpoints` generates this page from `manifest.json`.

```python
from checkpoints.models import load

model = load("checkpoints/p1_a.pt")
logits = model(images)  # (N, 3, 32, 32) uint8, RGB -> (N, 50); p2: 128x128 -> (N, 65); p3: any size
```

{shipped}

- **Multiply-adds** count one pass of one image with the given side in pixels.
- **Validation score** is what the graders' script reaches with this file, in float32. For accuracy,
  the brackets hold the 95 % Wilson interval.
- **In training** is what the training itself measured in its last epoch, possibly in bfloat16.

Useful commands:

- `bash hw1_download.sh` checks these files. They are in the repository and on no server, so
  `git checkout -- checkpoints` restores a missing or broken file.
- `python3 -m checkpoints.ship runs/RUN/last.pt NAME` adds a checkpoint.
- `python3 -m checkpoints.export --checkpoint FILE --onnx FILE` writes a checkpoint as ONNX.
- `python3 -m checkpoints.licences` lists the licences of packages, weights and data.

## Published weights to start from

`bash hw1_download.sh pretrained NAME` downloads one file to `pretrained/`;
`bash hw1_download.sh pretrained` downloads all of them.

{pretrained}
"""


def main() -> None:
    parser = Parser(prog="checkpoints", description=__doc__)
    parser.add_argument(
        "--manifest", type=Path, default=MANIFEST, help="list of the files (%(default)s)"
    )
    args = parser.parse_args()
    for part in ("checkpoints", "pretrained"):
        read_manifest(args.manifest, part)  # raises InputError if it is missing or broken
    answer(page(json.loads(args.manifest.read_text())).rstrip())


def page(manifest: dict[str, Any]) -> str:
    """The text of README.md; a dash marks what an entry of ``manifest`` does not contain."""
    header = ("name", "what", "score as published", "licence")
    rows = [
        (
            f"`{one['name']}`",
            *(str(one.get(field) or "-") for field in ("what", "score", "licence")),
        )
        for one in manifest.get("pretrained", [])
    ]
    shipped = table(HEADER, [row(one) for one in manifest["checkpoints"]])
    return TEXT.format(shipped=shipped, pretrained=table(header, rows))


def row(entry: dict[str, Any]) -> tuple[str, ...]:
    """The table cells of a manifest entry that ``checkpoints.ship`` wrote."""
    return (
        f"`{entry['name']}`",
        entry.get("architecture", "-"),
        f"{entry['parameters']:,}" if "parameters" in entry else "-",
        f"{entry['multiply_adds'] / 1e6:,.0f} M at {entry['side']} px"
        if "multiply_adds" in entry
        else "-",
        f"{entry['bytes'] / 1e6:.1f}" if entry.get("bytes") else "-",
        score(entry) if entry.get("graded") is not None else "-",
        f"{entry['value']:.4f}" if "value" in entry else "-",
        DATA.get(entry["name"].split("_")[0], "-"),
        entry.get("initial_weights", "-"),
        entry.get("recipe", "-"),
        f"`{entry['command']}`" if "command" in entry else "-",
        entry.get("licence", "-"),
    )


def score(entry: dict[str, Any]) -> str:
    """The score measured with the graders' script; for an accuracy, with its interval."""
    value, images = entry["graded"], entry["validation_images"]
    words = f"{entry['metric'].replace('mean_iou', 'mean IoU')} {value:.4f}"
    if entry["metric"] != "accuracy":
        return f"{words} ({images:,} images)"
    low, high = wilson(round(value * images), images)
    return f"{words} ({low:.3f} to {high:.3f}, {images:,} images)"


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    entry(main)
