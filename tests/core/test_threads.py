"""Threads return results in order, hold a bounded amount of work, and share a budget."""

import itertools
import threading
import time

import pytest

from core.threads import THREADS, InOrder, Room


def test_in_order_keeps_the_order_whichever_is_done_first_and_raises_an_error_at_its_turn():
    def work(item):
        time.sleep(0.001 * (item * 7 % 5))
        if item == 40:
            raise ValueError("item 40")
        return item * 10

    assert list(InOrder(work, [])) == []
    stream = InOrder(work, range(60))
    assert list(itertools.islice(stream, 40)) == [item * 10 for item in range(40)]
    with pytest.raises(ValueError, match="item 40"):
        next(stream)


@pytest.mark.parametrize("ahead", [1, 2, 5, 4 * THREADS])
def test_in_order_never_takes_more_than_ahead_before_their_turn(ahead):
    taken, received, most = 0, 0, 0

    def items():
        nonlocal taken, most
        for item in range(50):
            taken += 1
            most = max(most, taken - received)
            yield item

    for _ in InOrder(lambda item: item, items(), ahead):
        received += 1
    assert received == 50 and most == min(ahead, 50)


def test_in_order_works_in_several_threads_at_once():
    meeting = threading.Barrier(2, timeout=10)  # passes only if two are at work at the same time
    assert list(InOrder(lambda _: meeting.wait() >= 0, range(8))) == [True] * 8


def test_in_order_of_an_endless_stream_can_be_left_and_then_drops_what_it_has_not_started():
    gate, started = threading.Event(), []

    def work(item):
        started.append(item)
        if item > 2:
            gate.wait(10)
        return item

    stream = InOrder(work, itertools.count(), ahead=500)
    assert list(itertools.islice(stream, 3)) == [0, 1, 2]
    stream.close()
    gate.set()
    stream._pool.shutdown()  # waits for what has been started
    assert len(started) <= 3 + THREADS


def test_in_order_starts_at_once_and_holds_what_costs_no_more_than_ahead():
    started = threading.Event()
    stream = InOrder(lambda _: started.set(), [1])
    assert started.wait(10)
    stream.close()
    costs = [3, 3, 3, 3, 50, 3, 3, 10, 1]
    running, done, most = 0, [], 0

    def work(cost):
        nonlocal running
        running += cost
        return cost

    for cost in InOrder(work, costs, 10, cost=lambda cost: cost):
        most = max(most, running)
        running -= cost
        done.append(cost)
    assert done == costs and most == 50  # which went alone


def test_threads_hold_no_more_at_once_than_there_is_room_for():
    room, together, most = Room(10), 0, 0
    lock = threading.Lock()

    def work(size):
        nonlocal together, most
        with room.hold(size):
            with lock:
                together += min(size, 10)
                most = max(most, together)
            time.sleep(0.001)
            with lock:
                together -= min(size, 10)

    list(InOrder(work, [3, 4, 99, 1, 5, 10, 2, 2, 6] * 8))
    assert 4 < most <= 10
    meeting = threading.Barrier(2, timeout=10)  # passes only if there is room for both

    def meet(size):
        with room.hold(size):
            return meeting.wait() >= 0

    assert list(InOrder(meet, [4, 4])) == [True, True]
