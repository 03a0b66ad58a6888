"""One call of a local client while it runs: who called, what comes and goes beside its parameters.

This is what :class:`~.calls.Calls` gets to see of a connection (:mod:`kachery_p2p.node.doors.server`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.errors import ReadOnlyUser
from kachery_p2p.protocol.limits import LOCAL_ITEM_CREDIT, LOCAL_PIECE, LOCAL_UPLOAD_PIECES
from kachery_p2p.protocol.local import messages as local

R = TypeVar("R")

_TELL_SECONDS: Final = 0.1
"""Between two reports of how far long work is."""


class Caller:
    """Who is at the other end."""

    def __init__(self, *, pid: int, uid: int, name: str, read_only: bool) -> None:
        self.pid = pid
        self.uid = uid
        self.name = name
        self.read_only = read_only

    @property
    def is_owner(self) -> bool:
        """Whether it is the user as whom the node runs, or root."""
        return self.uid in (os.getuid(), 0)

    def require_write(self) -> None:
        if self.read_only:
            raise ReadOnlyUser(user=self.name)


class Upload:
    """The pieces of one streamed call, in order; ends with None."""

    def __init__(self, resume: Callable[[], None]) -> None:
        self._resume = resume
        self._pieces: deque[bytes | None] = deque()
        self._ready: asyncio.Event | None = None

    def put(self, piece: bytes | None) -> None:
        self._pieces.append(piece)
        if self._ready is not None:
            self._ready.set()

    @property
    def full(self) -> bool:
        return len(self._pieces) >= LOCAL_UPLOAD_PIECES

    async def next(self) -> bytes | None:
        while not self._pieces:
            self._ready = asyncio.Event()
            await self._ready.wait()
        piece = self._pieces.popleft()
        self._resume()
        return piece


class LiveCall:
    """One call while it runs: what :class:`~.calls.Calls` gets to see of its caller.

    ``resume``: there is room for more pieces of an upload. ``turns``: whose turn it is, of all calls of
    one client, to read what it is sent. ``closed`` is called when its descriptor was closed.
    """

    def __init__(
        self,
        caller: Caller,
        socket: FramedSocket,
        number: int,
        descriptor: int | None,
        resume: Callable[[], None],
        turns: asyncio.Semaphore,
        closed: Callable[[], None],
    ) -> None:
        self.caller = caller
        self.upload = Upload(resume)
        self.descriptor = descriptor
        self._closed = closed
        self._socket = socket
        self._turns = turns
        self._number = number
        self._item_header = b""
        self._credit = LOCAL_ITEM_CREDIT
        self._granted: asyncio.Event | None = None

    def progress(self, info: dict[str, Any]) -> None:
        """Tell how far it is. Dropped if the client does not keep up."""
        if not self._socket.backed_up and not self._socket.closed:
            self._socket.send(local.Progress(self._number, info))

    async def send(self, data: bytes) -> None:
        """Send bytes of the result; waits for the client to read."""
        await self._socket.drained()
        self._socket.send(local.Chunk(self._number, data))

    async def send_all(self, data: bytes) -> None:
        """Send all bytes of the result, and before them how many these are. What fits leaves with the
        answer: that wakes the client up once."""
        await self._socket.drained()
        self._queue(local.Progress(self._number, {"size": len(data)}))
        for start in range(0, len(data), LOCAL_PIECE):
            await self._socket.drained()
            self._queue(local.Chunk(self._number, data[start : start + LOCAL_PIECE]))
            if start + LOCAL_PIECE < len(data):
                self._socket.flush()

    def _queue(self, message: local.Message) -> None:
        self._socket.queue(local.encode_message(message))

    async def send_piece(
        self, read: Callable[[], Awaitable[bytes | None]], *, last: bool = False
    ) -> bool:
        """Send what ``read`` gives, which is asked when the client has read enough: for a client that
        does not read, nothing is fetched. Whether it gave anything. ``last``: it leaves with the
        answer, which wakes the client up once."""
        async with self._turns:
            await self._socket.drained()
            data = await read()
            if data is None:
                return False
            await self._socket.drained()
            self._queue(local.Chunk(self._number, data))
            if not last:
                self._socket.flush()
            return True

    def offer(self, packed: local.PackedItem) -> bool:
        """Send one of many results with the next :attr:`flush`, if the client has room for it; whether
        it has."""
        socket = self._socket
        if self._credit <= 0 or socket.backed_up or socket.closed:
            return False
        self._credit -= packed.cost
        if not self._item_header:
            self._item_header = local.item_header(self._number)
        socket.queue(local.encode_item(self._item_header, packed))
        return True

    @property
    def flush(self) -> Callable[[], None]:
        """Send what was offered; the same for all calls of one client."""
        return self._socket.flush

    async def room(self) -> None:
        """Wait until :meth:`offer` takes something. Raises LinkClosed."""
        while self._credit <= 0:
            self._granted = asyncio.Event()
            await self._granted.wait()
        await self._socket.drained()

    def grant(self, credit: int) -> None:
        """The client has dealt with as much."""
        self._credit = min(self._credit + credit, LOCAL_ITEM_CREDIT)
        if self._granted is not None:
            self._granted.set()

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
            self._closed()


@dataclass(frozen=True, slots=True)
class DeferredResult:
    """A result that is waited for without a task: ``finish`` of what ``future`` gives."""

    future: asyncio.Future[Any]
    finish: Callable[[Any], Any]


class Watch:
    """What a disk thread and the call that it works for tell one another."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.done = 0

    def advanced(self, done: int) -> None:
        self.done = done


async def watched(workers: Workers, live: LiveCall, size: int, work: Callable[[Watch], R]) -> R:
    """Run long blocking work that watches for the caller's going away, and say how far it is."""
    watch = Watch()
    task = asyncio.ensure_future(workers.disk(work, watch))
    try:
        while not (await asyncio.wait([task], timeout=_TELL_SECONDS))[0]:
            live.progress({"size": size, "done": watch.done})
        return task.result()
    except asyncio.CancelledError:
        watch.gone.set()
        await asyncio.wait([task])  # it still uses the caller's descriptor
        if not task.cancelled():
            task.exception()
        raise
