"""What is opened in a thread is never left open behind somebody's back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from kachery_p2p.node.workers import Workers, open_on_disk
from tests.node.harness import until


@pytest.fixture
def workers() -> Iterator[Workers]:
    pools = Workers()
    yield pools
    pools.close()


class Opened:
    closed = False

    def close(self) -> None:
        self.closed = True


class SlowOpening:
    """Opens something when it is let, in its thread."""

    def __init__(self) -> None:
        self.thing = Opened()
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.told_gone = False

    def __call__(self, gone: Callable[[], bool]) -> Opened:
        self.started.set()
        assert self.go_on.wait(10)
        self.told_gone = gone()
        return self.thing


async def test_a_caller_that_stays_gets_it_open(workers: Workers) -> None:
    opening = SlowOpening()
    opening.go_on.set()
    assert await open_on_disk(workers, opening) is opening.thing
    assert not opening.thing.closed
    assert not opening.told_gone


@pytest.mark.parametrize("cancels", [1, 2])
async def test_what_comes_after_its_caller_has_gone_is_closed(
    workers: Workers, cancels: int
) -> None:
    opening = SlowOpening()
    caller = asyncio.create_task(open_on_disk(workers, opening))
    await asyncio.to_thread(opening.started.wait, 10)
    for _ in range(cancels):
        caller.cancel()
        await asyncio.sleep(0)
    opening.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: opening.thing.closed)
    assert opening.told_gone


async def test_an_opening_that_fails_after_its_caller_has_gone_is_no_news(workers: Workers) -> None:
    started, go_on = threading.Event(), threading.Event()

    def fail(gone: Callable[[], bool]) -> Opened:
        started.set()
        assert go_on.wait(10)
        raise OSError("nothing there")

    caller = asyncio.create_task(open_on_disk(workers, fail))
    await asyncio.to_thread(started.wait, 10)
    caller.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    with pytest.raises(OSError, match="nothing there"):
        await open_on_disk(workers, fail)


# --- commits and syncs ---------------------------------------------------------------------------


async def test_what_is_committed_is_done_in_order_and_told_on_the_loop(workers: Workers) -> None:
    done: list[int] = []
    told: list[tuple[int, BaseException | None, threading.Thread]] = []

    def work(number: int) -> None:
        done.append(number)
        if number == 3:
            raise OSError(5, "broken")

    for number in range(10):
        workers.commit(
            lambda n=number: work(n),  # type: ignore[misc]
            lambda error, n=number: told.append((n, error, threading.current_thread())),  # type: ignore[misc]
        )
    await until(lambda: len(told) == 10)
    assert done == list(range(10)) == [number for number, _, _ in told]
    errors = [(number, str(error)) for number, error, _ in told if error is not None]
    assert errors == [(3, "[Errno 5] broken")]
    assert {thread for _, _, thread in told} == {threading.current_thread()}


async def test_a_sync_does_not_wait_for_a_commit(workers: Workers) -> None:
    go_on, synced = threading.Event(), asyncio.Event()
    committed = asyncio.Event()
    workers.commit(lambda: go_on.wait(10), lambda error: committed.set())
    workers.sync(lambda: None, lambda error: synced.set())
    await asyncio.wait_for(synced.wait(), 10)
    assert not committed.is_set()
    go_on.set()
    await asyncio.wait_for(committed.wait(), 10)


async def test_who_closes_waits_for_what_was_begun_and_nothing_more_begins() -> None:
    pools = Workers()
    done: list[int] = []
    for number in range(5):
        pools.commit(lambda n=number: done.append(n), lambda error: None)  # type: ignore[misc]
    pools.close()
    assert done == list(range(5))
    with pytest.raises(RuntimeError, match="is closed"):
        pools.commit(lambda: None, lambda error: None)
