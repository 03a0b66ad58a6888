"""Serving announcement logs to those who pull them: one's own, and a proxy the others' too."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import AccessDenied, Busy, Stalled
from kachery_p2p.protocol.gossip.announcements import Batch
from kachery_p2p.protocol.gossip.index import BATCH_OVERHEAD, Index
from kachery_p2p.protocol.gossip.messages import GOSSIP_PULL, Pull
from kachery_p2p.protocol.limits import MAX_PULLS, PULL_BODY, STALL_SECONDS

from .announcer import Announcer
from .peer import Peer, Position


class LogServer:
    """``peer`` gives what is known of a link on a channel; ``served`` is called when a pull is over."""

    def __init__(
        self,
        network: Network,
        announcer: Announcer,
        index: Index,
        *,
        peer: Callable[[Link, bytes], Peer],
        served: Callable[[Peer], None],
    ) -> None:
        self._network = network
        self._announcer = announcer
        self._index = index
        self._peer = peer
        self._served = served
        self._open: dict[Link, int] = {}
        network.on_stream_of(GOSSIP_PULL, Pull, self._serve)

    async def _serve(self, link: Link, stream: Stream, pull: Pull) -> None:
        channel = pull.channel
        self._network.require_shared(link, channel)
        if "proxy" not in self._network.book.effective(channel, link.peer):
            raise AccessDenied(
                channel=self._network.name_of(channel),
                who=f"node {link.peer[:8]}",
                role="proxy",
                cause="only proxies keep everybody's announcements",
            )
        peer = self._peer(link, channel)
        if self._open.get(link, 0) >= 2 * MAX_PULLS:
            # Twice: a stream that the other side has ended may not have ended here yet.
            raise Busy(limit=f"{MAX_PULLS} pulls of announcements on this link")
        peer.serving += 1
        self._open[link] = self._open.get(link, 0) + 1
        try:
            states = deque((each.origin, (each.epoch, each.seq)) for each in pull.origins)
            while batches := self._some(channel, states):
                self._network.require_shared(link, channel)
                body = codec.pack([codec.plain(batch) for batch in batches])
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        await stream.send(None, body)
                except TimeoutError:
                    raise Stalled(
                        what="Sending announcements", seconds=STALL_SECONDS, sources="this node"
                    ) from None
        finally:
            peer.serving -= 1
            self._open[link] -= 1
            if not self._open[link]:
                del self._open[link]
            self._served(peer)

    def _some(self, channel: bytes, states: deque[tuple[bytes, Position]]) -> list[Batch]:
        """The next batches that somebody lacks, about a frame of them; ``states`` is brought up to
        date."""
        found: list[Batch] = []
        room = PULL_BODY
        while states and room > 0:
            origin, known = states.popleft()
            batches = self._after(channel, origin, known, room)
            if not batches:
                continue
            found += batches
            room -= sum(len(batch.entries) + BATCH_OVERHEAD for batch in batches)
            states.appendleft((origin, (batches[-1].epoch, batches[-1].end)))
        return found

    def _after(self, channel: bytes, origin: bytes, known: Position, most: int) -> list[Batch]:
        if origin != self._network.context.key.public:
            if not self._network.is_proxy(channel):
                return []
            return self._index.after(channel, origin, known, most)
        own = self._announcer.log(channel)
        batch = own and own.batch_after(channel, self._network.context.key, known)
        return [batch] if batch else []
