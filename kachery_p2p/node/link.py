"""A link: one authenticated session with another node, over any transport.

The rules are in :mod:`kachery_p2p.protocol.mux` (exchanges, fairness, credit) and
:mod:`kachery_p2p.protocol.session` (encryption); this is the asyncio shell that feeds and drains
them. A link lives inside :meth:`Link.run`: when that returns, everything that waited on the link has
been given an error, and its transport is closed.

Backpressure: a sender waits in :meth:`Stream.send` for credit and for the writer; a receiver grants
credit with :meth:`Stream.done` only for what it has dealt with. Cancelling any method is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from kachery_p2p.protocol import mux
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import (
    DeadlineExceeded,
    InternalError,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    to_wire,
)
from kachery_p2p.protocol.frames import SEALED_TAIL, Bye, Data, Failure, Hello, Response
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    BULK_FRAME_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_BODY,
    MIN_BODY,
    REQUEST_SECONDS,
    STREAM_CREDIT,
)
from kachery_p2p.protocol.noise import Handshake
from kachery_p2p.protocol.session import Body, Seal, SealedBody, Session, prologue, unwrap_handshake

from .transport import Transport
from .workers import Workers

log = logging.getLogger(__name__)

_TICK_SECONDS = 2.5
_GOODBYE_SECONDS = 1.0
"""How long a closing link may take to send its goodbye."""
_INLINE_BYTES = 16 * 1024
"""Smaller bodies are sealed on the loop: a hop to a thread costs more than the cipher."""
_AHEAD = 2
"""Records sealed ahead of the socket, so that cipher and socket work overlap."""
_OUTBOX = 2
"""Frames of one stream that wait in the link; more would only add delay."""


class Handler(Protocol):
    """What a node does when its peers speak. Methods run on the loop."""

    def on_hello(self, link: Link) -> None:
        """The peer greeted. Runs before anything that it says afterwards is looked at."""

    async def on_request(self, link: Link, method: str, params: Any) -> Any: ...

    async def on_stream(self, link: Link, stream: Stream, method: str, params: Any) -> None: ...

    def on_note(self, link: Link, topic: str, params: Any) -> None: ...


async def handshake(
    transport: Transport,
    *,
    initiator: bool,
    key: NodeKey,
    random_bytes: Callable[[int], bytes],
    expected_peer: bytes | None = None,
) -> Session:
    """Run the Noise handshake over a fresh transport.

    Raises:
        VersionMismatch, ProtocolViolation, LinkClosed, DeadlineExceeded
    """
    noise = Handshake(
        initiator=initiator,
        key=key,
        static=random_bytes(32),
        ephemeral=random_bytes(32),
        prologue=prologue(),
        expected_peer=expected_peer,
    )
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            turn = initiator
            while not noise.finished:
                if turn:
                    await transport.send(prologue() + noise.write())
                else:
                    try:
                        message = unwrap_handshake(await transport.receive())
                    except KacheryError:
                        if not initiator:
                            # The initiator learns our version from this, if it is one of us.
                            with contextlib.suppress(KacheryError):
                                await transport.send(prologue())
                        raise
                    noise.read(message)
                turn = not turn
    except TimeoutError as error:
        raise DeadlineExceeded(
            what=f"The handshake with {transport.name}", seconds=HANDSHAKE_SECONDS
        ) from error
    send_key, receive_key = noise.split()
    return Session(
        send_key=send_key,
        receive_key=receive_key,
        peer=noise.peer,
        handshake_hash=noise.handshake_hash,
    )


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
        self.sent = 0
        self.received = 0
        self.opened_at = asyncio.get_running_loop().time()
        self.used_at = self.opened_at
        self.closed_by: KacheryError | None = None
        self.greeted = asyncio.Event()
        self.closed = asyncio.Event()
        self._closing = asyncio.Event()
        self._handler = handler
        self._workers = workers
        self._mux = mux.Mux(initiator=initiator, now=self.opened_at)
        self._wake = asyncio.Event()
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._streams: dict[int, Stream] = {}
        self._serving: dict[int, asyncio.Task[None]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._rate = 0.0

    def __repr__(self) -> str:
        road = f"via {self.via[:8]}" if self.via else "direct"
        return f"<Link {self.peer[:8]} {road}>"

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
            self._wake.set()
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
            stream._on_end(_as_closed(self.peer, error))
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
            self._wake.set()

    async def _write(self) -> None:
        """Seal in the order of the mux, at most ``_AHEAD`` records before the socket."""
        ahead: deque[tuple[asyncio.Future[Buffer] | Buffer, int]] = deque()
        while True:
            item = self._mux.next_frame() if len(ahead) < _AHEAD else None
            if item is None:
                if ahead:
                    record, _ = ahead.popleft()
                    await self._send(record if isinstance(record, Buffer) else await record)
                    continue
                if self.closed_by is not None:
                    await self._finish()
                self._wake.clear()
                await self._wake.wait()
                continue
            frame, body = item
            seal = self.session.seal()
            if isinstance(frame, Bye):
                ahead.append((seal(frame), 0))
                continue
            if isinstance(frame, Response):
                ahead.append((_seal_answer(seal, frame), 0))
                continue
            if isinstance(frame, Data):
                stream = self._streams.get(frame.id)
                if stream is not None:
                    stream._room.set()
                self.used_at = asyncio.get_running_loop().time()
                if frame.tail == SEALED_TAIL and frame.size > _INLINE_BYTES:
                    ahead.append((self._seal_later(seal, frame, body), frame.size))
                    continue
            ahead.append((seal(frame, body), 0))

    def _seal_later(self, seal: Seal, frame: Data, body: Buffer | None) -> asyncio.Future[Buffer]:
        return asyncio.ensure_future(self._workers.cipher(seal, frame, body))

    async def _send(self, record: Buffer) -> None:
        size = len(record)
        loop = asyncio.get_running_loop()
        start = loop.time()
        await self.transport.send(record)
        self.sent += size
        if size > MIN_BODY:
            seconds = max(loop.time() - start, 1e-6)
            self._rate = 0.8 * self._rate + 0.2 * (size / seconds) if self._rate else size / seconds

    @property
    def bulk_bytes(self) -> int:
        """How long a bulk frame should be for this link's speed (a power of two)."""
        size = MAX_BODY
        wanted = self._rate * BULK_FRAME_SECONDS
        while self._rate and size > wanted and size > MIN_BODY:
            size //= 2
        return size

    async def _finish(self) -> None:
        # Give the goodbye a moment to be read: closing at once may discard it on the way.
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
        self._wake.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK_SECONDS):
                    await self._closing.wait()
            if self.closed_by is not None:
                await asyncio.sleep(_GOODBYE_SECONDS)
                raise self.closed_by  # the writer is stuck: the peer does not read
            if not self._mux.tick(loop.time()):
                raise LinkClosed(peer=self.peer[:8], reason="it has been silent for too long")
            self._wake.set()

    # --- what the peer says ------------------------------------------------------------------

    def _on_event(self, event: mux.Event) -> None:
        match event:
            case mux.Received():
                self.used_at = asyncio.get_running_loop().time()
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream._on_data(event.meta, event.body, event.cost)
            case mux.Responded():
                self._answer(event.id, event.result)
            case mux.Failed():
                self._answer(event.id, event.error)
            case mux.Requested():
                self.used_at = asyncio.get_running_loop().time()
                self._spawn(event.id, self._serve(event.id, event.method, event.params))
            case mux.Opened():
                self.used_at = asyncio.get_running_loop().time()
                stream = Stream(self, event.id)
                self._streams[event.id] = stream
                self._spawn(event.id, self._serve_stream(stream, event.method, event.params))
            case mux.Writable():
                stream = self._streams.get(event.id)
                if stream is not None:
                    stream._room.set()
            case mux.Ended():
                task = self._serving.get(event.id)
                if task is not None and event.id not in self._streams:
                    task.cancel()
                stream = self._streams.pop(event.id, None)
                if stream is not None:
                    stream._on_end(event.error)
            case mux.Noted():
                self._handler.on_note(self, event.topic, event.params)
            case mux.Greeted():
                self.hello = event.hello
                self._handler.on_hello(self)
                self.greeted.set()
            case mux.RoundTrip():
                self.rtt = event.seconds
            case mux.SaidBye():
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
            try:
                self._mux.respond(number, result)
            finally:
                self._wake.set()
            return
        self._wake.set()

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
        self._wake.set()
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
                self._wake.set()

    def open(self, method: str, params: Any, *, credit: int = STREAM_CREDIT) -> Stream:
        """Open a stream; the peer may send ``credit`` bytes before any is dealt with."""
        self._check_open()
        number = self._mux.open(method, params, credit=credit)
        stream = Stream(self, number)
        self._streams[number] = stream
        self._wake.set()
        return stream

    def note(self, topic: str, params: Any) -> None:
        """Tell the peer something, unanswered. Does nothing on a closed link."""
        if self.closed_by is None:
            self._mux.note(topic, params)
            self._wake.set()

    def _check_open(self) -> None:
        if self.closed_by is not None:
            raise _as_closed(self.peer, self.closed_by)

    @property
    def idle_seconds(self) -> float:
        """Time since an exchange of ours or theirs last moved, 0 while one is open."""
        if self._streams or self._requests or self._serving:
            return 0.0
        return asyncio.get_running_loop().time() - self.used_at


class Stream:
    """One stream of a link, from either side."""

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.ended = False
        self.error: KacheryError | None = None
        self._inbox: deque[tuple[Any, Body, int]] = deque()
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._owed = 0

    async def send(self, meta: Any, body: Buffer | None = None, *, opaque: bool = False) -> None:
        """Send one frame, waiting for credit and for the link.

        Raises:
            LinkClosed: the stream ended; or the error with which the peer ended it.
        """
        size = 0 if body is None else len(body) + (0 if opaque else 16)
        link = self.link
        while not self.ended:
            if link._mux.queued(self.number) < _OUTBOX and link._mux.can_send(self.number, size):
                link._mux.send(self.number, meta, body, opaque=opaque)
                link._wake.set()
                return
            self._room.clear()
            await self._room.wait()
        raise self.error or LinkClosed(peer=link.peer[:8], reason="the stream has ended")

    async def receive(self) -> tuple[Any, Body, int] | None:
        """The next (meta, body, cost), or None at a good end.

        Call :meth:`done` with the cost once the body is dealt with.

        Raises:
            KacheryError: what the peer, or the loss of the link, ended the stream with.
        """
        while not self._inbox:
            if self.ended:
                if self.error is not None:
                    raise self.error
                return None
            self._ready.clear()
            await self._ready.wait()
        return self._inbox.popleft()

    def done(self, cost: int) -> None:
        """Give credit back. Batched, so that credit does not cost a frame for each frame."""
        self._owed += cost
        if self._owed >= STREAM_CREDIT // 8 and not self.ended:
            self.link._mux.grant(self.number, self._owed)
            self._owed = 0
            self.link._wake.set()

    def grant(self, credit: int) -> None:
        """Let the opener of this stream send (an acceptor starts with none granted)."""
        self.link._mux.grant(self.number, credit)
        self.link._wake.set()

    def set_group(self, group: str) -> None:
        """On whose behalf this stream flows; the link is shared fairly between groups."""
        self.link._mux.set_group(self.number, group)

    def end(self, error: BaseException | None = None) -> None:
        """End both directions; idempotent."""
        if not self.ended:
            self.link._mux.end(self.number, error)
            self.link._streams.pop(self.number, None)
            self.link._wake.set()
            self._on_end(None)

    async def open_body(self, body: Body) -> bytes:
        """Decrypt a received body, in a worker if it is big. A forged one ends the link."""
        if not isinstance(body, SealedBody):
            raise ProtocolViolation(reason="data without a body")
        try:
            if len(body) <= _INLINE_BYTES:
                return body.open()
            return await self.link._workers.cipher(body.open)
        except ProtocolViolation as error:
            self.link.close(error)
            raise

    def _on_data(self, meta: Any, body: Body, cost: int) -> None:
        self._inbox.append((meta, body, cost))
        self._ready.set()

    def _on_end(self, error: KacheryError | None) -> None:
        if not self.ended:
            self.ended = True
            self.error = error
        self._ready.set()
        self._room.set()


def _seal_answer(seal: Seal, frame: Response) -> Buffer:
    """A handler's answer that fits no frame is that request's failure, not the link's."""
    try:
        return seal(frame)
    except ValueError as error:
        failure = InternalError(reason=f"an answer that cannot be sent: {error}")
        return seal(Failure(frame.id, *to_wire(failure)))


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


Accept = Callable[[Link], Awaitable[None]]
