"""Score a prediction csv by accuracy: ``python3 -m p2.score <predictions.csv> <labels.csv>``."""

from __future__ import annotations

from pathlib import Path

from core.cli import Parser, answer, entry
from prediction.tables import accuracy, read_labels


def main() -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("predictions", type=Path, help="csv: id,filename,label")
    parser.add_argument("truth", type=Path, help="csv with the same columns and the true labels")
    args = parser.parse_args()
    answer(accuracy(read_labels(args.predictions), read_labels(args.truth)))


if __name__ == "__main__":
    entry(main)
