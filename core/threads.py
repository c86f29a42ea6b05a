"""Work in threads: results in order, and a budget that threads share."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

THREADS = max(2, min(16, os.cpu_count() or 2))
S = TypeVar("S")
T = TypeVar("T")


class InOrder(Generic[S, T]):
    """Maps ``work`` over ``items`` in threads, starting now, and yields the results in order.

    At most ``ahead`` items are started before their turn or, with ``cost``, items that cost that
    much in total; one that costs more runs alone. ``close`` drops items that have not been started.
    """

    def __init__(
        self,
        work: Callable[[S], T],
        items: Iterable[S],
        ahead: int = 4 * THREADS,
        cost: Callable[[S], int] = lambda item: 1,
    ) -> None:
        self._pool = ThreadPoolExecutor(THREADS)
        self._work, self._items, self._ahead = work, iter(items), ahead
        self._cost = cost
        self._started: deque = deque()  # pairs of a future and its cost
        self._held = 0  # the sum of these costs
        self._next: tuple[S, int] | None = None  # an item that awaits room, and its cost
        self._start_more()

    def _start_more(self) -> None:
        while not self._started or self._held < self._ahead:
            if self._next is None:
                for item in self._items:
                    self._next = item, self._cost(item)
                    break
                else:
                    return
            item, cost = self._next
            if self._started and self._held + cost > self._ahead:
                return
            self._started.append((self._pool.submit(self._work, item), cost))
            self._held += cost
            self._next = None

    def __iter__(self) -> InOrder[S, T]:
        return self

    def __next__(self) -> T:
        self._start_more()
        if not self._started:
            self.close()
            raise StopIteration
        future, cost = self._started.popleft()
        self._held -= cost
        try:
            return future.result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the items that are left, without waiting for those that threads work on."""
        self._items, self._next = iter(()), None
        self._started.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)


class Room:
    """A budget of ``size`` units that threads share."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold ``size`` units once they are free; a request for more than all waits for all."""
        size = min(size, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()
