"""What a run's log says: its best epoch, and whether the run has ended."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def best_line(history: list[dict[str, Any]], watched: str, better: Callable) -> dict[str, Any]:
    """Return the first line of ``history`` (at least one line) with the best value ``watched``.

    ``better``: max or min. A line whose value is NaN is the best only if all are NaN.
    """
    numbers = [line for line in history if not math.isnan(line[watched])]
    return better(numbers or history, key=lambda line: line[watched])


def is_over(
    history: list[dict[str, Any]],
    watched: str,
    better: Callable,
    epochs: int,
    patience: int,
    patience_from: int = 0,
) -> bool:
    """Return whether a run has ended: by its number of ``epochs`` or by early stopping.

    It stops early after ``patience`` epochs without a better one; 0 turns this off. The first
    ``patience_from`` epochs are ignored: they do not count as waiting, and later epochs are not
    compared with them.
    """
    compared = history[patience_from:]
    waited = len(history) - best_line(compared, watched, better)["epoch"] if compared else 0
    return len(history) >= epochs or bool(patience) and waited >= patience
