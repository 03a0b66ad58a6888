"""A link: one authenticated session with another node, over any transport.

The rules are in :mod:`kachery_p2p.protocol.links.mux` (exchanges, fairness, credit) and
:mod:`kachery_p2p.protocol.links.session` (encryption); this is the asyncio shell that feeds and drains
them. A link lives inside :meth:`Link.run`: when that returns, everything that waited on the link has
been given an error, and its transport is closed. Then nothing of it leads in a circle: what it held
goes with it, and not when somebody looks for circles. Cancelling any method is safe.

What the peer does not take is this link's trouble and nobody else's: to send a note, an answer or a
stream's control never raises into who sends it. Too much of it, or one record that is not taken for
``WRITE_STALL_SECONDS``, ends the link.

What it carries is in :mod:`~kachery_p2p.node.links.stream`, how it sends in
:mod:`~kachery_p2p.node.links.writer`, how the session came about in
:mod:`~kachery_p2p.node.links.opening`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from kachery_p2p.node.parties import KNOCKED, STRANGERS
from kachery_p2p.node.turns import Turns
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    InternalError,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
)
from kachery_p2p.protocol.limits import (
    HANDSHAKE_SECONDS,
    REQUEST_SECONDS,
    STREAM_CREDIT,
)
from kachery_p2p.protocol.links import events
from kachery_p2p.protocol.links.frames import TAG_BYTES, Hello
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import SealedBody, Session

from .asking import Asking
from .budget import Budget
from .endings import as_closed, ended_by, without_frames
from .heartbeat import Heartbeat
from .serving import Serving
from .stream import Stream
from .transport import Transport
from .writer import INLINE_BYTES, Writer

log = logging.getLogger(__name__)

_GOODBYE_SECONDS = 1.0
"""How long a closing link may take to send its goodbye."""
_OUTBOX = 2
"""Frames of one stream that wait in the link; more would only add delay."""


class Handler(Protocol):
    """What a node does when its peers speak. Methods run on the loop."""

    def on_hello(self, link: Link) -> None:
        """The peer greeted. Runs before anything that it says afterwards is looked at."""

    async def on_request(self, link: Link, method: str, params: Any) -> Any: ...

    async def on_stream(self, link: Link, stream: Stream, method: str, params: Any) -> None: ...

    def on_note(self, link: Link, topic: str, params: Any) -> None: ...

    def on_congested(self, link: Link) -> None:
        """Much is queued that the peer does not take."""


class Link:
    """See the module. ``peer`` is the other node's id, ``via`` the proxy's or None if direct."""

    def __init__(
        self,
        transport: Transport,
        session: Session,
        *,
        initiator: bool,
        handler: Handler,
        workers: Workers,
        budget: Budget,
        turns: Turns,
        via: str | None = None,
    ) -> None:
        self.transport = transport
        self.session = session
        self.initiator = initiator
        self.peer = session.peer.hex()
        self.party = transport.party
        """On whose account this link's work goes."""
        transport.belong_to(self.party)
        self.via = via
        self.budget = budget
        self.hello: Hello | None = None
        self.skew: float | None = None
        """Seconds by which the peer's clock was ahead of ours when it greeted."""
        self.received = 0
        self.opened_at = asyncio.get_running_loop().time()
        self.used_at = self.opened_at
        self.closed_by: KacheryError | None = None
        self.greeted = asyncio.Event()
        self.closed = asyncio.Event()
        self._handler = handler
        self._workers = workers
        self._turns = turns
        self._mux = Mux(initiator=initiator, now=self.opened_at, rtt=session.rtt)
        self._writer = Writer(
            transport, session, self._mux, workers, self._on_data_sent, self._count
        )
        self.heart = Heartbeat(self._mux, self._writer, self.peer, self._flush)
        self._asking = Asking(self._mux, self._writer, flush=self._flush, late=self.doubt)
        self._streams: dict[int, Stream] = {}
        self._serving = Serving(
            self._mux,
            self._writer,
            budget,
            self._metered,
            partial(turns.came_to, self.peer),
            on_request=partial(handler.on_request, self),
            on_stream=partial(handler.on_stream, self),
            flush=self._flush,
        )
        self._counted = 0
        """Bytes that wait to be sent and that the peer's budget knows of."""

    def __repr__(self) -> str:
        route = f"via {self.via[:8]}" if self.via else "direct"
        return f"<Link {self.peer[:8]} {route}>"

    @property
    def rtt(self) -> float | None:
        """Seconds: the least of the last minute."""
        return self._mux.pulse.rtt

    def preference(self) -> tuple[bool, bool, float]:
        """The best of several links has the least: what is not silent, direct, and newest."""
        return self.heart.is_doubtful, self.via is not None, -self.opened_at

    @property
    def heard_at(self) -> float:
        """When (the loop's time) anything came last."""
        return self._mux.pulse.heard_at

    @property
    def sent(self) -> int:
        """Bytes that the transport has taken, records whole."""
        return self._writer.sent

    @property
    def unread(self) -> int:
        """Bytes of control frames that wait for the peer."""
        return self._mux.control.bytes

    @property
    def bulk_bytes(self) -> int:
        """How long a bulk frame should be for this link's speed."""
        return self._writer.bulk_bytes

    def doubt(self) -> None:
        """What is waited for does not come: find out whether the peer is there."""
        self.heart.doubt()
        self.transport.doubt()

    # --- life --------------------------------------------------------------------------------

    async def run(self, hello: Hello) -> None:
        """Greet and serve the link until it ends. Never raises; see ``closed_by``."""
        self._mux.hello(hello)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._metered(self._read), name="link reader")
                tasks.create_task(self._metered(self._write), name="link writer")
                tasks.create_task(self._tick(), name="link ticker")
        except BaseExceptionGroup as group:
            self.closed_by = self.closed_by or ended_by(group, self)
            without_frames(group)
        finally:
            self._release()
            assert self.closed_by is not None
            without_frames(self.closed_by)
            with contextlib.suppress(KacheryError, OSError):
                try:
                    await asyncio.shield(self.transport.close())
                finally:
                    await self._metered(self._stop)

    async def _stop(self) -> None:
        try:
            await self._serving.stop()
        finally:
            self._streams.clear()

    def close(self, error: KacheryError, *, at_once: bool = False) -> None:
        """Say goodbye with a reason; the link ends soon after, whatever the peer does. ``at_once``:
        what is queued for it is not sent before that."""
        if self.closed_by is None:
            self.closed_by = error
            self._mux.bye(error, at_once=at_once)
            self._writer.end()
            self.heart.wake()

    def _metered(
        self, work: Callable[[], Coroutine[Any, Any, None]], *, every_step: bool = True
    ) -> Coroutine[Any, Any, None]:
        """Work for this link's peer, in its turn."""
        return self._turns.metered(lambda: self.party, work, every_step=every_step)

    def is_member(self) -> None:
        """The peer has shown that it is one, and has an account of its own."""
        if self.party in (STRANGERS, KNOCKED):
            self.party = self._turns.party_of(self.peer)
            self.transport.belong_to(self.party)

    def _flush(self) -> None:
        """The mux may have something to send, or more than the peer takes."""
        if self._mux.overflow is not None and self.closed_by is None:
            log.info("%s: %s", self, self._mux.overflow)
            self.close(self._mux.overflow, at_once=True)
        if self._mux.congested:
            self._handler.on_congested(self)
        self._writer.wake()

    def _release(self) -> None:
        error = self.closed_by or LinkClosed(peer=self.peer[:8], reason="this node closed it")
        self.closed_by = error
        self.closed.set()
        self.greeted.set()
        self._writer.release()
        self.heart.release()
        self._asking.release(as_closed(self.peer, error))
        for number in [each for each in self._streams if each not in self._serving]:
            self._streams.pop(number).on_end(as_closed(self.peer, error))
        if self._counted:
            self.budget.bytes.give(self._counted)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            record = await self.transport.receive()
            self.received += len(record)
            try:
                now = loop.time()
                for frame, body in self.session.open(record):
                    for event in self._mux.receive(frame, body, now):
                        self._on_event(event)
            except ProtocolViolation as error:
                # The writer says it, in its turn: a record out of order could not be read.
                self.close(error, at_once=True)
                await asyncio.sleep(_GOODBYE_SECONDS)
                raise
            self._flush()
            if not self._turns.free(self.party):
                await asyncio.sleep(0)  # the next one waits for its turn

    async def _write(self) -> None:
        await self._writer.run()
        # All is said, the goodbye too.
        await self.transport.close()
        assert self.closed_by is not None
        raise self.closed_by

    async def _greeting(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                await self.greeted.wait()
        except TimeoutError:
            raise ProtocolViolation(reason="no hello came") from None

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        await self._greeting()
        self._mux.ping(loop.time())
        self._flush()
        while self.closed_by is None:
            await self.heart.beat()
            if self.party not in (STRANGERS, KNOCKED):
                self.party = self._turns.party_of(self.peer, loop.time() - self.opened_at)
        if not self.heart.is_doubtful:  # else nobody is there who would hear it
            await asyncio.sleep(_GOODBYE_SECONDS)
        raise self.closed_by  # the writer is stuck: the peer does not read

    # --- what the peer says ------------------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.Received():
                self.used_at = asyncio.get_running_loop().time()
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream.on_data(event.meta, event.body, event.cost)
            case events.Responded():
                self._asking.answered(event.id, event.result)
            case events.Failed():
                self._asking.answered(event.id, event.error)
            case events.Requested():
                self.used_at = asyncio.get_running_loop().time()
                self._serving.request(event.id, event.method, event.params)
            case events.Opened():
                self.used_at = asyncio.get_running_loop().time()
                stream = Stream(self, event.id)
                if self._serving.stream(stream, event.method, event.params):
                    self._streams[event.id] = stream
            case events.Writable():
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream.on_room()
            case events.Ended():
                self._count()
                stream = self._streams.pop(event.id, None)
                if stream is not None:
                    stream.on_end(event.error)
                else:
                    self._serving.cancel(event.id)
            case events.Noted():
                self._on_note(event.topic, event.params)
            case events.Greeted():
                self.hello = event.hello
                self._handler.on_hello(self)
                self.greeted.set()
            case events.RoundTrip():
                pass
            case events.SaidBye():
                raise event.error

    def _on_note(self, topic: str, params: Any) -> None:
        try:
            self._handler.on_note(self, topic, params)
        except ProtocolViolation:
            raise
        except KacheryError as error:  # it may not, or we cannot: nobody waits for an answer
            log.info("note %s from %s: %s", topic, self, error)
        except Exception:  # a bug in a handler must not cost the link
            log.exception("note %s from %s failed", topic, self)

    # --- what we say -------------------------------------------------------------------------

    async def request(self, method: str, params: Any, *, seconds: float = REQUEST_SECONDS) -> Any:
        """Ask the peer and wait for its answer, and before that for room if it does not read.

        Raises:
            DeadlineExceeded: none came in time.
            LinkClosed: the link ended first.
            KacheryError: what the peer answered.
        """
        self.used_at = asyncio.get_running_loop().time()
        self._check_open()
        return await self._asking.request(self.peer, method, params, seconds)

    def open(self, method: str, params: Any, *, credit: int = STREAM_CREDIT) -> Stream:
        """Open a stream; the peer may send ``credit`` bytes before any is dealt with."""
        self._check_open()
        number = self._mux.open(method, params, credit=credit)
        stream = Stream(self, number)
        self._streams[number] = stream
        self._flush()
        return stream

    def note(self, topic: str, params: Any) -> None:
        """Tell the peer something, unanswered. Does nothing on a closed link, and never raises."""
        if self.closed_by is None:
            try:
                self._mux.note(topic, params)
            except (ValueError, TypeError, OverflowError) as error:
                # A bug of ours; who is told other things in the same breath must not pay for it.
                log.exception("a note %s that cannot be sent", topic)
                self.close(InternalError(reason=f"a note that cannot be sent: {error}"))
            self._flush()

    def _check_open(self) -> None:
        if self.closed_by is not None:
            raise as_closed(self.peer, self.closed_by)

    @property
    def idle_seconds(self) -> float:
        """Time since an exchange of ours or theirs last moved, 0 while one is open."""
        if self._streams or self._asking or self._serving:
            return 0.0
        return asyncio.get_running_loop().time() - self.used_at

    # --- for its streams ---------------------------------------------------------------------

    def send_on(self, number: int, meta: Any, body: Buffer | None, *, opaque: bool) -> bool:
        size = 0 if body is None else len(body) + (0 if opaque else TAG_BYTES)
        if self._mux.queued(number) >= _OUTBOX or not self._mux.can_send(number, size):
            return False
        self._mux.send(number, meta, body, opaque=opaque)
        self._count()
        self._writer.wake()
        return True

    def credit(self, number: int) -> int:
        return self._mux.credit(number)

    def await_credit(self, number: int) -> None:
        self._mux.await_credit(number)

    def grant(self, number: int, credit: int) -> None:
        self._mux.grant(number, credit)
        self._flush()

    def set_group(self, number: int, group: str) -> None:
        self._mux.set_group(number, group)

    def _count(self) -> None:
        """Tell the peer's budget what waits to be sent."""
        more = self._mux.bulk_bytes + self._writer.ahead - self._counted
        if self.closed.is_set():
            return  # all of it was given back
        self._counted += more
        if more > 0:
            self.budget.bytes.force(more)
        elif more < 0:
            self.budget.bytes.give(-more)

    def end(self, number: int, error: BaseException | None) -> None:
        self._mux.end(number, error)
        self._count()
        self._streams.pop(number, None)
        self._flush()

    async def unseal(self, body: SealedBody) -> bytes:
        try:
            if len(body) <= INLINE_BYTES:
                return body.open()
            return await self._workers.cipher(body.open)
        except ProtocolViolation as error:
            self.close(error)
            raise

    def _on_data_sent(self, number: int) -> None:
        self._count()
        self.heart.stir()
        self.used_at = asyncio.get_running_loop().time()
        stream = self._streams.get(number)
        if stream is not None:
            stream.on_room()
