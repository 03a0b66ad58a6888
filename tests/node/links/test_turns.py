"""Whoever asks for little has its turn soon, however many records others send."""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.node.links import turns as module
from kachery_p2p.node.links.turns import Turns, cost_of
from kachery_p2p.protocol.limits import MAX_BACKLOG, MAX_TURN_ACCOUNTS, TURN_MICROSECONDS
from kachery_p2p.protocol.links.frames import SEALED_TAIL, Data, Note, Request
from tests.node.harness import until

RECORD = (17_000).to_bytes(4, "big") + bytes(17_000)


async def flood(turns: Turns, peer: str, log: list[str]) -> None:
    while True:
        if not turns.ready():
            await turns.wait(peer, RECORD)
        turns.spend(peer, 900)
        log.append(peer)


async def test_a_quiet_peer_waits_for_a_few_records_of_a_hundred_that_flood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A member's question waited for all that a hundred others had sent."""
    monkeypatch.setattr(module, "TURN_CREDIT", 900)
    turns, log = Turns(), list[str]()
    tasks = [asyncio.create_task(flood(turns, f"f{n}", log)) for n in range(100)]
    await until(lambda: len(log) > 300, "some rounds")
    for _ in range(10):
        before = len(log)
        await turns.wait("quiet", RECORD)
        turns.spend("quiet", 30)
        assert len(log) - before <= 4
        for _ in range(20):
            await asyncio.sleep(0)
    assert set(log) == {f"f{n}" for n in range(100)}, "everybody has a turn"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_nobody_waits_while_there_is_time() -> None:
    turns = Turns()
    assert turns.ready()
    turns.spend("a", TURN_MICROSECONDS)
    assert not turns.ready()
    await turns.wait("a", RECORD)
    assert turns.ready()


async def test_work_for_the_disk_that_piles_up_slows_records_down_and_stops_nobody() -> None:
    turns = Turns(lambda: MAX_BACKLOG + 1)
    turns.spend("a", TURN_MICROSECONDS)
    async with asyncio.timeout(10):
        await asyncio.gather(*(turns.wait(f"p{n}", RECORD) for n in range(20)))


async def test_who_gives_up_waiting_holds_up_nobody() -> None:
    turns = Turns()
    turns.spend("a", TURN_MICROSECONDS)
    gone = asyncio.create_task(turns.wait("a", RECORD))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    async with asyncio.timeout(10):
        await turns.wait("a", RECORD)
    assert not turns._waiting


def test_accounts_are_bounded() -> None:
    turns = Turns()
    for number in range(3 * MAX_TURN_ACCOUNTS):
        turns.spend(str(number), 1)
    assert len(turns._cost) <= MAX_TURN_ACCOUNTS


@pytest.mark.parametrize(
    ("frame", "size", "cost"),
    [
        (Note("t", None), 17_000, 880),
        (Request(1, "m", None), 100, 335),
        (Data(1, None, SEALED_TAIL, 1 << 20), 1 << 20, 134.8576),
    ],
)
def test_what_is_dealt_with_at_once_costs_most(frame: object, size: int, cost: float) -> None:
    assert cost_of(frame, size) == cost  # type: ignore[arg-type]
