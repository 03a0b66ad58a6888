"""What a link sends: in the order of the mux, sealed, one record after the other.

Frames that are there at the same time share a record: a record costs more than most frames do, at both
ends and at a proxy between them.

Ciphers run in worker threads, on a fast link a few records ahead of the socket, so that both are busy.
The order is the mux's alone: control before bulk, bulk shared fairly, and no more of it at once than
the path carries.

A peer that takes nothing keeps the writer in one ``send``; since when, :meth:`Writer.stuck_for` says,
and the link ends on its account.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kachery_p2p.node.buffers import BUFFERS
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import JOINED_BYTES, MAX_RECORD_FRAMES, MIN_BODY
from kachery_p2p.protocol.links import pace
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    Data,
    Item,
    encode_header,
    sealed_bytes,
)
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import Session

from .transport import Transport

INLINE_BYTES = 128 * 1024
"""Bodies up to this are sealed and opened on the loop: a hop to a thread and back takes 75 us of the
processor and twice that until the answer is here, AES-GCM of 64 KiB takes 28."""
_AHEAD = 2
"""Records sealed ahead of the socket, so that cipher and socket work overlap: nothing overtakes
them."""


class Writer:
    """``on_data`` is called with a stream's number when a frame of it has left the mux, ``on_sent``
    when the transport has taken one."""

    def __init__(
        self,
        transport: Transport,
        session: Session,
        mux: Mux,
        workers: Workers,
        on_data: Callable[[int], None],
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        self.sent = 0
        self.ahead = 0
        """Bytes of bodies that are out of the mux, but for those of circuits, and not sent yet."""
        self._transport = transport
        self._session = session
        self._mux = mux
        self._workers = workers
        self._on_data = on_data
        self._on_sent = on_sent
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._sending_since: float | None = None
        self._ending = self._over = False

    def wake(self) -> None:
        """The mux may have something to send."""
        self._wake.set()

    def end(self) -> None:
        """Send what the mux still has, the goodbye in the end; then :meth:`run` returns."""
        self._ending = True
        self._wake.set()

    def release(self) -> None:
        """The link is over: nobody waits for room any more."""
        self._over = True
        self._room.set()
        self._on_data, self._on_sent = lambda number: None, lambda: None

    async def room(self) -> None:
        """Until the peer has taken so many control frames that more of them may be queued."""
        while self._mux.congested and not self._over:
            self._room.clear()
            await self._room.wait()

    def stuck_for(self, now: float) -> float:
        """Seconds since the record was begun that the transport has not taken yet, or since the peer
        was seen to take part of it."""
        if self._sending_since is None:
            return 0.0
        return now - max(self._sending_since, self._transport.taken_at or 0.0)

    @property
    def bulk_bytes(self) -> int:
        """How long a bulk frame should be for this link's speed (a power of two)."""
        return pace.bulk_bytes(self._mux.pace.rate)

    @property
    def _depth(self) -> int:
        return _AHEAD if self.bulk_bytes > MIN_BODY else 1

    async def run(self) -> None:
        """Send until :meth:`end`, or until the transport fails."""
        ahead: deque[tuple[asyncio.Future[list[Buffer]] | list[Buffer], int]] = deque()
        while True:
            if (not ahead or len(ahead) < self._depth) and (
                item := self._mux.next_frame()
            ) is not None:
                record, size = self._record(item)
                self.ahead += size
                ahead.append((record, size))
            elif ahead:
                record, size = ahead.popleft()
                await self._send(record if isinstance(record, list) else await record)
                if size:
                    self.ahead -= size
                    self._on_sent()
            elif self._ending:
                return
            else:
                self._wake.clear()
                await self._wake.wait()

    def _record(self, item: Item | None) -> tuple[asyncio.Future[list[Buffer]] | list[Buffer], int]:
        """The record of a frame and of those that wait behind it, up to ``JOINED_BYTES`` or a sealed
        tail; and the length of that."""
        headers: list[bytes] = []
        tails: list[tuple[Data, Buffer]] = []
        joined = sealed = 0
        while item is not None:
            frame, body = item
            header = frame if isinstance(frame, bytes) else encode_header(frame)
            headers.append(header)
            joined += len(header)
            if isinstance(frame, Data):
                self._on_data(frame.id)
                if frame.tail != NO_TAIL:
                    assert body is not None
                    tails.append((frame, body))
                    joined += frame.size
                sealed = sealed_bytes(frame)
            if sealed or joined >= JOINED_BYTES or len(headers) >= MAX_RECORD_FRAMES:
                break
            item = self._mux.next_frame()
        if not self._room.is_set() and not self._mux.congested:
            self._room.set()
        self._mux.sent(joined, asyncio.get_running_loop().time())
        self._join_control(headers)
        seal = self._session.seal()
        if sealed > INLINE_BYTES:
            cipher = self._workers.cipher(seal.parts, headers, tails, BUFFERS.take)
            return asyncio.ensure_future(cipher), sealed
        return seal.parts(headers, tails), sealed

    def _join_control(self, headers: list[bytes]) -> None:
        """Have what is to be said now ride in a record, behind what is in it: mostly the ping that asks
        for how long it takes. It is read when all of the record has come, and saves one of its own."""
        size = sum(map(len, headers))
        while size < JOINED_BYTES and len(headers) < MAX_RECORD_FRAMES:
            header = self._mux.next_control()
            if header is None:
                return
            headers.append(header)
            size += len(header)

    async def _send(self, record: list[Buffer]) -> None:
        self._sending_since = asyncio.get_running_loop().time()
        await self._transport.send(*record)
        self._sending_since = None
        self.sent += sum(map(len, record))
