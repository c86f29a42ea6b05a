"""What ``mean_iou_evaluate.py`` is compared with: ``python3 -m benchmarks.metric decode|naive``.

``decode`` is a lower bound: Pillow decodes both folders in two threads, and nothing else is done.
``naive`` computes the formula literally: all masks in memory, one boolean mask per class, sums in
float64. Both take two folders that contain the same file names.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THREADS = 2  # as in mean_iou_evaluate.py
CLASSES = 6  # the classes of the mean; class 6 is unknown
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
    """The ``*_mask.png`` files of a folder or, if it has none, its ``*.png`` files."""
    return sorted(folder.glob("*_mask.png")) or sorted(folder.glob("*.png"))


def decode(truths: list[Path], predictions: list[Path]) -> None:
    """Decode all masks and discard the pixels."""
    from PIL import Image  # no numpy: the lower bound includes the start of the program

    def load(path: Path) -> None:
        with Image.open(path) as image:
            image.load()

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(load, truths + predictions):
            pass


def naive(truths: list[Path], predictions: list[Path]) -> None:
    """Print TP / (TP + FP + FN) of each class and the mean, as mean_iou_evaluate.py does."""
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
