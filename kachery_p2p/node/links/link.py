"""A link: one authenticated session with another node, over any transport.

The rules are in :mod:`kachery_p2p.protocol.links.mux` (exchanges, fairness, credit) and
:mod:`kachery_p2p.protocol.links.session` (encryption); this is the asyncio shell that feeds and drains
them. A link lives inside :meth:`Link.run`: when that returns, everything that waited on the link has
been given an error, and its transport is closed. Cancelling any method is safe.

What it carries is in :mod:`~kachery_p2p.node.links.stream`, how it sends in
:mod:`~kachery_p2p.node.links.writer`, how the session came about in
:mod:`~kachery_p2p.node.links.opening`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    DeadlineExceeded,
    InternalError,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    to_wire,
)
from kachery_p2p.protocol.limits import HANDSHAKE_SECONDS, REQUEST_SECONDS, STREAM_CREDIT
from kachery_p2p.protocol.links import events
from kachery_p2p.protocol.links.frames import Bye, Hello
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import TAG_BYTES, SealedBody, Session

from .stream import Stream
from .transport import Transport
from .writer import INLINE_BYTES, Writer

log = logging.getLogger(__name__)

_TICK_SECONDS = 2.5
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
        via: str | None = None,
    ) -> None:
        self.transport = transport
        self.session = session
        self.initiator = initiator
        self.peer = session.peer.hex()
        self.via = via
        self.hello: Hello | None = None
        self.rtt: float | None = None
        self.skew: float | None = None
        """Seconds by which the peer's clock was ahead of ours when it greeted."""
        self.received = 0
        self.opened_at = asyncio.get_running_loop().time()
        self.used_at = self.opened_at
        self.closed_by: KacheryError | None = None
        self.greeted = asyncio.Event()
        self.closed = asyncio.Event()
        self._closing = asyncio.Event()
        self._handler = handler
        self._workers = workers
        self._mux = Mux(initiator=initiator, now=self.opened_at)
        self._writer = Writer(transport, session, self._mux, workers, self._on_data_sent)
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    def __repr__(self) -> str:
        route = f"via {self.via[:8]}" if self.via else "direct"
        return f"<Link {self.peer[:8]} {route}>"

    @property
    def sent(self) -> int:
        """Bytes that the transport has taken, records whole."""
        return self._writer.sent

    @property
    def bulk_bytes(self) -> int:
        """How long a bulk frame should be for this link's speed."""
        return self._writer.bulk_bytes

    # --- life --------------------------------------------------------------------------------

    async def run(self, hello: Hello) -> None:
        """Greet and serve the link until it ends. Never raises; see ``closed_by``."""
        self._mux.hello(hello)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._read(), name="link reader")
                tasks.create_task(self._write(), name="link writer")
                tasks.create_task(self._tick(), name="link ticker")
        except* KacheryError as group:
            self._fail_with(_first(group))
        except* (OSError, RuntimeError) as group:
            # A transport that breaks in a way nobody foresaw still only costs this one link.
            log.exception("link %s failed", self, exc_info=group)
            self._fail_with(InternalError(reason=str(group.exceptions[0])))
        finally:
            self._release()
            with contextlib.suppress(KacheryError, OSError):
                await asyncio.shield(self.transport.close())

    def close(self, error: KacheryError) -> None:
        """Say goodbye with a reason; the link ends soon after, whatever the peer does."""
        if self.closed_by is None:
            self.closed_by = error
            self._mux.bye(error)
            self._writer.end()
            self._closing.set()

    def _fail_with(self, error: KacheryError) -> None:
        if self.closed_by is None:
            self.closed_by = error

    def _release(self) -> None:
        error = self.closed_by or LinkClosed(peer=self.peer[:8], reason="this node closed it")
        self.closed_by = error
        self.closed.set()
        self.greeted.set()
        for future in self._requests.values():
            if not future.done():
                future.set_exception(_as_closed(self.peer, error))
                future.exception()  # nobody may be waiting any more; that is no news
        self._requests.clear()
        for stream in list(self._streams.values()):
            stream.on_end(_as_closed(self.peer, error))
        self._streams.clear()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            record = await self.transport.receive()
            self.received += len(record)
            try:
                frame, body = self.session.open(record)
                events = self._mux.receive(frame, body, loop.time())
                for event in events:
                    self._on_event(event)
            except ProtocolViolation as error:
                await self._last_word(error)
                raise
            self._writer.wake()

    async def _write(self) -> None:
        await self._writer.run()
        # All is said, the goodbye too.
        await self.transport.close()
        assert self.closed_by is not None
        raise self.closed_by

    async def _last_word(self, error: KacheryError) -> None:
        """Tell the peer why, if it can still be told."""
        with contextlib.suppress(KacheryError, OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self.transport.send(self.session.seal()(Bye(*to_wire(error))))

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANDSHAKE_SECONDS) as limit:
            try:
                await self.greeted.wait()
            except asyncio.CancelledError:
                if limit.expired():
                    raise ProtocolViolation(reason="no hello came") from None
                raise
        self._mux.ping(loop.time())
        self._writer.wake()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._closing.wait()
            if self.closed_by is not None:
                await asyncio.sleep(_GOODBYE_SECONDS)
                raise self.closed_by  # the writer is stuck: the peer does not read
            if not self._mux.tick(loop.time()):
                raise LinkClosed(peer=self.peer[:8], reason="it has been silent for too long")
            self._writer.wake()

    # --- what the peer says ------------------------------------------------------------------

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.Received():
                self.used_at = asyncio.get_running_loop().time()
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream.on_data(event.meta, event.body, event.cost)
            case events.Responded():
                self._answer(event.id, event.result)
            case events.Failed():
                self._answer(event.id, event.error)
            case events.Requested():
                self.used_at = asyncio.get_running_loop().time()
                self._spawn(event.id, self._serve(event.id, event.method, event.params))
            case events.Opened():
                self.used_at = asyncio.get_running_loop().time()
                stream = Stream(self, event.id)
                self._streams[event.id] = stream
                self._spawn(event.id, self._serve_stream(stream, event.method, event.params))
            case events.Writable():
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream.on_room()
            case events.Ended():
                task = self._serving.get(event.id)
                if task is not None and event.id not in self._streams:
                    task.cancel()
                stream = self._streams.pop(event.id, None)
                if stream is not None:
                    stream.on_end(event.error)
            case events.Noted():
                self._handler.on_note(self, event.topic, event.params)
            case events.Greeted():
                self.hello = event.hello
                self._handler.on_hello(self)
                self.greeted.set()
            case events.RoundTrip():
                self.rtt = event.seconds
            case events.SaidBye():
                raise event.error

    def _spawn(self, number: int, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None
        task = self._tasks.create_task(work)
        self._serving[number] = task
        task.add_done_callback(lambda _: self._serving.pop(number, None))

    async def _serve(self, number: int, method: str, params: Any) -> None:
        try:
            result = await self._handler.on_request(self, method, params)
        except KacheryError as error:
            self._mux.fail(number, error)
        except Exception as error:  # a bug in a handler must not cost the link
            log.exception("request %s from %s failed", method, self)
            self._mux.fail(number, error)
        else:
            self._mux.respond(number, result)
        finally:
            self._writer.wake()

    async def _serve_stream(self, stream: Stream, method: str, params: Any) -> None:
        try:
            await self._handler.on_stream(self, stream, method, params)
        except KacheryError as error:
            stream.end(error)
        except Exception as error:  # a bug in a handler must not cost the link
            log.exception("stream %s from %s failed", method, self)
            stream.end(error)
        else:
            stream.end()
        finally:
            if not stream.ended:
                stream.end(LinkClosed(peer=self.peer[:8], reason="the other side stopped"))

    def _answer(self, number: int, result: Any) -> None:
        future = self._requests.pop(number, None)
        if future is None or future.done():
            return
        if isinstance(result, KacheryError):
            future.set_exception(result)
        else:
            future.set_result(result)

    # --- what we say -------------------------------------------------------------------------

    async def request(self, method: str, params: Any, *, seconds: float = REQUEST_SECONDS) -> Any:
        """Ask the peer and wait for its answer.

        Raises:
            DeadlineExceeded: none came in time.
            LinkClosed: the link ended first.
            KacheryError: what the peer answered.
        """
        self._check_open()
        number = self._mux.request(method, params)
        self._writer.wake()
        self.used_at = asyncio.get_running_loop().time()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests[number] = future
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            raise DeadlineExceeded(
                what=f"The request {method!r} to {self.peer[:8]}", seconds=seconds
            ) from error
        finally:
            if self._requests.pop(number, None) is not None:
                self._mux.abandon(number)
                self._writer.wake()

    def open(self, method: str, params: Any, *, credit: int = STREAM_CREDIT) -> Stream:
        """Open a stream; the peer may send ``credit`` bytes before any is dealt with."""
        self._check_open()
        number = self._mux.open(method, params, credit=credit)
        stream = Stream(self, number)
        self._streams[number] = stream
        self._writer.wake()
        return stream

    def note(self, topic: str, params: Any) -> None:
        """Tell the peer something, unanswered. Does nothing on a closed link."""
        if self.closed_by is None:
            self._mux.note(topic, params)
            self._writer.wake()

    def _check_open(self) -> None:
        if self.closed_by is not None:
            raise _as_closed(self.peer, self.closed_by)

    @property
    def idle_seconds(self) -> float:
        """Time since an exchange of ours or theirs last moved, 0 while one is open."""
        if self._streams or self._requests or self._serving:
            return 0.0
        return asyncio.get_running_loop().time() - self.used_at

    # --- for its streams ---------------------------------------------------------------------

    def send_on(self, number: int, meta: Any, body: Buffer | None, *, opaque: bool) -> bool:
        size = 0 if body is None else len(body) + (0 if opaque else TAG_BYTES)
        if self._mux.queued(number) >= _OUTBOX or not self._mux.can_send(number, size):
            return False
        self._mux.send(number, meta, body, opaque=opaque)
        self._writer.wake()
        return True

    def credit(self, number: int) -> int:
        return self._mux.credit(number)

    def await_credit(self, number: int) -> None:
        self._mux.await_credit(number)

    def grant(self, number: int, credit: int) -> None:
        self._mux.grant(number, credit)
        self._writer.wake()

    def set_group(self, number: int, group: str) -> None:
        self._mux.set_group(number, group)

    def end(self, number: int, error: BaseException | None) -> None:
        self._mux.end(number, error)
        self._streams.pop(number, None)
        self._writer.wake()

    async def unseal(self, body: SealedBody) -> bytes:
        try:
            if len(body) <= INLINE_BYTES:
                return body.open()
            return await self._workers.cipher(body.open)
        except ProtocolViolation as error:
            self.close(error)
            raise

    def _on_data_sent(self, number: int) -> None:
        self.used_at = asyncio.get_running_loop().time()
        stream = self._streams.get(number)
        if stream is not None:
            stream.on_room()


def _first(group: BaseExceptionGroup[KacheryError]) -> KacheryError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KacheryError)
    return error


def _as_closed(peer: str, error: KacheryError) -> KacheryError:
    if isinstance(error, LinkClosed):
        return error
    closed = LinkClosed(peer=peer[:8], reason=str(error))
    closed.__cause__ = error
    return closed
