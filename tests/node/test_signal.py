"""Who waits for a signal goes on when it comes, and is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.node.signal import Signal


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_all_who_wait_go_on_and_who_comes_later_does_not_wait() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait()) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in waiting)
    signal.set()
    signal.set()
    await asyncio.gather(*waiting)
    await signal.wait()
    assert signal._waiting is None


async def test_after_it_was_cleared_it_is_waited_for_anew() -> None:
    signal = Signal()
    first = asyncio.create_task(signal.wait())
    await settle()
    signal.set()
    signal.clear()
    second = asyncio.create_task(signal.wait())
    await settle()
    assert first.done()
    assert not second.done()
    signal.set()
    await second


async def test_who_is_cancelled_is_forgotten_and_others_go_on() -> None:
    signal = Signal()
    one, other = (asyncio.create_task(signal.wait()) for _ in range(2))
    await settle()
    one.cancel()
    with pytest.raises(asyncio.CancelledError):
        await one
    third = asyncio.create_task(signal.wait())
    await settle()
    other.cancel()
    signal.set()
    await third
    with pytest.raises(asyncio.CancelledError):
        await other
    assert signal._waiting is None
