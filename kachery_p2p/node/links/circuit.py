"""Circuits: two members talk through a proxy that can neither read nor change what they say.

Participants: the *opener* asks a proxy for a circuit to a *target*; the proxy opens a stream to the
target and splices the two. Over the spliced streams opener and target run a session of their own
(:class:`CircuitTransport`), so the proxy moves opaque records and learns who talks with whom, sizes
and timing.

Fairness and bounds. On each link the streams are grouped by the node on whose behalf they flow, and
the link is shared between the groups. A proxy holds at most ``CIRCUIT_CREDIT`` bytes of a circuit
each way, fewer if its opener has many: a slow receiver slows its sender and nobody else. Both ways are
on the opener's account.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable

from kachery_p2p.node.parties import STRANGERS, Party
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.messages import JOIN_CIRCUIT, JOIN_IN, VISIT_CIRCUIT, VISIT_IN
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    Busy,
    KacheryError,
    LinkClosed,
    NotAMember,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.limits import (
    CIRCUIT_CREDIT,
    CIRCUIT_CREDIT_BATCH,
    CIRCUIT_CREDIT_LEAST,
    MAX_CIRCUITS_PER_NODE,
    MAX_CIRCUITS_PER_VISITOR,
    MAX_RELAY_TAIL,
)
from kachery_p2p.protocol.links import frames
from kachery_p2p.protocol.links.messages import CIRCUIT, CIRCUIT_IN, CircuitTo

from .endings import cut
from .link import Link
from .network import Network
from .stream import Stream

_MORE = 1
"""Meta of a piece of a record: more of it follows."""


class CircuitTransport:
    """One end of a circuit as a transport for a session.

    A circuit is first in, first out. How much is under way in it is the business of its session's link,
    which measures it from end to end (:mod:`kachery_p2p.protocol.links.pace`).

    ``first``: a message that came with the stream's opening, before its data. Who opens the circuit has
    no stream yet but ``ask``: it opens the stream with the first message that is sent, which saves the
    round trip in which the proxy would say that there is room for it.
    """

    def __init__(
        self,
        stream: Stream | None,
        name: str,
        *,
        first: Buffer = b"",
        ask: Callable[[bytes], Stream] | None = None,
    ) -> None:
        self.name = name
        self.party = STRANGERS
        self._opened = stream
        self._ask = ask
        self._first = first
        self._owed = 0
        self._window = 0
        """What the proxy lets this end have under way, which it says with its first credit."""
        self.taken_at: float | None = None
        if stream is not None:
            stream.credit_batch = CIRCUIT_CREDIT_BATCH

    @property
    def _stream(self) -> Stream:
        if self._opened is None:
            raise LinkClosed(peer=self.name, reason="the circuit was never opened")
        return self._opened

    async def send(self, *parts: Buffer) -> None:
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._opened is None and self._ask is not None:
            self._opened = self._ask(bytes(message))
            self._opened.credit_batch = CIRCUIT_CREDIT_BATCH
            return
        while not self._window and not self._stream.ended:
            self._window = self._stream.credit
            if not self._window:
                await self._stream.more_credit()
        # A proxy that has much to hold gives little room: then a record goes in several pieces.
        longest = max(self._window // 3, 1)
        if len(message) <= longest:
            await self._send_piece(None, message)
            return
        view = memoryview(message)
        for start in range(0, len(view), longest):
            more = _MORE if start + longest < len(view) else None
            await self._send_piece(more, view[start : start + longest])

    async def _send_piece(self, meta: int | None, message: Buffer) -> None:
        size = frames.cost_of(len(message))
        while not self._stream.ended and self._stream.credit < size:
            await self._stream.more_credit()
            # Slowly, for it shares its path with others; but it moves.
            self.taken_at = asyncio.get_running_loop().time()
        await self._stream.send(meta, message, opaque=True)

    async def receive(self) -> Buffer:
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._owed:
            self._stream.done(self._owed)
            self._owed = 0
        more, body, self._owed = await self._receive_piece()
        if not more:
            return body
        whole = bytearray(body)
        while more:
            self._stream.done(self._owed)
            more, body, self._owed = await self._receive_piece()
            if len(whole) + len(body) > MAX_RELAY_TAIL:
                raise ProtocolViolation(reason="a record in pieces that is too long")
            whole += body
        return whole

    async def _receive_piece(self) -> tuple[bool, Buffer, int]:
        item = await self._stream.receive()
        if item is None:
            raise LinkClosed(peer=self.name, reason="the other side closed the circuit")
        meta, body, cost = item
        if not isinstance(body, memoryview):
            raise ProtocolViolation(reason="a circuit carries opaque records only")
        return meta == _MORE, body, cost

    def belong_to(self, party: Party) -> None:
        """What comes is on the proxy's account, from whose connection it comes."""

    def doubt(self) -> None:
        if self._opened is not None:
            self._opened.doubt()

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.end()


def circuit_to(proxy: Link, method: str, channel: bytes, node: str) -> CircuitTransport:
    """The transport to a node through a proxy; the proxy is asked for it with the first message."""

    def ask(first: bytes) -> Stream:
        wanted = CircuitTo(channel, bytes.fromhex(node), first)
        return proxy.open(method, codec.plain(wanted), credit=CIRCUIT_CREDIT)

    return CircuitTransport(None, f"{node[:8]} via {proxy.peer[:8]}", ask=ask)


def window_for(free: int) -> int:
    """How many bytes of a new circuit a proxy holds each way at most, if its opener may make it hold so
    many more: a sixth, so that there is room for further ones; a power of two."""
    sixth = max(free // 6, 1)
    return min(CIRCUIT_CREDIT, max(CIRCUIT_CREDIT_LEAST, 1 << (sixth.bit_length() - 1)))


class Relay:
    """The proxy's side: splices circuits between the members that are linked to it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._circuits: dict[Stream, tuple[bytes, str, str]] = {}
        self._guest_circuits: dict[Stream, tuple[Link, CircuitTo]] = {}
        self._per_node: Counter[str] = Counter()
        self.relayed_bytes = 0
        self._guests: set[Link] = set()
        self._visits: dict[Stream, tuple[Link, CircuitTo]] = {}
        network.on_stream_of(CIRCUIT, CircuitTo, self._splice)
        network.on_stream_of(JOIN_CIRCUIT, CircuitTo, self._splice_guest)
        network.on_stream_of(VISIT_CIRCUIT, CircuitTo, self._splice_visitor)

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

    async def _splice_visitor(self, link: Link, stream: Stream, wanted: CircuitTo) -> None:
        """For who has shown a pass."""
        self._require_visit(link, wanted)
        most = MAX_CIRCUITS_PER_VISITOR
        if sum(other is link for other, _ in self._visits.values()) >= most:
            raise Busy(limit=f"{most} circuits of a visitor")
        onward = self._onward(link, wanted)
        self._visits[stream] = (link, wanted)
        try:
            await self._carry(link, stream, onward, wanted, VISIT_IN)
        finally:
            del self._visits[stream]

    def _require_visit(self, link: Link, wanted: CircuitTo) -> None:
        network = self._network
        network.visitors.require_circuit(link, wanted.channel, wanted.node)
        network.require_proxy(wanted.channel, does="relay")
        if not network.is_member(wanted.channel, wanted.node.hex()):
            raise NotAMember(node=wanted.node.hex(), peer="the proxy")

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
        held = link.budget.bytes
        window = window_for(held.free)
        if not held.take(2 * window):
            raise Busy(limit="what the circuits of one node may hold")
        other: Stream | None = None
        try:
            asked = CircuitTo(wanted.channel, bytes.fromhex(source), wanted.first)
            other = onward.open(method, codec.plain(asked), credit=window)
            other.set_group(source)
            stream.set_group(wanted.node.hex())
            stream.grant(window)
            stream.credit_batch = other.credit_batch = min(CIRCUIT_CREDIT_BATCH, window // 8)
            await self._pump_both(stream, other)
        finally:
            held.give(2 * window)
            if other is not None:
                other.end()

    async def _pump_both(self, stream: Stream, other: Stream) -> None:
        pumps = [
            asyncio.create_task(self._pump(stream, other)),
            asyncio.create_task(self._pump(other, stream)),
        ]
        # An error leads to this frame: nothing may lead from here to the error, else it is a circle.
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for task in pumps:
                if task.done():
                    task.result()
        except KacheryError as error:
            other.end(error)
            raise
        finally:
            while pumps:
                task = pumps.pop()
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, KacheryError):
                    await task
            del task

    async def _pump(self, source: Stream, sink: Stream) -> None:
        while (item := await source.receive()) is not None:
            meta, body, cost = item
            if not isinstance(body, memoryview):
                raise ProtocolViolation(reason="a circuit carries opaque records only")
            self.relayed_bytes += len(body)
            await sink.send(_MORE if meta == _MORE else None, body, opaque=True)
            source.done(cost)

    def cut(self) -> None:
        """End every circuit whose two ends are no longer both on its channel, and all of a channel of
        which this node is no longer a proxy."""
        cut(self._circuits, self._check)
        cut(self._guest_circuits, self._check_guest)
        cut(self._visits, lambda each: self._require_visit(*each))

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
