"""Waiting for room in what a peer may make a node hold: in turn, fairly, and safe to cancel."""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.node.links.budget import Pool, Share
from kachery_p2p.protocol.links.shares import ShareBounds
from tests.patience import patience

BOUNDS = ShareBounds(least=10, guaranteed=100, most=20, pool=10)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_is_served_in_turn() -> None:
    share = Share(Pool(BOUNDS), "a")
    await share.acquire(20)
    order: list[int] = []

    async def wait(number: int) -> None:
        await share.acquire(8)
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await settle()
    assert order == []
    assert not share.take(1), "nobody overtakes who waits"
    share.give(20)
    await settle()
    assert order == [0, 1]
    share.give(8)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert share.pool.shares.held("a") == 16


async def test_one_who_waits_for_the_pool_keeps_nobody_from_their_own_part() -> None:
    pool = Pool(BOUNDS)
    greedy, modest = Share(pool, "a"), Share(pool, "b")
    await greedy.acquire(20)
    waiting = asyncio.create_task(greedy.acquire(5))
    await settle()
    async with asyncio.timeout(patience(5)):
        await modest.acquire(10)
    assert not waiting.done()
    greedy.give(20)
    await waiting


async def test_who_is_cancelled_while_it_waits_holds_nothing_and_blocks_nobody() -> None:
    share = Share(Pool(BOUNDS), "a")
    await share.acquire(20)
    first, second = (asyncio.create_task(share.acquire(20)) for _ in range(2))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    share.give(20)
    await second
    assert share.pool.shares.held("a") == 20


async def test_who_is_cancelled_just_when_its_turn_came_gives_it_on() -> None:
    share = Share(Pool(BOUNDS), "a")
    await share.acquire(20)
    first, second = (asyncio.create_task(share.acquire(20)) for _ in range(2))
    await settle()
    share.give(20)  # the first one's turn: it has not run yet
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    share.give(20)
    assert len(share.pool.shares) == 0
