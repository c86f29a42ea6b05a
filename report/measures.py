"""What the report measures itself, cached in ``OUT/measures.json`` so that numbers can be traced.

A measure depends on some files and some code, and is read from the cache as long as these have not
changed. A file is compared by its size and time, a folder by the names, sizes and times of its
files, and code by its text.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import re
import string
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.cli import InputError, say, warn
from core.files import atomic_write, writable_folder
from prediction.tables import wilson
from report.page import Value
from report.runs import RunLog, best_of, lineage, named, of_one_model
from training.provenance import fingerprint

Computed = dict[str, float | np.ndarray]  # numbers and arrays by name
FETCH = "bash hw1_download.sh data"  # the command that gets the images
INTERVAL = "{low:3} to {high:3}"  # how ``Measured.words`` writes one
ROOT = Path(__file__).parents[1]
CODE = {  # the code that a problem's measures depend on: a new perplexity gives a new picture
    problem: (
        *(
            f"core/{name}.py"
            for name in (
                "augment",
                "checkpoint",
                "convolutions",
                "devices",
                "efficientnet_lite",
                "images",
                "randomness",
                "threads",
                "views",
            )
        ),
        "prediction/folding.py",
        "prediction/stream.py",
        "prediction/predictor.py",
        "prediction/tables.py",
        *(f"{problem}/{name}.py" for name in ("data", "model", "inference", *more)),
        f"report/problem{problem[1]}*.py",
        "report/projections.py",
    )
    for problem, more in (("p1", ()), ("p2", ("knn",)), ("p3", ()))
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """Named numbers that the page can quote, and named arrays that it can draw."""

    key: str
    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]

    def value(self, name: str, digits: int = 4) -> Value:
        number = self.numbers[name]
        return Value(f"{number:,.{digits}f}", number, f"measures.json#{self.key}/{name}")

    def words(self, template: str) -> tuple[str | Value, ...]:
        """Return ``template`` with each ``{name:digits}`` replaced by the number ``name``.

        Without ``digits``, numbers have 4 decimals.
        """
        parts: list[str | Value] = []
        for text, name, digits, _ in string.Formatter().parse(template):
            parts.append(text)
            if name is not None:
                parts.append(self.value(name, int(digits or 4)))
        return tuple(parts)


class Measures:
    """The measures cached in the folder ``out``; with ``fresh``, all are made again.

    Raises InputError if measures.json is damaged.
    """

    def __init__(self, out: Path, *, fresh: bool = False) -> None:
        self._file, self._arrays = out / "measures.json", writable_folder(out / "arrays")
        self._kept: dict[str, dict] = {}
        if self._file.is_file() and not fresh:
            self._kept = _read(self._file)
        self._made: dict[str, Measured] = {}

    def of(self, key: str, made_from: list[Path], compute: Callable[[], Computed]) -> Measured:
        """Return the measure ``key``, from the cache or by calling ``compute``.

        ``key`` begins with the problem, as in ``p1_A_hour/interval``. ``made_from``: the files and
        folders of files that the measure depends on. Without any, every build measures it again.
        """
        if key not in self._made:
            self._made[key] = self._of(key, made_from, compute)
        return self._made[key]

    def _of(self, key: str, made_from: list[Path], compute: Callable[[], Computed]) -> Measured:
        origin = {str(path): state_of(path) for path in made_from}
        if origin:
            origin["code"] = digest_of_code(key[:2])
        stored, kept = self._arrays / file_name(key), self._kept.get(key)
        if kept and origin and kept["made_from"] == origin:
            arrays = _arrays(stored) if kept["arrays"] else {}
            if sorted(arrays) == kept["arrays"]:
                return Measured(key, kept["numbers"], arrays)
            warn(f"{stored} is damaged or missing: {key} is measured again")
        start = time.perf_counter()
        computed = compute()
        arrays = {name: one for name, one in computed.items() if np.ndim(one)}
        numbers = {name: float(one) for name, one in computed.items() if name not in arrays}
        if arrays:
            packed = io.BytesIO()
            np.savez_compressed(packed, **arrays)
            with atomic_write(stored) as file:
                file.write(packed.getvalue())
        self._kept[key] = {"made_from": origin, "numbers": numbers, "arrays": sorted(arrays)}
        self._write()
        if origin:
            say(f"measured {key} ({time.perf_counter() - start:.1f} s)")
        return Measured(key, numbers, arrays)

    def close(self) -> None:
        """Remove the measures that this build did not use."""
        for key in self._kept.keys() - self._made.keys():
            del self._kept[key]
            (self._arrays / file_name(key)).unlink(missing_ok=True)
        self._write()

    def _write(self) -> None:
        with atomic_write(self._file) as file:
            file.write((json.dumps(self._kept, indent=1) + "\n").encode())


def _read(path: Path) -> dict[str, dict]:
    shape = {"made_from": dict, "numbers": dict, "arrays": list}
    try:
        kept = json.loads(path.read_text())
        for key, measured in kept.items():
            for name, kind in shape.items():
                if not isinstance(measured[name], kind):
                    raise ValueError(f"{name} of {key} is a {type(measured[name]).__name__}")
            for name, number in measured["numbers"].items():
                if type(number) not in (int, float):
                    raise ValueError(f"{name} of {key} is not a number")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); measure again with --fresh") from error
    return kept


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of a file that ``Measures`` wrote; {} if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, KeyError):
        return {}


def state_of(path: Path) -> list[Any]:
    """Return values that change when a file, or any file in a folder, changes."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file())
        return [len(files), fingerprint(files)]
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


@functools.cache
def digest_of_code(problem: str) -> str:
    """Return a short digest of the files that ``CODE`` lists for ``problem``."""
    digest = hashlib.blake2b(digest_size=8)
    for pattern in CODE.get(problem, ()):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def file_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", key) + ".npz"


@dataclasses.dataclass
class Site:
    """What the page is built from. ``images``: problem 3's images to show, such as ``0013``."""

    logs: list[RunLog]
    data: Path
    images: tuple[str, ...]
    measures: Measures
    device: torch.device

    def named(self, pattern: str) -> list[RunLog]:
        """Return the runs whose folder names match ``pattern``, such as ``p1_A_*``."""
        return named(self.logs, pattern)

    def interval(
        self, key: str, run: RunLog, name: str, images: Path, count: int
    ) -> tuple[str | Value, ...] | None:
        """Measure Wilson's 95 % interval of an accuracy in the last line of a run's log.

        Returns None if the accuracy cannot come from ``count`` images. ``images``: the file or
        folder that lists them.
        """
        right = round(run.last[name] * count)
        if abs(run.last[name] * count - right) > 1e-4:
            return None
        ends = dict(zip(("low", "high"), wilson(right, count), strict=True))
        made_from = [run.folder / "log.jsonl", images]
        return self.measures.of(key, made_from, lambda: ends).words(INTERVAL)

    def chain(self, run: RunLog) -> list[RunLog]:
        """Return the runs of the same model that led to ``run``, oldest first, and ``run``."""
        return of_one_model(lineage(self.logs, run))

    def chosen(self, pattern: str) -> RunLog | None:
        """Return the run that ``best_of`` chooses among them; None if there are none."""
        return best_of(self.named(pattern))
