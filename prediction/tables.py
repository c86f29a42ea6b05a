"""Label files: csv with a header, read leniently, written exactly, and scored."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from core.cli import InputError, some
from core.files import atomic_write, natural, readable_folder

RESAMPLES = 10_000  # of the bootstrap


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Read the rows of a csv that has at least ``columns``; blanks around cells are stripped.

    A byte-order mark, CRLF, blanks after commas and empty lines are accepted. The text must be
    UTF-8, but a file name may have any bytes, as file names in Python do. Raises InputError, which
    names file and line, if the file or a column is missing, if a column is there twice, if a quote
    is not closed, if a row is too short or too long, or if there are no rows.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if b"\0" in content:  # UTF-16, or not text at all
        raise InputError(f"{path} is not UTF-8 text; save it as csv")
    lines = _numbered(path, content.decode("utf-8-sig", errors="surrogateescape"))
    if not lines:
        raise InputError(f"{path} is empty; its first line must be {','.join(columns)}")
    number, header = lines[0]
    for column in columns:
        if header.count(column) != 1:
            fault = "no" if column not in header else "more than one"
            raise InputError(
                f"{path} line {number}: {fault} column {column!r} (found: {', '.join(header)})"
            )
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header) or any(name in columns for name in header[len(cells) :]):
            raise InputError(
                f"{path} line {number}: {len(cells)} cells, but the header has {len(header)}"
            )
        # A row may lack the last cells, except those of ``columns``.
        rows.append(dict(zip(header, cells, strict=False)))
        if not _is_utf8(cell for column, cell in rows[-1].items() if column != "filename"):
            raise InputError(f"{path} line {number} is not UTF-8 text; save it as UTF-8")
    if not rows:
        raise InputError(f"{path} has a header but no rows")
    return rows


def _numbered(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the number of its last line.

    Raises InputError, which names the first line of the faulty row.
    """
    # If not strict, Python would silently take everything after an unclosed quote as one cell.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    rows, first = [], 1
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                rows.append((reader.line_num, cells))
            first = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path} line {first} is not a csv row ({error}); close its quotes, or remove them"
        ) from error
    return rows


def _is_utf8(texts: Iterable[str]) -> bool:
    try:
        "".join(texts).encode()
        return True
    except UnicodeEncodeError:  # an escaped byte
        return False


def unique(rows: list[dict[str, str]], column: str, path: Path) -> None:
    """Raise InputError if two rows have the same value of ``column``."""
    doubled = [value for value, count in Counter(row[column] for row in rows).items() if count > 1]
    if doubled:
        raise InputError(
            f"{path} lists {some(doubled)} more than once; each {column} may be in one row only"
        )


def locate(table: Path, folder: Path, rows: list[dict[str, str]]) -> list[Path]:
    """Return the paths of the rows' images, in the order of the rows.

    Raises InputError if an image is missing, named twice or not in ``folder``.
    """
    readable_folder(folder)
    # a.jpg and ./a.jpg are the same file.
    unique([{"filename": str(Path(row["filename"]))} for row in rows], "filename", table)
    for row in rows:
        name = row["filename"]
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise InputError(f"{table} lists {name!r}, which is outside {folder}")
    paths = [folder / row["filename"] for row in rows]
    # Not Path.is_file, which raises if a name is too long.
    missing = [
        row["filename"] or "an image without a name"
        for row, path in zip(rows, paths, strict=True)
        if not os.path.isfile(path)
    ]
    if missing:
        raise InputError(f"{table} lists images that are not in {folder}: {some(missing)}")
    return paths


def read_labelled(table: Path, folder: Path) -> tuple[list[str], list[Path]]:
    """Return the labels in a csv, as text, and the paths of the images that it lists.

    Raises InputError as ``read_rows`` and ``locate`` do.
    """
    rows = read_rows(table, ("filename", "label"))
    return [row["label"] for row in rows], locate(table, folder, rows)


def classes_of(labels: Iterable[str]) -> tuple[str, ...]:
    """Return the classes of a training csv: its distinct labels in natural order."""
    return tuple(sorted(set(labels), key=natural))


def write_rows(path: Path, columns: tuple[str, ...], rows: Iterable[Sequence[str]]) -> None:
    """Write a csv with the header ``columns`` atomically.

    File names keep their bytes, UTF-8 or not.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(columns)
    for row in rows:  # an unquoted carriage return in a file name would end the line
        (quoting if any("\r" in cell for cell in row) else writer).writerow(row)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode(errors="surrogateescape"))


def score(predicted: dict[str, str], truth: dict[str, str]) -> tuple[int, int]:
    """Compare two maps from file name to label; return (number right, number of all).

    Raises InputError if they do not have the same names.
    """
    missing, extra = (
        sorted(truth.keys() - predicted.keys()),
        sorted(predicted.keys() - truth.keys()),
    )
    faults = [f"no prediction for {some(missing)}"] if missing else []
    faults += [f"unexpected prediction for {some(extra)}"] if extra else []
    if faults:
        raise InputError("; ".join(faults) + "; nothing was scored")
    return sum(predicted[name] == truth[name] for name in truth), len(truth)


def accuracy(predicted: dict[str, str], truth: dict[str, str]) -> str:
    """Say in one line the accuracy of ``score`` and its 95 % interval. Raises like ``score``."""
    right, count = score(predicted, truth)
    low, high = wilson(right, count)
    return (
        f"accuracy: {right / count:.4f} ({right} of {count}; 95 % interval {low:.3f} to {high:.3f})"
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of an accuracy from a sample: ``right`` of ``count``.

    Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference". Unlike
    right/count plus or minus a multiple of the standard error, it is valid for small samples and
    near 0 and 1. ``count`` must be at least 1.
    """
    z, p = 1.959964, right / count  # the normal distribution's 97.5 % quantile
    centre, reach = (
        p + z * z / (2 * count),
        z * math.sqrt(p * (1 - p) / count + (z / (2 * count)) ** 2),
    )
    scale = 1 + z * z / count
    return max(0.0, (centre - reach) / scale), min(1.0, (centre + reach) / scale)


def paired_bootstrap(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float]:
    """Return (difference, low, high) of the accuracies of ``first`` and ``second``.

    The difference is ``first`` minus ``second`` on the same images, with its 95 % interval. Both
    are (N,) bool, N at least 1: whether image n was labelled correctly. This is the percentile
    interval of Efron & Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3, over
    RESAMPLES draws of N images with replacement, with seed 0. An image contributes 1, 0 or -1, so a
    resample is one multinomial draw of the number of each.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(f"{first.shape} and {second.shape} are not the same images")
    outcome, count = first.astype(int) - second.astype(int), len(first)
    shares = [np.mean(outcome == value) for value in (1, 0, -1)]
    won, _, lost = np.random.default_rng(0).multinomial(count, shares, size=RESAMPLES).T
    low, high = np.percentile((won - lost) / count, (2.5, 97.5))
    return float(outcome.mean()), float(low), float(high)


def read_labels(path: Path) -> dict[str, str]:
    """Read a csv with the columns filename and label as a dict from file name to label.

    Raises InputError if a name occurs twice.
    """
    rows = read_rows(path, ("filename", "label"))
    unique(rows, "filename", path)
    return {row["filename"]: row["label"] for row in rows}


def check_names(paths: Iterable[Path]) -> None:
    """Raise InputError if two images have the same file name, by which a csv tells them apart."""
    counts = Counter(path.name for path in paths)
    if doubled := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"more than one image is called {some(doubled)}; label each folder separately"
        )
