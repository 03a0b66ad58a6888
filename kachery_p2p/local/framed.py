"""A socket that carries the messages of :mod:`kachery_p2p.protocol.local.messages`, with descriptors.

Used at both ends. Reading and writing happen in callbacks of the event loop, so that a small call
costs no task switch. Invariants: messages arrive in order and whole; a descriptor rides on the first
byte of its message; what is queued for a peer that does not read is bounded by whoever awaits
:meth:`FramedSocket.drained` before it sends more.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import socket
from collections import deque
from collections.abc import Callable

from kachery_p2p.protocol.errors import Busy, KacheryError, LinkClosed, ProtocolViolation
from kachery_p2p.protocol.limits import (
    LOCAL_QUEUE,
    MAX_LOCAL_DESCRIPTORS,
    MAX_LOCAL_FRAME,
    MAX_LOCAL_GREETING,
)
from kachery_p2p.protocol.local import messages as local

from .budget import Budget

_READ_BYTES = 256 * 1024
_MOST_AT_ONCE = 64
"""Messages that are written with one call; systems allow 1,024."""


class FramedSocket:
    """Takes over ``sock``. ``on_message`` is called for each message, ``on_close`` once.

    An exception of the error tree from ``on_message``, or bytes that are no message, close the
    socket; ``on_close`` gets the error, or None if the peer just went.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[local.Message], None],
        on_close: Callable[[KacheryError | None], None],
        budget: Budget | None = None,
    ) -> None:
        sock.setblocking(False)
        self.unix = sock.family == socket.AF_UNIX
        if not self.unix:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._on_message = on_message
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._reader = local.FrameReader(MAX_LOCAL_GREETING)
        self._budget = budget
        if budget is not None:
            budget.sockets[self] = None
        self.begun_bytes = 0
        """Of a frame whose end has not come."""
        self.begun_at = math.inf
        self.stuck_since = math.inf
        """Since when the peer takes nothing of what waits for it."""
        self._held = 0
        self._descriptors: deque[int | None] = deque()
        """None for one that was lost."""
        self._out: deque[tuple[memoryview, int | None]] = deque()
        self._queued = 0
        self._room = asyncio.Event()
        self._room.set()
        self._writing = False
        self._reading = False
        self.closed = False
        self.resume()

    # --- reading -----------------------------------------------------------------------------

    def resume(self) -> None:
        """Read (again)."""
        if not self.closed and not self._reading:
            self._reading = True
            self._loop.add_reader(self._sock.fileno(), self._on_readable)

    def greeted(self) -> None:
        """Both sides know each other: from now on frames may be as long as any."""
        self._reader.most = MAX_LOCAL_FRAME

    def pause(self) -> None:
        """Let the peer wait; what has been read already still comes."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._sock.fileno())

    def take_descriptor(self) -> int:
        """The next descriptor that came; the caller closes it.

        Raises:
            ProtocolViolation: none did.
            Busy: this process could not take it, since it has too many open.
        """
        if not self._descriptors:
            raise ProtocolViolation(reason="a file descriptor is missing")
        descriptor = self._descriptors.popleft()
        if descriptor is None:
            raise Busy(limit="it has as many files open as it may ('ulimit -n')")
        return descriptor

    def _on_readable(self) -> None:
        try:
            if self.unix:
                data, descriptors, flags, _ = socket.recv_fds(
                    self._sock, _READ_BYTES, MAX_LOCAL_DESCRIPTORS
                )
                self._descriptors.extend(descriptors)
                if flags & socket.MSG_CTRUNC:
                    # One comes at a time, so that is the one that there was no room for.
                    self._descriptors.append(None)
            else:
                data = self._sock.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            if len(self._descriptors) > MAX_LOCAL_DESCRIPTORS:
                raise ProtocolViolation(reason="too many file descriptors")
            for value in self._reader.feed(data):
                if self.closed:
                    return
                self._on_message(local.decode_message(value))
        except KacheryError as error:
            self.close(error)
            return
        if self._budget is not None and self._reader.pending != self.begun_bytes:
            self._count_unfinished(self._budget)

    def _count_unfinished(self, budget: Budget) -> None:
        before, self.begun_bytes = self.begun_bytes, self._reader.pending
        if self.begun_bytes < before or not before:
            self.begun_at = self._loop.time() if self.begun_bytes else math.inf
        budget.add_unfinished(self.begun_bytes - before)

    # --- writing -----------------------------------------------------------------------------

    @property
    def backed_up(self) -> bool:
        """The peer has more to read than it should."""
        return self._queued > LOCAL_QUEUE or (
            self._budget is not None and self._budget.is_over(self._queued)
        )

    @property
    def holds(self) -> int:
        """Bytes that wait for the peer to read."""
        return self._queued + self._held

    async def deliver(self, frame: bytes) -> None:
        """Send an encoded message when the peer has read enough; meanwhile it counts. Raises
        LinkClosed."""
        if self.backed_up:
            self._held += len(frame)
            if self._budget is not None:
                self._budget.add_queued(len(frame))
            try:
                await self.drained()
            finally:
                if not self.closed:
                    self._held -= len(frame)
                    if self._budget is not None:
                        self._budget.queued -= len(frame)
        self.queue(frame)
        self.flush()

    def send(self, message: local.Message, descriptor: int | None = None) -> None:
        """Queue a message; a descriptor is duplicated by the kernel when it leaves.

        Raises:
            BadInput: it is too large for a frame, or cannot be packed.
            LinkClosed: the socket is closed.
        """
        self._queue(local.encode_message(message), descriptor)
        if not self._writing:
            self._flush()

    def queue(self, frame: bytes) -> None:
        """Send an encoded message with the next :meth:`flush`: several wake the peer up once. Raises
        LinkClosed."""
        self._queue(frame, None)

    def flush(self) -> None:
        """Send what is queued, as far as the peer takes it."""
        if self._out and not self._writing:
            self._flush()

    def _queue(self, frame: bytes, descriptor: int | None) -> None:
        if self.closed:
            raise LinkClosed(peer="the local node", reason="it closed the connection")
        self._out.append((memoryview(frame), descriptor))
        self._queued += len(frame)
        if self._budget is not None:
            self._budget.add_queued(len(frame))

    async def drained(self) -> None:
        """Wait while the peer has too much to read. Raises LinkClosed."""
        while self.backed_up and not self.closed:
            self._room.clear()
            await self._room.wait()
        if self.closed:
            raise LinkClosed(peer="the local node", reason="it closed the connection")

    def _flush(self) -> None:
        if self.closed:  # to make room for others
            return
        try:
            while self._out:
                view, descriptor = self._out[0]
                if descriptor is not None:
                    self._sent(socket.send_fds(self._sock, [view], [descriptor]))
                elif len(self._out) == 1:
                    self._sent(self._sock.send(view))
                else:
                    self._sent(self._sock.sendmsg(self._next_views()))
        except (BlockingIOError, InterruptedError):
            if self.stuck_since == math.inf:
                self.stuck_since = self._loop.time()
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock.fileno(), self._flush)
        except OSError:
            self.close()
            return
        else:
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._sock.fileno())
        if self._queued <= LOCAL_QUEUE // 2:
            self._room.set()  # of who is over its share, too: it looks again

    def _next_views(self) -> list[memoryview]:
        """What can leave with one call: no descriptor."""
        first = itertools.islice(self._out, _MOST_AT_ONCE)
        return [view for view, _ in itertools.takewhile(lambda each: each[1] is None, first)]

    def _sent(self, count: int) -> None:
        self._queued -= count
        self.stuck_since = math.inf
        if self._budget is not None:
            self._budget.queued -= count
        while count:
            view, _ = self._out[0]
            if count < len(view):
                self._out[0] = (view[count:], None)
                return
            count -= len(view)
            self._out.popleft()

    def close(self, error: KacheryError | None = None) -> None:
        """Close at once; idempotent."""
        if self.closed:
            return
        self.closed = True
        if not self._loop.is_closed():
            self.pause()
            if self._writing:
                self._writing = False
                self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        for descriptor in self._descriptors:
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()
        self._out.clear()
        if self._budget is not None:
            del self._budget.sockets[self]
            self._budget.queued -= self.holds
            self._budget.unfinished -= self.begun_bytes
        self._room.set()
        self._on_close(error)
