"""Threads that peers share: one that asks for much waits behind one that asks for little."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future

import pytest

from kachery_p2p.node.parties import Party, on_behalf_of
from kachery_p2p.node.pool import FairPool


@pytest.fixture
def pool() -> Iterator[FairPool]:
    pool = FairPool(1, "test")
    yield pool
    pool.shutdown()


def submit(pool: FairPool, party: Party, work: Callable[[], object]) -> Future[object]:
    """As a task that works for ``party`` does."""

    def go() -> Future[object]:
        on_behalf_of.set(party)
        return pool.submit(work)

    return contextvars.copy_context().run(go)


class Busy:
    """Something that a thread is at until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(10)


def test_a_thousand_pieces_of_one_do_not_go_before_one_of_another(pool: FairPool) -> None:
    busy, order = Busy(), []
    submit(pool, Party("greedy"), busy)
    assert busy.begun.wait(10)
    many = [submit(pool, Party("greedy"), lambda: order.append("greedy")) for _ in range(1_000)]
    one = submit(pool, Party("modest"), lambda: order.append("modest"))
    busy.go_on.set()
    for future in [*many, one]:
        future.result(10)
    assert order.index("modest") == 0
    assert len(order) == 1_001


def test_who_weighs_less_comes_more_often(pool: FairPool) -> None:
    pool._usage.add("heavy", 1.0, time.perf_counter())
    pool._usage.add("light", 1.0 / 8, time.perf_counter())
    busy, order = Busy(), []
    submit(pool, Party("third"), busy)
    assert busy.begun.wait(10)
    futures = [
        submit(pool, Party(name), lambda name=name: order.append(name))  # type: ignore[misc]
        for name in ("heavy", "light")
    ]
    busy.go_on.set()
    for future in futures:
        future.result(10)
    assert order == ["light", "heavy"]


def test_pieces_of_one_are_begun_in_the_order_in_which_they_came(pool: FairPool) -> None:
    order: list[int] = []
    for future in [pool.submit(order.append, number) for number in range(200)]:
        future.result(10)
    assert order == list(range(200))


def test_what_fails_is_told_and_the_thread_goes_on(pool: FairPool) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        pool.submit(fail).result(10)
    assert pool.submit(lambda: 7).result(10) == 7


def test_what_was_cancelled_is_not_begun(pool: FairPool) -> None:
    busy, done = Busy(), []
    pool.submit(busy)
    assert busy.begun.wait(10)
    cancelled = pool.submit(done.append, 1)
    assert cancelled.cancel()
    busy.go_on.set()
    pool.submit(done.append, 2).result(10)
    assert done == [2]


def test_threads_are_as_many_as_are_needed_and_no_more_than_may_be() -> None:
    pool = FairPool(3, "test")
    try:
        pool.submit(int).result(10)
        assert len(pool._threads) == 1
        all_at_once = threading.Barrier(3)
        for future in [pool.submit(all_at_once.wait, 10) for _ in range(3)]:
            future.result(10)
        for future in [pool.submit(int) for _ in range(100)]:
            future.result(10)
        assert len(pool._threads) == 3
    finally:
        pool.shutdown()


def test_shutting_down_cancels_what_waits_and_waits_for_what_runs() -> None:
    pool = FairPool(1, "test")
    busy = Busy()
    running = pool.submit(busy)
    assert busy.begun.wait(10)
    waiting = pool.submit(int)
    closing = threading.Thread(target=lambda: pool.shutdown(cancel_futures=True))
    closing.start()
    with pytest.raises(CancelledError):
        waiting.result(10)
    busy.go_on.set()
    closing.join(10)
    assert running.done()
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(int)


def test_without_cancelling_what_waits_is_done_before_it_ends() -> None:
    pool = FairPool(1, "test")
    futures = [pool.submit(lambda: 1) for _ in range(50)]
    pool.shutdown()
    assert [future.result(0) for future in futures] == [1] * 50
