"""What the report measures itself, kept in ``OUT/measures.json`` so that every number of the page can be traced.

A measure is made once from certain files, and read back as long as these have the same sizes and times.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from core.cli import InputError, say
from core.files import atomic_write, writable_folder
from report.page import Value
from report.runs import RunLog, best_of, named

Computed = tuple[dict[str, float], dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Measured:
    """Numbers, which the page may state, and arrays, which it may draw."""

    key: str
    numbers: dict[str, float]
    arrays: dict[str, np.ndarray]

    def value(self, name: str, digits: int = 4) -> Value:
        number = self.numbers[name]
        return Value(f"{number:,.{digits}f}", number, f"measures.json#{self.key}/{name}")


class Measures:
    """The measures kept in the folder ``out``; with ``fresh`` none is read back."""

    def __init__(self, out: Path, *, fresh: bool = False) -> None:
        self._file, self._arrays = out / "measures.json", writable_folder(out / "arrays")
        self._kept: dict[str, dict] = {}
        if self._file.is_file() and not fresh:
            try:
                self._kept = json.loads(self._file.read_text())
            except ValueError as error:
                raise InputError(
                    f"{self._file} is damaged ({error}); measure anew with --fresh"
                ) from error
        self._made: dict[str, Measured] = {}

    def of(self, key: str, made_from: list[Path], compute: Callable[[], Computed]) -> Measured:
        """The measure called ``key``, such as ``p1_A_hour/epoch_0014/tsne``; without ``made_from`` it is always made anew."""
        if key in self._made:
            return self._made[key]
        self._made[key] = self._of(key, made_from, compute)
        return self._made[key]

    def _of(self, key: str, made_from: list[Path], compute: Callable[[], Computed]) -> Measured:
        files = {str(path): [path.stat().st_size, path.stat().st_mtime_ns] for path in made_from}
        stored = self._arrays / file_name(key)
        kept = self._kept.get(key)
        if (
            kept
            and files
            and kept["made_from"] == files
            and (stored.is_file() or not kept["arrays"])
        ):
            arrays = dict(np.load(stored)) if kept["arrays"] else {}
            return Measured(key, kept["numbers"], arrays)
        start = time.perf_counter()
        numbers, arrays = compute()
        numbers = {name: float(number) for name, number in numbers.items()}
        if arrays:
            content = io.BytesIO()
            np.savez_compressed(content, **arrays)
            with atomic_write(stored) as file:
                file.write(content.getvalue())
        self._kept[key] = {"made_from": files, "numbers": numbers, "arrays": sorted(arrays)}
        self._write()
        if files:
            say(f"measured {key} ({time.perf_counter() - start:.1f} s)")
        return Measured(key, numbers, arrays)

    def close(self) -> None:
        """Forget what the page no longer uses."""
        for key in self._kept.keys() - self._made.keys():
            del self._kept[key]
            (self._arrays / file_name(key)).unlink(missing_ok=True)
        self._write()

    def _write(self) -> None:
        with atomic_write(self._file) as file:
            file.write((json.dumps(self._kept, indent=1) + "\n").encode())


def file_name(key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", key) + ".npz"


@dataclasses.dataclass
class Site:
    """What a section of the page is built from. ``images``: problem 3's to show, as ``0013``."""

    runs: Path
    logs: list[RunLog]
    data: Path
    images: tuple[str, ...]
    measures: Measures
    device: torch.device

    def named(self, pattern: str) -> list[RunLog]:
        """The runs whose folders match ``pattern``, as ``p1_A_*``."""
        return named(self.logs, pattern)

    def chosen(self, pattern: str) -> RunLog | None:
        """Of these the one that ``best_of`` names, or None."""
        return best_of(self.named(pattern))
