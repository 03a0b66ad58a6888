"""Many requests and streams over one session: the pure part of a link.

Participants: the shell (:mod:`kachery_p2p.node.links.link`) feeds received frames to
:meth:`Mux.receive` and obeys the events it returns; it pulls what is to be sent from
:meth:`Mux.next_frame` whenever the socket can take more.

Goals. Control frames go before bulk, always. Bulk is shared fairly (:mod:`.bulk_queue`), and no more of
it leaves than the path carries at once (:mod:`.pace`). No stream can make the other side hold more than
it granted. Everything a peer can make us hold is counted against a limit.

A peer that does not read is its own link's trouble: see :mod:`.control`. The shell closes the link
when :attr:`Mux.overflow` says so.

Non-goals: encryption, sockets, time (``now`` is an argument).

A frame that cannot be right raises :class:`~.errors.ProtocolViolation`, and the link must be closed.
A frame for an exchange that has ended here is ignored: the peer could not know yet.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    Busy,
    InternalError,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    from_peer,
    to_wire,
)
from kachery_p2p.protocol.limits import (
    MAX_BODY,
    MAX_RELAY_TAIL,
    MAX_REQUESTS,
    MAX_STREAMS,
    MIN_FRAGMENT,
    STREAM_CREDIT,
)

from .bulk_queue import BulkQueue
from .control import ControlQueue
from .events import (
    Ended,
    Event,
    Failed,
    Greeted,
    Noted,
    Opened,
    Received,
    Requested,
    Responded,
    RoundTrip,
    SaidBye,
    Writable,
)
from .frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    PART_TAIL,
    SEALED_TAIL,
    TAG_BYTES,
    Bye,
    Credit,
    Data,
    End,
    Failure,
    Frame,
    Hello,
    Item,
    Note,
    Open,
    Ping,
    Pong,
    Request,
    Response,
    cost_of,
)
from .pace import fragment_bytes
from .pulse import Pulse
from .session import Body, SealedBody


@dataclass(slots=True)
class _Stream:
    group: Hashable
    send_credit: int
    granted: int  # what the peer may still send
    starved: bool = False
    parts: list[SealedBody] = field(default_factory=list)  # of a body that is not all there


class Mux:
    """The state of one link's exchanges. Sync, pure, single-threaded."""

    def __init__(self, *, initiator: bool, now: float, rtt: float = 0.0) -> None:
        """``rtt``: seconds of a round trip, if one was measured already; else 0."""
        self._initiator = initiator
        self._next_id = 1 if initiator else 2
        self._highest_theirs = 0
        self.control = ControlQueue()
        self.pulse = Pulse(now, rtt)
        self.pace = self.pulse.pace
        self._bulk = BulkQueue()
        self._waiting: set[int] = set()  # requests of ours without an answer
        self._serving: set[int] = set()  # requests of theirs without an answer
        self._streams: dict[int, _Stream] = {}
        self._greeted = False
        self._said_bye = False

    # --- what we want to say -----------------------------------------------------------------

    def hello(self, hello: Hello) -> None:
        self.control.put(hello, first=True)

    def request(self, method: str, params: Any) -> int:
        """Queue a request and return its number. Raises Busy over ``MAX_REQUESTS``."""
        if len(self._waiting) >= MAX_REQUESTS:
            raise Busy(limit=f"{MAX_REQUESTS} requests under way on this link")
        number = self._take_id()
        self._push(Request(number, method, params))
        self._waiting.add(number)
        return number

    def abandon(self, number: int) -> None:
        """The caller of a request has gone; its answer will be ignored."""
        if number in self._waiting:
            self._waiting.discard(number)
            self._push(End(number, "cancelled", {}))

    def respond(self, number: int, result: Any) -> None:
        if number in self._serving:
            self._serving.discard(number)
            try:
                self._push(Response(number, result))
            except (ValueError, TypeError, OverflowError) as error:
                # An answer that fits no frame is that request's failure, not the link's.
                failure = InternalError(reason=f"an answer that cannot be sent: {error}")
                self._push(Failure(number, *to_wire(failure)))

    def fail(self, number: int, error: BaseException) -> None:
        if number in self._serving:
            self._serving.discard(number)
            self._push(Failure(number, *to_wire(error)))

    def open(
        self, method: str, params: Any, *, group: Hashable = None, credit: int = STREAM_CREDIT
    ) -> int:
        """Queue the opening of a stream and return its number."""
        if len(self._streams) >= MAX_STREAMS:
            raise Busy(limit=f"{MAX_STREAMS} streams open on this link")
        number = self._take_id()
        self._push(Open(number, method, params, credit))
        self._streams[number] = _Stream(group, 0, credit)
        return number

    def set_group(self, number: int, group: Hashable) -> None:
        """On whose behalf a stream flows, for fairness. Before anything is sent on it."""
        if number in self._streams:
            self._streams[number].group = group

    def can_send(self, number: int, tail_bytes: int) -> bool:
        """Whether a tail of this length may be sent now. If not, ``Writable`` will come."""
        stream = self._streams.get(number)
        if stream is None:
            return True  # ended: the send will say so
        if stream.send_credit >= cost_of(tail_bytes):
            return True
        stream.starved = True
        return False

    def credit(self, number: int) -> int:
        """Bytes of cost that may be sent on a stream now; 0 if it has ended."""
        stream = self._streams.get(number)
        return stream.send_credit if stream is not None else 0

    def await_credit(self, number: int) -> None:
        """Whatever credit comes next for a stream is to be told, as ``Writable``."""
        if (stream := self._streams.get(number)) is not None:
            stream.starved = True

    def send(
        self, number: int, meta: Any, body: Buffer | None = None, *, opaque: bool = False
    ) -> None:
        """Queue data on a stream; the credit must be there (see :meth:`can_send`).

        Raises:
            LinkClosed: the stream has ended.
        """
        stream = self._streams.get(number)
        if stream is None:
            raise LinkClosed(peer="the peer", reason="the stream has ended")
        if body is None:
            data = Data(number, meta, NO_TAIL, 0)
        elif opaque:
            data = Data(number, meta, OPAQUE_TAIL, len(body))
        else:
            data = Data(number, meta, SEALED_TAIL, len(body) + TAG_BYTES)
        if stream.send_credit < cost_of(data.size):
            raise ValueError("sent beyond the credit of the stream")
        stream.send_credit -= cost_of(data.size)
        self._bulk.put(number, stream.group, data, body)

    def queued(self, number: int) -> int:
        """Frames of a stream that wait to be sent."""
        return self._bulk.waiting(number)

    @property
    def bulk_bytes(self) -> int:
        """Bytes of bodies that wait to be sent, but for those of circuits: their windows bound them."""
        return self._bulk.bytes

    def grant(self, number: int, more: int) -> None:
        """Let the peer send ``more`` bytes of cost on a stream."""
        if (stream := self._streams.get(number)) is not None:
            stream.granted += more
            self._push(Credit(number, more))

    def end(self, number: int, error: BaseException | None = None) -> None:
        """End a stream: after what is queued if all is well, at once if not."""
        stream = self._streams.get(number)
        if stream is None:
            return
        if error is None and self._bulk.waiting(number):
            self._bulk.put(number, stream.group, End(number, "", {}), None)
            return
        self._forget(number)
        self._push(End(number, "", {}) if error is None else End(number, *to_wire(error)))

    def note(self, topic: str, params: Any) -> None:
        self._push(Note(topic, params))

    def bye(self, error: KacheryError, *, at_once: bool = False) -> None:
        """The last word; nothing is sent after it. ``at_once``: nor anything that is queued."""
        if self._said_bye:
            return
        self._said_bye = True
        if at_once:
            self.control.clear()
        self.control.put(Bye(*to_wire(error)))

    @property
    def overflow(self) -> LinkClosed | None:
        """Set once too much is queued that the peer does not take: close the link with it."""
        return self.control.overflow

    @property
    def congested(self) -> bool:
        """So much is queued that requests and answers should wait until the peer has taken some."""
        return self.control.congested

    def next_frame(self) -> Item | None:
        """What to send now, or None: control first, as encoded headers, then bulk, as far as the pace
        allows."""
        if (header := self.next_control()) is not None:
            return header, None
        if self._said_bye or not self.pace.allows:
            return None
        if not self._bulk:
            self.pace.idle()
            return None
        item = self._bulk.next(fragment_bytes(self.pace.rate))
        if isinstance(item[0], End):
            self._forget(item[0].id)
        return item

    def next_control(self) -> bytes | None:
        """What to say now, encoded, or None. It has no body, so it may ride in any record."""
        return self.control.pop() if self.control else None

    def sent(self, size: int, now: float) -> None:
        """A record of so many bytes is on its way; a ping may follow it."""
        self.pace.sent(size)
        self.measure(now)

    def measure(self, now: float) -> None:
        """Ping, if the pace needs to know how far the peer has come."""
        if self.pace.due:
            self.ping(now)

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction."""
        return not (self._streams or self._waiting or self._serving or self.control)

    # --- life --------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """To be called every few seconds; queues pings. False: the peer is dead."""
        if self.pulse.is_due(now):
            self.ping(now)
        return not self.pulse.is_dead(now)

    def ping(self, now: float) -> None:
        self._push(Ping(self.pulse.ping(now)))

    # --- what the peer says ------------------------------------------------------------------

    def receive(self, frame: Frame, body: Body, now: float) -> list[Event]:
        """Take one frame in.

        Raises:
            ProtocolViolation: it breaks the rules; close the link.
        """
        self.pulse.heard(now)
        if not self._greeted:
            if isinstance(frame, Bye):
                return [SaidBye(from_peer(frame.code, frame.fields))]
            if not isinstance(frame, Hello):
                raise ProtocolViolation(reason="the first frame is not a hello")
            self._greeted = True
            return [Greeted(frame)]
        match frame:
            case Data():
                return self._on_data(frame, body)
            case Credit():
                return self._on_credit(frame)
            case Request():
                self._check_theirs(frame.id)
                if len(self._serving) >= MAX_REQUESTS:
                    self._push(Failure(frame.id, *to_wire(Busy(limit=f"{MAX_REQUESTS} requests"))))
                    return []
                self._serving.add(frame.id)
                return [Requested(frame.id, frame.method, frame.params)]
            case Response() | Failure():
                return self._on_answer(frame)
            case Open():
                self._check_theirs(frame.id)
                if frame.credit < 0:
                    raise ProtocolViolation(reason="negative credit")
                if len(self._streams) >= MAX_STREAMS:
                    self._push(End(frame.id, *to_wire(Busy(limit=f"{MAX_STREAMS} streams"))))
                    return []
                self._streams[frame.id] = _Stream(None, frame.credit, 0)
                return [Opened(frame.id, frame.method, frame.params)]
            case End():
                return self._on_end(frame)
            case Note():
                return [Noted(frame.topic, frame.params)]
            case Ping():
                self._push(Pong(frame.token))
                return []
            case Pong():
                rtt = self.pulse.pong(frame.token, now)
                self.measure(now)
                return [] if rtt is None else [RoundTrip(rtt)]
            case Bye():
                return [SaidBye(from_peer(frame.code, frame.fields))]
            case Hello():
                raise ProtocolViolation(reason="a second hello")

    def _on_data(self, frame: Data, body: Body) -> list[Event]:
        stream = self._streams.get(frame.id)
        if stream is None:
            self._check_known(frame.id)
            return []
        most = MAX_RELAY_TAIL if frame.tail == OPAQUE_TAIL else MAX_BODY + TAG_BYTES
        if not 0 <= frame.size <= most:
            raise ProtocolViolation(reason=f"a data frame of {frame.size} bytes")
        part = frame.tail == PART_TAIL
        cost = frame.size - TAG_BYTES if part else cost_of(frame.size)
        stream.granted -= cost
        if stream.granted < 0:
            raise ProtocolViolation(reason="more data than was granted")
        if not part and not stream.parts:
            return [Received(frame.id, frame.meta, body, cost)]
        if not isinstance(body, SealedBody):
            raise ProtocolViolation(reason="a body in parts that is none")
        before = tuple(stream.parts)
        if part:
            if cost < MIN_FRAGMENT or sum(map(len, before)) + cost >= MAX_BODY:
                raise ProtocolViolation(reason=f"a part of {cost} bytes")
            stream.parts.append(body)
            return []
        stream.parts.clear()
        whole = SealedBody(body.aead, body.number, body.tail, before)
        if len(whole) > MAX_BODY:
            raise ProtocolViolation(reason=f"a body of {len(whole)} bytes in parts")
        return [Received(frame.id, frame.meta, whole, cost_of(len(whole) + TAG_BYTES))]

    def _on_credit(self, frame: Credit) -> list[Event]:
        stream = self._streams.get(frame.id)
        if stream is None:
            self._check_known(frame.id)
            return []
        if not 0 < frame.more <= 1 << 40 or stream.send_credit > 1 << 40:
            raise ProtocolViolation(reason="absurd credit")
        stream.send_credit += frame.more
        if not stream.starved:
            return []
        stream.starved = False
        return [Writable(frame.id)]

    def _on_answer(self, frame: Response | Failure) -> list[Event]:
        if frame.id not in self._waiting:
            if not self._is_ours(frame.id) or not 0 < frame.id < self._next_id:
                raise ProtocolViolation(reason="an answer to no request")
            return []
        self._waiting.discard(frame.id)
        if isinstance(frame, Response):
            return [Responded(frame.id, frame.result)]
        return [Failed(frame.id, from_peer(frame.code, frame.fields))]

    def _on_end(self, frame: End) -> list[Event]:
        error = from_peer(frame.code, frame.fields) if frame.code else None
        if frame.id in self._serving:  # the requester has gone
            self._serving.discard(frame.id)
            return [Ended(frame.id, error)]
        if frame.id not in self._streams:
            self._check_known(frame.id)
            return []
        self._forget(frame.id)
        return [Ended(frame.id, error)]

    # --- book-keeping ------------------------------------------------------------------------

    def _take_id(self) -> int:
        number = self._next_id
        self._next_id += 2
        return number

    def _is_ours(self, number: int) -> bool:
        return number % 2 == (1 if self._initiator else 0)

    def _check_theirs(self, number: int) -> None:
        if self._is_ours(number) or number <= self._highest_theirs:
            raise ProtocolViolation(reason=f"exchange number {number} out of order")
        self._highest_theirs = number

    def _check_known(self, number: int) -> None:
        last = self._next_id - 2 if self._is_ours(number) else self._highest_theirs
        if not 0 < number <= last:
            raise ProtocolViolation(reason=f"a frame for exchange {number}, which never was")

    def _push(self, frame: Frame) -> None:
        if not self._said_bye:
            self.control.push(frame)

    def _forget(self, number: int) -> None:
        del self._streams[number]
        self._bulk.drop(number)
