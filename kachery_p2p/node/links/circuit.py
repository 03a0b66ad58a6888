"""Circuits: two members talk through a proxy that can neither read nor change what they say.

Participants: the *opener* asks a proxy for a circuit to a *target*; the proxy opens a stream to the
target and splices the two. Over the spliced streams opener and target run a session of their own
(:class:`CircuitTransport`), so the proxy moves opaque records and learns who talks with whom, sizes
and timing.

Fairness and bounds. On each link the streams are grouped by the node on whose behalf they flow, and
the link is shared between the groups. A proxy holds at most ``CIRCUIT_CREDIT`` bytes of a circuit
each way: a slow receiver slows its sender and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from kachery_p2p.protocol.channels.messages import JOIN_CIRCUIT, JOIN_IN
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    Busy,
    KacheryError,
    LinkClosed,
    NotAMember,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.limits import CIRCUIT_CREDIT, CIRCUIT_CREDIT_BATCH, MAX_CIRCUITS_PER_NODE
from kachery_p2p.protocol.links import mux
from kachery_p2p.protocol.links.messages import CIRCUIT, CIRCUIT_IN, CircuitTo
from kachery_p2p.protocol.links.pace import Pace

from .cutting import cut
from .link import Link
from .network import Network
from .stream import Stream

_FIRST_RTT = 0.1
"""Seconds; until the path has been measured."""


class CircuitTransport:
    """One end of a circuit as a transport for a session.

    A circuit is first in, first out, so what is under way in it is bounded by
    :class:`~kachery_p2p.protocol.links.pace.Pace`: control frames must not wait behind seconds of bulk.
    """

    def __init__(self, stream: Stream, name: str) -> None:
        self.name = name
        self._stream = stream
        self._owed = 0
        self._pace = Pace(CIRCUIT_CREDIT, asyncio.get_running_loop().time())
        self._rtt = _FIRST_RTT
        self._probe: float | None = None
        self.taken_at: float | None = None
        stream.credit_batch = CIRCUIT_CREDIT_BATCH

    @property
    def rate(self) -> float:
        # Unknown at first: begin with short frames.
        return max(self._pace.rate, 1.0)

    async def send(self, message: Buffer) -> None:
        loop = asyncio.get_running_loop()
        size = mux.cost_of(len(message))
        while not self._stream.ended:
            outstanding = CIRCUIT_CREDIT - self._stream.credit
            if outstanding <= 0:
                self._probe = loop.time()
            if self._pace.allows(size, outstanding, self._rtt, loop.time()):
                break
            await self._stream.more_credit()
            # Slowly, for it shares its path with others; but it moves.
            self.taken_at = loop.time()
            if self._probe is not None:
                self._rtt = min(self._rtt, loop.time() - self._probe)
                self._probe = None
        await self._stream.send(None, message, opaque=True)
        self._pace.sent(size)

    async def receive(self) -> Buffer:
        if self._owed:
            self._stream.done(self._owed)
            self._owed = 0
        item = await self._stream.receive()
        if item is None:
            raise LinkClosed(peer=self.name, reason="the other side closed the circuit")
        _, body, self._owed = item
        if not isinstance(body, memoryview):
            raise ProtocolViolation(reason="a circuit carries opaque records only")
        return body

    async def close(self) -> None:
        self._stream.end()


class Relay:
    """The proxy's side: splices circuits between the members that are linked to it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._circuits: dict[Stream, tuple[bytes, str, str]] = {}
        self._guest_circuits: dict[Stream, tuple[Link, CircuitTo]] = {}
        self._per_node: Counter[str] = Counter()
        self.relayed_bytes = 0
        self._guests: set[Link] = set()
        network.on_stream_of(CIRCUIT, CircuitTo, self._splice)
        network.on_stream_of(JOIN_CIRCUIT, CircuitTo, self._splice_guest)

    def __len__(self) -> int:
        return len(self._circuits)

    async def _splice(self, link: Link, stream: Stream, wanted: CircuitTo) -> None:
        source, target = link.peer, wanted.node.hex()
        self._network.require_shared(link, wanted.channel)
        self._network.require_proxy(wanted.channel, does="relay")
        if self._per_node[source] >= MAX_CIRCUITS_PER_NODE:
            raise Busy(limit=f"{MAX_CIRCUITS_PER_NODE} circuits of one node")
        onward = self._onward(link, wanted)
        self._circuits[stream] = (wanted.channel, source, target)
        self._per_node[source] += 1
        try:
            await self._carry(link, stream, onward, wanted, CIRCUIT_IN)
        finally:
            del self._circuits[stream]
            self._per_node[source] -= 1

    async def _splice_guest(self, link: Link, stream: Stream, wanted: CircuitTo) -> None:
        """For who holds an invitation: one circuit, as long as its link is that of a guest."""
        self._network.require_guest(link, wanted.channel)
        self._network.require_proxy(wanted.channel, does="relay")
        if link in self._guests:
            raise Busy(limit="one circuit of a guest")
        onward = self._onward(link, wanted)
        self._guests.add(link)
        self._guest_circuits[stream] = (link, wanted)
        try:
            await self._carry(link, stream, onward, wanted, JOIN_IN)
        finally:
            self._guests.discard(link)
            del self._guest_circuits[stream]

    def _onward(self, link: Link, wanted: CircuitTo) -> Link:
        """Our link to the target. Raises Unreachable."""
        target = wanted.node.hex()
        for other in self._network.links_to(target, wanted.channel):
            if other.via is None and other is not link:
                return other
        raise Unreachable(what=f"node {target[:8]}", reason="it is not connected to the proxy")

    async def _carry(
        self, link: Link, stream: Stream, onward: Link, wanted: CircuitTo, method: str
    ) -> None:
        source = link.peer
        other = onward.open(
            method,
            {"channel": wanted.channel, "node": bytes.fromhex(source)},
            credit=CIRCUIT_CREDIT,
        )
        other.set_group(source)
        stream.set_group(wanted.node.hex())
        stream.grant(CIRCUIT_CREDIT)
        stream.credit_batch = other.credit_batch = CIRCUIT_CREDIT_BATCH
        try:
            await self._pump_both(stream, other)
        finally:
            other.end()

    async def _pump_both(self, stream: Stream, other: Stream) -> None:
        there = asyncio.create_task(self._pump(stream, other))
        back = asyncio.create_task(self._pump(other, stream))
        try:
            done, _ = await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            error = next((task.exception() for task in done if task.exception()), None)
            if isinstance(error, KacheryError):
                other.end(error)
                raise error
            if error is not None:
                raise error
        finally:
            for task in (there, back):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, KacheryError):
                    await task

    async def _pump(self, source: Stream, sink: Stream) -> None:
        while (item := await source.receive()) is not None:
            _, body, cost = item
            if not isinstance(body, memoryview):
                raise ProtocolViolation(reason="a circuit carries opaque records only")
            self.relayed_bytes += len(body)
            await sink.send(None, body, opaque=True)
            source.done(cost)

    def cut(self) -> None:
        """End every circuit whose two ends are no longer both on its channel, and all of a channel of
        which this node is no longer a proxy."""
        cut(self._circuits, self._check)
        cut(self._guest_circuits, self._check_guest)

    def _check(self, circuit: tuple[bytes, str, str]) -> None:
        channel, *ends = circuit
        self._network.require_proxy(channel, does="relay")
        for node in ends:
            if not self._network.is_member(channel, node):
                raise NotAMember(node=node, peer="the proxy")

    def _check_guest(self, circuit: tuple[Link, CircuitTo]) -> None:
        link, wanted = circuit
        self._network.require_guest(link, wanted.channel)
        self._network.require_proxy(wanted.channel, does="relay")
        if not self._network.is_member(wanted.channel, wanted.node.hex()):
            raise NotAMember(node=wanted.node.hex(), peer="the proxy")
