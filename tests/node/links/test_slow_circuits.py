"""A circuit that shares a slow path with many moves little, and is not taken for one that is stuck."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.links.circuit import CircuitTransport
from kachery_p2p.node.links.writer import Writer
from kachery_p2p.protocol.limits import CIRCUIT_CREDIT, WRITE_STALL_SECONDS
from kachery_p2p.protocol.links.mux import Mux
from tests.sim.loop import SimLoop

SECONDS = WRITE_STALL_SECONDS / 3
"""From one bit of credit to the next."""


class Seal:
    """Stands for a session: each record is long."""

    def seal(self) -> Any:
        return self

    def parts(self, headers: Any, tails: Any, memory: Any = None) -> list[bytes]:
        return [bytes(100_000)]


class Dripping:
    """A stream whose receiver takes a little at a time; or nothing."""

    credit_batch = 0
    ended = False

    def __init__(self, drip: int) -> None:
        self.credit = 0
        self.drip = drip
        self.sent = 0

    async def more_credit(self) -> None:
        if not self.drip:
            await asyncio.Event().wait()
        await asyncio.sleep(SECONDS)
        self.credit += self.drip

    async def send(self, meta: Any, body: bytes, *, opaque: bool) -> None:
        self.sent += 1
        self.credit -= len(body)


@pytest.mark.parametrize("drip", [CIRCUIT_CREDIT // 10, 0])
def test_a_circuit_that_takes_little_is_not_stuck_and_one_that_takes_nothing_is(drip: int) -> None:
    loop = SimLoop()
    longest: list[float] = []

    async def story() -> None:
        stream = Dripping(drip)
        mux = Mux(initiator=True, now=0.0)
        mux.note("topic", None)
        transport = CircuitTransport(stream, "x")  # type: ignore[arg-type]
        writer = Writer(transport, Seal(), mux, None, lambda number: None)  # type: ignore[arg-type]
        writing = asyncio.create_task(writer.run())
        for _ in range(120):
            await asyncio.sleep(1.0)
            longest.append(writer.stuck_for(loop.time()))
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        assert stream.sent == (1 if drip else 0)

    try:
        loop.run_until_complete(story())
    finally:
        loop.close()
    assert (max(longest) < WRITE_STALL_SECONDS) == bool(drip)
