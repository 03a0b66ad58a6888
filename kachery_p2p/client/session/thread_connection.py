"""Sync calls that only ask the node something: the thread that calls does the socket's work itself.

Handing such a call to the portal's thread and back costs two wake-ups, which is as much as many of
them take. So the async function is run right here, with a :class:`ThreadConnection` for its calls: it
waits in the socket instead of being suspended, and ends without ever having seen an event loop. What
turns out to need one after all says so with :func:`need_loop` before it has done anything, and the
portal runs it.

Invariants: a connection is used by one thread at a time; one on which a call was interrupted (Ctrl-C)
is closed, which cancels the call in the node; a forked child makes connections of its own.
"""

from __future__ import annotations

import atexit
import os
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from kachery_p2p.protocol.errors import (
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    from_wire,
)
from kachery_p2p.protocol.limits import (
    CONNECT_LOCAL_SECONDS,
    MAX_IDLE_CONNECTIONS,
    MAX_LOCAL_FRAME,
    MAX_LOCAL_GREETING,
)
from kachery_p2p.protocol.local import messages as local

from .greeter import Greeter
from .pieces import Pieces

R = TypeVar("R")

_READ_BYTES = 64 * 1024
_LEAST_SECONDS = 0.001
"""A time-out of 0 means another thing to a socket."""
_LOOK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class ThreadConnection:
    """A connection whose methods block. They are async in form only, so that what is written for
    :class:`~.loop_connection.LoopConnection` runs with either."""

    passes_descriptors = False

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(CONNECT_LOCAL_SECONDS)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.greeter = Greeter(None, None)
        self._sock = sock
        self._reader = local.FrameReader(MAX_LOCAL_GREETING)
        self._last = 0

    @property
    def alive(self) -> bool:
        """Whether the node is still there. Nothing of an ended call may be left to be read."""
        try:
            self._sock.recv(1, _LOOK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @property
    def closed(self) -> bool:
        """Whether this end is."""
        return self._sock.fileno() < 0

    async def greet(self, greeter: Greeter) -> None:
        """Raises TimeoutError, LinkClosed, and what the greeter does."""
        self.greeter = greeter
        deadline = time.monotonic() + CONNECT_LOCAL_SECONDS
        say: local.Message | None = greeter.greeting()
        try:
            while say is not None:
                self._sock.sendall(local.encode_message(say))
                say = greeter.hear(self._next(deadline))
        except (OSError, KacheryError) as error:
            self.close()
            if isinstance(error, TimeoutError | KacheryError):
                raise
            reason = "it stopped, or was killed"
            raise LinkClosed(peer="the local node", reason=reason) from error
        self._reader.most = MAX_LOCAL_FRAME
        self._sock.settimeout(None)

    def _next(self, deadline: float) -> local.Message:
        """The next message of a greeting, which comes alone. However slowly its bytes come, there is a
        deadline."""
        while True:
            self._sock.settimeout(max(deadline - time.monotonic(), _LEAST_SECONDS))
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError
            if time.monotonic() > deadline:
                raise TimeoutError
            for value in self._reader.feed(data):
                return local.decode_message(value)

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        descriptor: int | None = None,
        pieces: Pieces | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Any:
        """Do one call and return its result. Raises what the node answered.

        What sends more than one frame, or has somebody look on, needs an event loop.
        """
        if descriptor is not None or pieces is not None or on_progress is not None:
            raise LoopNeeded
        self._last += 1
        message = self._exchange(local.Call(self._last, method, params), self._last)
        assert isinstance(message, local.Answer)
        return message.result

    async def call_for_bytes(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[Any, bytes]:
        """Do one call whose result comes with bytes. To have somebody look on needs an event loop."""
        if on_progress is not None:
            raise LoopNeeded
        self._last += 1
        chunks: list[bytes] = []
        message = self._exchange(local.Call(self._last, method, params), self._last, chunks)
        assert isinstance(message, local.Answer)
        return message.result, b"".join(chunks)

    def call_for_items(
        self, method: str, params: dict[str, Any]
    ) -> AsyncGenerator[tuple[Any, bytes], None]:
        """Waiting for what comes by itself is for an event loop."""
        raise LoopNeeded

    def _exchange(
        self, message: local.Message, number: int, chunks: list[bytes] | None = None
    ) -> local.Message:
        """Send a message and return what answers it; bytes that come before go to ``chunks``. Raises
        the failure that does."""
        frame = local.encode_message(message)
        try:
            self._sock.sendall(frame)
            answer = self._receive(number, chunks)
        except TimeoutError:
            self.close()
            raise
        except OSError as error:
            self.close()
            reason = "it stopped, or was killed"
            raise LinkClosed(peer="the local node", reason=reason) from error
        except BaseException:
            # Ctrl-C, for one. An answer may be under way: nobody can use this any more.
            self.close()
            raise
        if isinstance(answer, local.Failure):
            raise from_wire(answer.code, answer.fields)
        return answer

    def _receive(self, number: int, chunks: list[bytes] | None) -> local.Message:
        while True:
            data = self._sock.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError
            for value in self._reader.feed(data):
                match message := local.decode_message(value):
                    case local.Failure(id=0):
                        self.close()
                        return message
                    case local.Answer() | local.Failure():
                        if message.id == number:
                            return message
                        raise ProtocolViolation(reason="the answer of another call")
                    case local.Progress():
                        pass
                    case local.Chunk() if chunks is not None and message.id == number:
                        chunks.append(message.data)
                    case _:
                        raise ProtocolViolation(reason="a message that was not asked for")

    def close(self) -> None:
        self._sock.close()


class Lease:
    """The connection of one sync call, taken when it is needed and given back at the end."""

    def __init__(self) -> None:
        self.ended = False
        self._where: object = None
        self._connection: ThreadConnection | None = None

    def get(self, where: object) -> ThreadConnection | None:
        """The one for this place, if one is open."""
        if self._connection is not None and self._connection.closed:
            self._connection = None
        if self._connection is not None and where != self._where:
            self._give_back()
        if self._connection is None:
            self._where, self._connection = where, _idle.take(where)
        return self._connection

    def keep(self, where: object, connection: ThreadConnection) -> None:
        """A new one was made."""
        self._where, self._connection = where, connection

    def end(self) -> None:
        self.ended = True
        self._give_back()

    def _give_back(self) -> None:
        if self._connection is not None:
            _idle.put(self._where, self._connection)
            self._connection = None


class _Idle:
    """Connections that no thread uses at the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[object, ThreadConnection]] = []

    def take(self, where: object) -> ThreadConnection | None:
        while (connection := self._pop(where)) is not None:
            if connection.alive:
                return connection
            connection.close()
        return None

    def _pop(self, where: object) -> ThreadConnection | None:
        with self._lock:
            # The one that was used last: so the oldest stay unused, and are closed in time.
            for at in range(len(self._kept) - 1, -1, -1):
                if self._kept[at][0] == where:
                    return self._kept.pop(at)[1]
        return None

    def put(self, where: object, connection: ThreadConnection) -> None:
        with self._lock:
            self._kept.append((where, connection))
            oldest = self._kept.pop(0) if len(self._kept) > MAX_IDLE_CONNECTIONS else None
        if oldest is not None:
            oldest[1].close()

    def close(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, []
        for _, connection in kept:
            connection.close()

    def forget(self) -> None:
        """In a forked child: the lock may be held by a thread that is gone."""
        self._lock = threading.Lock()
        self.close()


_idle = _Idle()
os.register_at_fork(after_in_child=_idle.forget)
atexit.register(_idle.close)

close_idle = _idle.close

_lease: ContextVar[Lease | None] = ContextVar("kachery_p2p_lease", default=None)


class LoopNeeded(BaseException):
    """This cannot be done without an event loop. No error: nobody but :func:`run` may catch it."""


def need_loop() -> None:
    """Only an event loop can do what comes next; nothing was done yet that must not be repeated."""
    if lease() is not None:
        raise LoopNeeded


def lease() -> Lease | None:
    """That of the sync call that runs here without a loop, if one does."""
    found = _lease.get()
    return None if found is None or found.ended else found


def leave_lease() -> None:
    """In this context, which another thread goes on with, no sync call runs without a loop."""
    _lease.set(None)


def run(factory: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """What ``factory()`` returns. Raises what it raises, or LoopNeeded."""
    mine = Lease()
    before = _lease.set(mine)
    coroutine = factory()
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        _lease.reset(before)
        mine.end()
        coroutine.close()
    raise RuntimeError(f"{coroutine} was to need no event loop, but waited for one")
