"""Threads that peers share: one that asks for much waits behind one that asks for little."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable

import pytest

from kachery_p2p.node.parties import Party, on_behalf_of
from kachery_p2p.node.pool import FairPool


@pytest.fixture
async def pool() -> AsyncIterator[FairPool]:
    pool = FairPool(1, "test")
    yield pool
    await asyncio.to_thread(pool.close)


def begin(
    pool: FairPool, work: Callable[[], object], party: Party | None = None
) -> asyncio.Task[object]:
    """Have it done, for ``party``, while this test goes on."""

    async def go() -> object:
        if party is not None:
            on_behalf_of.set(party)
        return await pool.run(work)

    return asyncio.create_task(go())


async def given(*tasks: asyncio.Task[object]) -> None:
    """Until they have handed their work to the pool, in this order."""
    for _ in tasks:
        await asyncio.sleep(0)


class Busy:
    """Something that a thread is at until it is let go."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.go_on.wait(10)

    async def runs(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, 10)


async def test_a_thousand_pieces_of_one_do_not_go_before_one_of_another(pool: FairPool) -> None:
    busy, order = Busy(), []
    first = begin(pool, busy, Party("greedy"))
    await busy.runs()
    many = [
        begin(pool, lambda: order.append("greedy"), Party("greedy")) for _ in range(1_000)
    ]  # fmt: skip
    await given(*many)
    one = begin(pool, lambda: order.append("modest"), Party("modest"))
    await given(one)
    busy.go_on.set()
    await asyncio.gather(first, *many, one)
    assert order.index("modest") == 0
    assert len(order) == 1_001


async def test_who_weighs_less_comes_more_often(pool: FairPool) -> None:
    pool._waiting.used(Party("heavy"), 1.0, time.perf_counter())
    pool._waiting.used(Party("light"), 1.0 / 8, time.perf_counter())
    busy, order = Busy(), []
    first = begin(pool, busy, Party("third"))
    await busy.runs()
    both = [
        begin(pool, lambda name=name: order.append(name), Party(name))  # type: ignore[misc]
        for name in ("heavy", "light")
    ]
    await given(*both)
    busy.go_on.set()
    await asyncio.gather(first, *both)
    assert order == ["light", "heavy"]


async def test_pieces_of_one_are_begun_in_the_order_in_which_they_came(pool: FairPool) -> None:
    order: list[int] = []
    await asyncio.gather(*(pool.run(order.append, number) for number in range(200)))
    assert order == list(range(200))


async def test_what_fails_is_told_and_the_thread_goes_on(pool: FairPool) -> None:
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await pool.run(fail)
    assert await pool.run(lambda: 7) == 7


async def test_what_no_future_takes_is_told_too(pool: FairPool) -> None:
    empty: list[int] = []
    with pytest.raises(RuntimeError, match="StopIteration"):
        await pool.run(next, iter(empty))
    assert await pool.run(lambda: 7) == 7


async def test_an_error_goes_with_who_heard_of_it(pool: FairPool) -> None:
    class Mine(Exception):
        pass

    def fail() -> None:
        raise Mine

    async def hear() -> weakref.ref[Mine]:
        try:
            await pool.run(fail)
        except Mine as error:
            return weakref.ref(error)
        raise AssertionError

    gc.disable()
    try:
        heard = await hear()
        await pool.run(int)  # the thread has let go of the last piece
        assert heard() is None
    finally:
        gc.enable()


async def test_what_was_cancelled_is_not_begun(pool: FairPool) -> None:
    busy, done = Busy(), []
    first = begin(pool, busy)
    await busy.runs()
    cancelled = begin(pool, lambda: done.append(1))
    await given(cancelled)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    busy.go_on.set()
    await first
    await pool.run(done.append, 2)
    assert done == [2]


async def test_who_leaves_while_it_runs_hears_nothing_more(pool: FairPool) -> None:
    busy = Busy()
    task = begin(pool, busy)
    await busy.runs()
    task.cancel()
    await asyncio.wait([task])
    busy.go_on.set()
    assert await pool.run(lambda: 7) == 7
    assert task.cancelled()


async def test_threads_are_as_many_as_are_needed_and_no_more_than_may_be() -> None:
    pool = FairPool(3, "test")
    try:
        await pool.run(int)
        assert len(pool._threads) == 1
        all_at_once = threading.Barrier(3)
        await asyncio.gather(*(pool.run(all_at_once.wait, 10) for _ in range(3)))
        await asyncio.gather(*(pool.run(int) for _ in range(100)))
        assert len(pool._threads) == 3
    finally:
        await asyncio.to_thread(pool.close)


async def test_closing_cancels_what_waits_and_waits_for_what_runs() -> None:
    pool = FairPool(1, "test")
    busy = Busy()
    running = begin(pool, busy)
    await busy.runs()
    waiting = begin(pool, int)
    await given(waiting)
    closing = asyncio.create_task(asyncio.to_thread(pool.close))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    busy.go_on.set()
    await closing
    await running
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(int)


def test_a_piece_whose_loop_was_closed_takes_no_thread_with_it() -> None:
    pool = FairPool(1, "test")
    busy = Busy()

    async def leave() -> None:
        task = begin(pool, busy)
        await busy.runs()
        task.cancel()

    async def go_on() -> int:
        return await pool.run(lambda: 7)

    asyncio.run(leave())
    busy.go_on.set()
    assert asyncio.run(go_on()) == 7
    pool.close()
