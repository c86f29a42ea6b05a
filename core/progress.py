"""Progress of the work on stderr: a bar on a terminal, elsewhere a line at least every minute."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from core.cli import note, terminal_size

SILENCE = 60.0  # seconds without output, at most
T = TypeVar("T")


class Bar:
    """Counts up to ``total`` of ``unit``, starting at ``done``; ``what`` names the work.

    On a terminal this is tqdm's bar, which disappears when it is closed. Elsewhere it prints a line
    at least every minute, provided that ``update`` is called that often. If ``total`` is None, no
    time left is shown. The unit ``B`` (bytes) is shown as MB, or on a terminal as fits.
    """

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._first, self._done = done, done
        self._start = self._updated = self._spoke = time.monotonic()
        self._tqdm = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # not at the top: only a terminal needs it

            columns, rows = terminal_size()
            self._tqdm = tqdm(
                desc=what,
                total=total,
                initial=done,
                unit=unit if unit == "B" else f" {unit}",
                unit_scale=unit == "B",
                leave=False,
                file=sys.stderr,
                ncols=columns,
                nrows=rows,
            )

    def update(self, count: int, more: str = "") -> None:
        """Count ``count`` more as done. ``more``, such as the loss, is shown after the count."""
        self._done += count
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(more, refresh=False)
            self._tqdm.update(count)
            return
        now = time.monotonic()
        last_step, self._updated = now - self._updated, now
        if now + last_step - self._spoke >= SILENCE:  # the next update may come too late
            self._spoke = now
            scale, digits, unit = (1e6, 1, "MB") if self._unit == "B" else (1, 0, self._unit)
            of = "" if self._total is None else f" of {self._total / scale:.{digits}f}"
            rate = f"{self.rate() / scale:.3g} {unit}/s" if self.rate() else ""
            left = f"{duration(self.seconds_left())} left" if self.seconds_left() else ""
            parts = [f"{self._done / scale:.{digits}f}{of} {unit}", rate, left, more]
            note(f"{self._what}: {', '.join(part for part in parts if part)}")

    def rate(self) -> float:
        """Return the units per second since the start; 0 if that is not known yet."""
        seconds = time.monotonic() - self._start
        return (self._done - self._first) / seconds if seconds > 0 else 0.0

    def seconds_left(self) -> float:
        """Return the seconds until ``total``; 0 if that is not known yet."""
        rate = self.rate()
        return (self._total - self._done) / rate if rate and self._total else 0.0

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._tqdm is not None:
            self._tqdm.close()


def over(batches: Sequence[T], what: str) -> Iterator[T]:
    """Yield ``batches`` one by one, counted by a ``Bar``."""
    return counted(batches, len(batches), what, "batches")


def counted(items: Iterable[T], total: int, what: str, unit: str) -> Iterator[T]:
    """Yield ``items``, of which there are ``total``, one by one, counted by a ``Bar``."""
    bar = Bar(what, total, unit)
    try:
        for item in items:
            yield item
            bar.update(1)
    finally:
        bar.close()


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes and seconds, such as ``1:02:03``."""
    return str(datetime.timedelta(seconds=round(seconds)))
