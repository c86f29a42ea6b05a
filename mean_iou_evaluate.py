"""Problem 3's metric: the mean IoU of a folder of predicted masks against a folder of true ones.

    python3 mean_iou_evaluate.py -g <ground truth folder> -p <prediction folder> [--verbose]

IoU = TP / (TP + FP + FN) of a class, counted over the pixels of the whole set; mean_iou is the mean over classes 0 to 5.
Unknown is no class of the mean, but a class predicted on unknown pixels has false positives there. A colour channel is
on from 128 up; pixels are classes by their colour, and pure red, which is nobody's colour, is unknown.

On valid input the printed digits are those of the course's script, whose faults are not shared:
- a red pixel has no row in its table and gets whatever lay in memory: here it is unknown;
- a class that is in neither folder makes its mean NaN: here the class is left out, and stderr says so;
- it zips two sorted lists, whatever the names: here masks are paired by name, and one that is missing, extra, of another
  size or unreadable stops the run and is named;
- it takes 512x512 RGB only: here any size and colour mode;
- it holds all masks at once, 8 bytes a pixel: here only their counts, so that memory does not grow with the set.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import imageio.v3 as iio
    import numpy as np
except ModuleNotFoundError as error:
    print(
        f"mean_iou_evaluate.py: this Python ({sys.executable}) has no {error.name}; "
        "install what is needed with: pip install -r requirements.txt (or use .venv: . .venv/bin/activate)",
        file=sys.stderr,
    )
    sys.exit(2)

CLASSES = ("urban", "agriculture", "rangeland", "forest", "water", "barren", "unknown")
UNKNOWN = 6  # no class of the mean
CLASS_OF_CODE = np.array([6, 4, 3, 0, 6, 2, 1, 5])  # the code is 4 red + 2 green + blue
THREADS = 2  # each one more costs 3 to 4 MB
AHEAD = 32  # pairs handed to the threads at a time
BLOCK = 1 << 18  # pixels counted at a time: a mask of 512x512
NAMES_TOLD = 5
BAD_INPUT = 2  # exit status; nothing was printed on stdout


class InputError(Exception):
    """The folders cannot be compared. The message is one line: what, where, what to do."""


class BadPair(Exception):
    """A pair of masks cannot be compared; the message names the file and says why."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Mean IoU of predicted masks: classes 0 to 5, over the pixels of all masks."
    )
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
    parser.add_argument("--verbose", action="store_true", help="also print all counts, on stderr")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # Pillow's, on oddities of a file that it decodes nevertheless
    matrix = confusion(args.labels, args.pred)
    mean, ious = mean_iou(matrix)
    if args.verbose:
        print(table(matrix, ious), file=sys.stderr)
    absent = [f"#{c} ({CLASSES[c]})" for c in range(UNKNOWN) if np.isnan(ious[c])]
    if len(absent) == UNKNOWN:
        print(
            "note: all pixels of both folders are unknown, so there is no class to take a mean of",
            file=sys.stderr,
        )
    elif absent:
        print(
            f"note: left out of the mean, being in neither folder: class {', '.join(absent)}",
            file=sys.stderr,
        )
    for c, iou in enumerate(ious):
        print(f"class #{c} : {iou:1.5f}")
    print(f"\nmean_iou: {mean:f}\n")


def mean_iou(matrix: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over classes 0..5 and each one's IoU, (6,) float64, from a confusion matrix (7, 7).

    A class that is nowhere has IoU NaN and is left out of the mean; the mean of no class is NaN.
    """
    right = matrix.diagonal()
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - right
    ious = np.divide(right, union, out=np.full(len(CLASSES), np.nan), where=union > 0)[:UNKNOWN]
    present = ious[~np.isnan(ious)]
    return (float(present.mean()) if len(present) else float("nan")), ious


def confusion(truths: Path, predictions: Path) -> np.ndarray:
    """Pixels of two folders of masks by (true class, predicted class): (7, 7) int64.

    Raises InputError if the folders do not hold the same names, or masks that cannot be compared.
    """
    names = paired_names(truths, predictions)
    counts = np.zeros(64, dtype=np.int64)
    faults = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(names), AHEAD):
            jobs = [
                pool.submit(count, truths / name, predictions / name)
                for name in names[start : start + AHEAD]
            ]
            for job in jobs:
                try:
                    counts += job.result()
                except BadPair as fault:
                    faults.append(str(fault))
    if faults:
        raise InputError(
            f"{quantity(faults, 'pair')} cannot be compared: {first_of(faults)}; write these masks anew"
        )
    one_hot = np.eye(len(CLASSES), dtype=np.int64)[
        CLASS_OF_CODE
    ]  # (8, 7): adds red up with unknown
    return one_hot.T @ counts.reshape(8, 8) @ one_hot


def paired_names(truths: Path, predictions: Path) -> list[str]:
    """The names that both folders' masks have, sorted. Raises InputError if one folder has a name more than the other."""
    true_names, predicted_names = mask_names(truths), mask_names(predictions)
    missing, extra = sorted(true_names - predicted_names), sorted(predicted_names - true_names)
    wrong = []
    if missing:
        wrong.append(
            f"{quantity(missing, 'mask')} of {truths} missing in {predictions}: {first_of(missing)}"
        )
    if extra:
        wrong.append(
            f"{quantity(extra, 'mask')} in {predictions} but not in {truths}: {first_of(extra)}"
        )
    if wrong:
        raise InputError(f"{'; '.join(wrong)}; give two folders with the same mask names")
    return sorted(true_names)


def mask_names(folder: Path) -> set[str]:
    """The ``*_mask.png`` of a folder or, if it has none, its ``*.png``. Hidden files do not count. Raises InputError."""
    try:
        files = [
            entry.name
            for entry in os.scandir(folder)
            if not entry.name.startswith(".") and entry.is_file()
        ]
    except FileNotFoundError as error:
        raise InputError(f"no folder {folder}; name a folder of *.png masks") from error
    except NotADirectoryError as error:
        raise InputError(f"{folder} is not a folder; name a folder of *.png masks") from error
    except OSError as error:
        raise InputError(
            f"cannot list the folder {folder} ({error.strerror}); name one that can be read"
        ) from error
    names = {name for name in files if name.lower().endswith(".png")}
    if not names:
        raise InputError(f"no *.png mask in {folder}; name the folder that holds the masks")
    return {name for name in names if name.lower().endswith("_mask.png")} or names


def count(truth_path: Path, predicted_path: Path) -> np.ndarray:
    """Pixels of a pair of masks by 8 * true code + predicted code: (64,) int64. Raises BadPair."""
    truth, predicted = read_codes(truth_path), read_codes(predicted_path)
    if truth.shape != predicted.shape:
        raise BadPair(
            f"{predicted_path} is {size_of(predicted)}, but {truth_path} is {size_of(truth)}"
        )
    joint = (truth << 3 | predicted).ravel()
    counts = np.zeros(64, dtype=np.int64)
    for start in range(
        0, len(joint), BLOCK
    ):  # bincount makes 8 bytes of every pixel: a large mask comes in blocks
        counts += np.bincount(joint[start : start + BLOCK], minlength=64)
    return counts


def read_codes(path: Path) -> np.ndarray:
    """A mask file's colours as codes 0..7, (H, W) uint8. Raises BadPair.

    Every colour mode is read as RGB: palette and grey are converted, alpha is dropped, 16 bits become the upper 8.
    """
    how = {"plugin": "pillow", "index": 0, "writeable_output": False}
    try:
        data = (
            path.read_bytes()
        )  # imageio takes some names for something else than a file: in a folder "x.zip", say
        pixels = iio.imread(data, **how)
        if pixels.dtype == np.uint16:  # Pillow would clip 16 bits to 255 instead of scaling them
            pixels = np.stack([(pixels >> 8).astype(np.uint8)] * 3, axis=-1)
        elif pixels.shape[2:] != (3,):
            pixels = iio.imread(data, mode="RGB", **how)
    except Exception as error:  # Pillow's decoders raise nearly everything on a broken file
        reason = getattr(error, "strerror", None) or "Pillow cannot decode it"
        raise BadPair(f"{path} cannot be read ({reason})") from error
    on = pixels >> 7
    return on[..., 0] << 2 | on[..., 1] << 1 | on[..., 2]


def table(matrix: np.ndarray, ious: np.ndarray) -> str:
    """All counts in words: per class IoU and pixels, then the confusion matrix."""
    lines = [f"{'':14}{'IoU':>8}{'true pixels':>16}{'predicted':>16}"]
    for c, name in enumerate(CLASSES):
        iou = f"{ious[c]:.5f}" if c < UNKNOWN else "-"
        lines.append(f"{c} {name:12}{iou:>8}{matrix[c].sum():16,}{matrix[:, c].sum():16,}")
    lines += ["", "pixels of a true class (row) by predicted class (column)"]
    lines.append(" " * 14 + "".join(f"{name:>14}" for name in CLASSES))
    lines += [
        f"{c} {name:12}" + "".join(f"{n:14,}" for n in matrix[c]) for c, name in enumerate(CLASSES)
    ]
    return "\n".join(lines)


def size_of(codes: np.ndarray) -> str:
    return f"{codes.shape[1]}x{codes.shape[0]}"


def quantity(items: list[str], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) != 1 else ''}"


def first_of(items: list[str]) -> str:
    more = len(items) - NAMES_TOLD
    return ", ".join(items[:NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"mean_iou_evaluate.py: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        print("mean_iou_evaluate.py: interrupted", file=sys.stderr)
        sys.exit(130)
