"""What ``mean_iou_evaluate.py`` stands beside: ``python3 -m benchmarks.metric decode|naive``.

``decode`` is the floor: Pillow decodes both folders in two threads, and nothing else is done.
``naive`` is the formula as it stands: all masks in memory, a boolean mask a class, sums in float64.
Both take two folders of equal names.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = 2  # as many as mean_iou_evaluate.py has
CLASSES = 6  # of the mean; 6 itself is unknown
COLOURS = ((0, 255, 255), (255, 255, 0), (255, 0, 255), (0, 255, 0), (0, 0, 255), (255, 255, 255))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.metric", description=__doc__)
    parser.add_argument("way", choices=["decode", "naive"])
    parser.add_argument(
        "-g", "--labels", type=Path, required=True, metavar="FOLDER", help="the true masks, *.png"
    )
    parser.add_argument(
        "-p",
        "--pred",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="the predicted masks, same names",
    )
    args = parser.parse_args()
    (decode if args.way == "decode" else naive)(masks(args.labels), masks(args.pred))


def masks(folder: Path) -> list[Path]:
    """The ``*_mask.png`` of a folder or, if it has none, its ``*.png``."""
    return sorted(folder.glob("*_mask.png")) or sorted(folder.glob("*.png"))


def decode(truths: list[Path], predictions: list[Path]) -> None:
    """Decode all masks and drop the pixels."""
    from PIL import Image  # the floor has no numpy, and its start counts

    def load(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(load, truths + predictions):
            pass


def naive(truths: list[Path], predictions: list[Path]) -> None:
    """Print, as mean_iou_evaluate.py does, each class's TP / (TP + FP + FN), and the mean."""
    import imageio.v3 as iio
    import numpy as np

    def read(paths: list[Path]) -> np.ndarray:
        every = np.full((len(paths), *iio.imread(paths[0]).shape[:2]), CLASSES, dtype=np.float64)
        for classes, path in zip(every, paths, strict=True):
            on = iio.imread(path) >= 128
            for k, colour in enumerate(COLOURS):
                classes[(on == (np.array(colour) >= 128)).all(axis=-1)] = k
        return every

    truth, predicted = read(truths), read(predictions)
    ious = []
    for k in range(CLASSES):
        true_positives = np.sum((predicted == k) & (truth == k), dtype=np.float64)
        union = (
            np.sum(predicted == k, dtype=np.float64)
            + np.sum(truth == k, dtype=np.float64)
            - true_positives
        )
        ious.append(true_positives / union if union else np.nan)
        print(f"class #{k} : {ious[-1]:1.5f}")
    print(f"\nmean_iou: {np.nanmean(ious):f}\n")


if __name__ == "__main__":
    main()
