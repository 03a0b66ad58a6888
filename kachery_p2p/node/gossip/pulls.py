"""Pulling announcement logs: what a proxy lacks, from whoever has it.

Invariants. At most ``MAX_PULLS`` pulls run at once, and one that is long lets others have their turn:
it goes on later from where it stopped, as after a cut. A log is pulled from one peer at a time. A peer
that has not what it said, or sends nothing for ``STALL_SECONDS``, costs a pause and no more.

Non-goals: what is done with a batch that came, which is the caller's; who may be believed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import KacheryError, ProtocolViolation
from kachery_p2p.protocol.gossip.announcements import Batch, check_batch
from kachery_p2p.protocol.gossip.index import Index
from kachery_p2p.protocol.gossip.messages import GOSSIP_PULL, OriginState, Pull
from kachery_p2p.protocol.limits import (
    MAX_DIGEST_ORIGINS,
    MAX_PULLS,
    PULL_CREDIT,
    PULL_TURN_SECONDS,
    RECONNECT_FIRST,
    RECONNECT_MOST,
    STALL_SECONDS,
)

from .peer import UNKNOWN, Peer, Position

_IDLE_FRAMES = 16
"""Frames of a pull, one after the other, in which nothing was news: enough for what others pushed
meanwhile."""


class Taker(Protocol):
    def __call__(self, batch: Batch, peer: Peer | None, *, checked: bool) -> bool:
        """A batch came; whether it was news."""


class Pulls:
    def __init__(
        self,
        network: Network,
        index: Index,
        *,
        take: Taker,
        provides: Callable[[bytes, bytes], bool],
        peers: Callable[[bytes], Iterable[Peer]],
    ) -> None:
        self._network = network
        self._context = network.context
        self._index = index
        self._take = take
        self._provides = provides
        self._peers = peers
        self._busy: set[tuple[bytes, bytes]] = set()
        """(channel, origin) of logs that are being pulled."""
        self._turns = asyncio.Semaphore(MAX_PULLS)
        self._waiting = 0

    def begin(self, peer: Peer) -> None:
        """Pull what a peer has and we lack, if there is any."""
        if peer.pulling is None and peer.lacking:
            peer.pulling = self._network.spawn(self._pull_all(peer), name="pull announcements")

    def _wanted(self, peer: Peer) -> list[tuple[bytes, Position]]:
        """What to ask a peer for now: what it has, we lack, and nobody is sending us."""
        channel = peer.channel
        wanted: list[tuple[bytes, Position]] = []
        for origin, there in list(peer.lacking.items()):
            known = self._index.position(channel, origin) or UNKNOWN
            if there <= known or not self._provides(channel, origin):
                del peer.lacking[origin]
            elif (channel, origin) not in self._busy and len(wanted) < MAX_DIGEST_ORIGINS:
                wanted.append((origin, known))
        return wanted

    async def _pull_all(self, peer: Peer) -> None:
        backoff = Backoff(RECONNECT_FIRST, RECONNECT_MOST, self._context.random)
        try:
            pause = 0.0
            while self._is_there(peer) and self._wanted(peer):
                peer.queued, self._waiting = True, self._waiting + 1
                try:
                    await self._turns.acquire()
                finally:
                    peer.queued, self._waiting = False, self._waiting - 1
                if not pause:  # so far it was us whom everybody waited for
                    peer.heard_at = asyncio.get_running_loop().time()
                pause = 0.0
                try:
                    if await self._pull(peer):
                        backoff.reset()
                except (KacheryError, TimeoutError):
                    pause = backoff.next()
                finally:
                    self._turns.release()
                self._pull_on(peer)
                if pause and self._is_there(peer):
                    await asyncio.sleep(pause)
        finally:
            peer.pulling = None

    def _is_there(self, peer: Peer) -> bool:
        return peer.link.closed_by is None and peer.channel in self._network.shared(peer.link)

    def _pull_on(self, ended: Peer) -> None:
        """What one peer did not send, another may."""
        for peer in self._peers(ended.channel):
            if peer is not ended:
                self.begin(peer)

    async def _pull(self, peer: Peer) -> bool:
        """One stream; whether it brought anything. What did not come although all went well, the peer
        does not have: it is believed again when it says so again."""
        loop = asyncio.get_running_loop()
        wanted = self._wanted(peer)
        if not wanted:
            return False
        origins = {origin for origin, _ in wanted}
        asked = [OriginState(origin, *known) for origin, known in wanted]
        self._busy |= {(peer.channel, origin) for origin in origins}
        stream: Stream | None = None
        news, idle, began = False, 0, loop.time()
        try:
            stream = peer.link.open(
                GOSSIP_PULL, codec.plain(Pull(peer.channel, asked)), credit=PULL_CREDIT
            )
            stream.credit_batch = PULL_CREDIT // 4
            while True:
                async with asyncio.timeout(STALL_SECONDS):
                    item = await stream.receive()
                if item is None:
                    break
                _, body, cost = item
                data = await stream.open_body(body)
                idle += 1
                for batch in await self._context.workers.cipher(_checked, peer.channel, data):
                    if batch.origin in origins and self._take(batch, peer, checked=True):
                        news, idle = True, 0
                stream.done(cost)
                if idle > _IDLE_FRAMES:
                    raise ProtocolViolation(reason="a pull of what was not asked for")
                if self._waiting and loop.time() - began > PULL_TURN_SECONDS:
                    return news
            for origin, known in wanted:
                if (self._index.position(peer.channel, origin) or UNKNOWN) <= known:
                    peer.lacking.pop(origin, None)
            return news
        finally:
            self._busy -= {(peer.channel, origin) for origin in origins}
            if stream is not None:
                stream.end()


def _checked(channel: bytes, data: bytes) -> list[Batch]:
    """In a worker thread: the batches of one frame, their signatures verified. One that is not right
    is the sender's doing, who could have checked it."""
    batches = codec.decode(list[Batch], data)
    for batch in batches:
        if batch.channel != channel:
            raise ProtocolViolation(reason="a batch of another channel")
        check_batch(batch)
    return batches
