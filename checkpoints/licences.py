"""List the licences of everything this project uses: ``python3 -m checkpoints.licences``.

Prints one line for each package in requirements.txt and requirements-dev.txt, with the licence
that the installed package states, and one for each file of weights or data in the manifest.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path

from checkpoints.manifest import FOLDERS, read_manifest
from core.cli import Parser, answer, entry

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ("requirements.txt", "requirements-dev.txt")
UNKNOWN = "no licence stated"


def main() -> None:
    parser = Parser(prog="checkpoints.licences", description=__doc__)
    parser.add_argument(
        "--manifest",
        type=Path,
        default=ROOT / "checkpoints" / "manifest.json",
        help="list of the files (%(default)s)",
    )
    args = parser.parse_args()
    lines = [line for name in REQUIREMENTS for line in of_packages(ROOT / name)]
    answer("\n".join([*lines, *of_files(args.manifest)]))


def of_packages(requirements: Path) -> Iterator[str]:
    """``requirements.txt: package version: licence`` for each package that the file lists."""
    for line in requirements.read_text().splitlines():
        if package := re.match(r"[\w.-]+", line):
            yield f"{requirements.name}: {_of_package(package[0])}"


def _of_package(package: str) -> str:
    try:
        metadata = importlib.metadata.metadata(package)
    except importlib.metadata.PackageNotFoundError:
        return f"{package}: not installed"
    text = metadata.get("License-Expression") or ""
    if not text:  # the package is older than PEP 639
        classifiers = metadata.get_all("Classifier") or []
        names = [name.split(" :: ")[-1] for name in classifiers if name.startswith("License :: ")]
        first = next(iter((metadata.get("License") or "").strip().splitlines()), "")
        text = ", ".join(names) or ("" if first == "UNKNOWN" else first) or UNKNOWN
    return f"{package} {metadata['Version']}: {text}"


def of_files(manifest: Path) -> Iterator[str]:
    """``folder/name: licence`` for each file that the manifest lists.

    Raises InputError if the manifest is missing or broken.
    """
    for what, folder in FOLDERS.items():
        for one in read_manifest(manifest, what):
            yield f"{folder}/{one.name}: {one.licence or UNKNOWN}"


if __name__ == "__main__":
    entry(main)
