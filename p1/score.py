"""Score a prediction csv by accuracy.

``python3 -m p1.score <predictions.csv> <labels.csv or labelled image folder>``
"""

from __future__ import annotations

from pathlib import Path

from core import images
from core.cli import Parser, answer, entry
from core.files import list_files
from p1 import data
from prediction.tables import accuracy, read_labels


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("predictions", type=Path, help="csv: filename,label")
    parser.add_argument(
        "truth", type=Path, help="csv with the same columns, or a folder of {label}_{id}.png"
    )
    args = parser.parse_args()
    if args.truth.is_dir():
        truth = {
            path.name: str(data.label_of(path.name))
            for path in list_files(args.truth, images.SUFFIXES)
        }
    else:
        truth = read_labels(args.truth)
    answer(accuracy(read_labels(args.predictions), truth))


if __name__ == "__main__":
    entry(main)
