"""What shares a record with what: to both ends, and to a proxy between them, a record costs more than
a frame."""

from __future__ import annotations

import asyncio

from kachery_p2p.node.links.transport import Transport
from kachery_p2p.node.links.writer import Writer
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import MAX_BODY, MAX_RECORD, MIN_FRAGMENT
from kachery_p2p.protocol.links.frames import Credit, Data, Ping
from kachery_p2p.protocol.links.mux import Mux
from tests.protocol.links.muxes import following, pair
from tests.protocol.links.test_session import pair as sessions


class Straight:
    """A way to the other end of a link that keeps what was sent, in its order."""

    name = "test"
    taken_at = rate = None

    def __init__(self) -> None:
        self.records: asyncio.Queue[bytes] = asyncio.Queue()

    async def send(self, *parts: Buffer) -> None:
        self.records.put_nowait(b"".join(parts))

    async def receive(self) -> Buffer:
        return await self.records.get()

    async def close(self) -> None:
        pass


def bulk(sender: Mux, receiver: Mux, bodies: list[bytes]) -> None:
    """Have bodies wait on a stream of the receiver's for which there is credit."""
    number = receiver.open("method", None)
    frame = Credit(number, len(bodies) * (MAX_BODY + 100))
    opened = following(receiver)
    assert opened is not None
    sender.receive(opened[0], None, 0.0)
    sender.receive(frame, None, 0.0)
    for body in bodies:
        sender.send(number, None, body)


async def test_the_ping_that_measures_a_record_rides_in_it() -> None:
    sender, receiver = pair()
    ours, theirs = sessions()
    way = Straight()
    transport: Transport = way
    workers = Workers()
    writer = Writer(transport, ours, sender, workers, lambda number: None)
    bulk(sender, receiver, [bytes(MIN_FRAGMENT)] * 3)
    writing = asyncio.create_task(writer.run())
    try:
        for _ in range(3):
            record = await asyncio.wait_for(way.receive(), 60)
            assert len(record) <= MAX_RECORD
            frames = [frame for frame, _ in theirs.open(record)]
            assert [type(frame) for frame in frames] == [Data, Ping]
        await asyncio.sleep(0)
        assert way.records.empty()
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        workers.close()
