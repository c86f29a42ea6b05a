"""How far the work is: a bar on a terminal, and elsewhere a line at least every minute."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from tqdm import tqdm

from core.cli import say

TERMINAL = (100, 24)  # columns and rows of a terminal that does not tell its own
SILENCE = 60.0  # seconds without a word, at most
T = TypeVar("T")


class Bar:
    """Counts up to ``total`` of ``unit``, beginning at ``done``; ``what`` names the work.

    On a terminal this is tqdm's bar on stderr, which disappears when it is closed. Elsewhere it
    prints a line on stdout at least every minute, provided that ``update`` is called that often.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self.total = total
        self._what, self._unit = what, unit
        self._first, self._done = done, done
        self._start = self._updated = self._spoke = time.monotonic()
        self._tqdm = None
        if sys.stderr.isatty():
            columns, rows = terminal_size()
            self._tqdm = tqdm(
                desc=what,
                total=total,
                initial=done,
                unit=f" {unit}",
                leave=False,
                file=sys.stderr,
                ncols=columns,
                nrows=rows,
            )

    def update(self, count: int, note: str = "") -> None:
        """``count`` more are done. ``note``: shown behind the count, such as the loss."""
        self._done += count
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(note, refresh=False)
            self._tqdm.update(count)
            return
        now = time.monotonic()
        longest_step, self._updated = now - self._updated, now
        if now + longest_step - self._spoke >= SILENCE:  # the next update may come too late
            self._spoke = now
            rate = f"{self.rate():.3g} {self._unit}/s" if self.rate() else ""
            left = f"{duration(self.seconds_left())} left" if self.rate() else ""
            parts = [f"{self._done} of {self.total} {self._unit}", rate, left, note]
            say(f"{self._what}: {', '.join(part for part in parts if part)}")

    def rate(self) -> float:
        """How many a second since the beginning; 0 as long as that is not known."""
        seconds = time.monotonic() - self._start
        return (self._done - self._first) / seconds if seconds > 0 else 0.0

    def seconds_left(self) -> float:
        """Seconds until ``total``; 0 as long as that is not known."""
        rate = self.rate()
        return (self.total - self._done) / rate if rate else 0.0

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._tqdm is not None:
            self._tqdm.close()


def over(items: Sequence[T], what: str, unit: str = "batches") -> Iterator[T]:
    """``items``, one after another, counted by a ``Bar``."""
    return counted(items, len(items), what, unit)


def counted(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """``items``, of which there are ``total``, one after another, counted by a ``Bar``."""
    bar = Bar(what, total, unit)
    try:
        for item in items:
            yield item
            bar.update(1)
    finally:
        bar.close()


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal behind stderr.

    Some, as in a container, say that they have none: then tqdm would show no bar at all.
    """
    try:
        columns, rows = os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):  # it is no real terminal
        return TERMINAL
    return columns or TERMINAL[0], rows or TERMINAL[1]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``."""
    return str(datetime.timedelta(seconds=round(seconds)))
