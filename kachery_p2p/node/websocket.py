"""WebSockets whose messages are received straight into their own memory.

websockets opens and closes a connection, and answers pings; once it is open, :class:`Messages` takes
its place at the transport: what comes is cut by
:class:`~kachery_p2p.protocol.links.websocket.MessageReader`, and what is sent goes to the transport in
the parts that it is made of, so neither is copied on the way. That is where most of the time of a
transfer goes if it is done by the protocol of a general library: of each byte received there were four
copies, of each byte sent two.

Invariants: what is received and not taken is bounded, then nothing more is read from the socket; a
large message is received when there is room for it on the account of whoever sends it
(:mod:`.incoming`), and none before it is said whose account that is; after the end
:meth:`Messages.receive` still gives what came before it. Cancelling is safe.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import ClassVar, Final

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.connection import Connection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.limits import (
    KIB,
    MAX_HANDSHAKE_MESSAGE,
    MAX_RECORD,
    MAX_UNTAKEN,
    MAX_UNTAKEN_BYTES,
    MAX_UNTAKEN_BYTES_OF_ALL,
)
from kachery_p2p.protocol.links.websocket import MessageReader, frame_head

try:
    from websockets.speedups import apply_mask
except ImportError:  # where it was not compiled
    from websockets.utils import apply_mask

from .buffers import BUFFERS
from .incoming import incoming

_READ_ON: Final = 4
"""So many are left when it goes on, or bytes of them a quarter."""
_JOINED: Final = 16 * KIB
"""Bytes of a message that is copied together: it costs less than a list of its parts."""
_END: Final = b"\r\n\r\n"


class Messages(asyncio.BufferedProtocol):
    """Those of one open WebSocket. ``served``: the other end is the client, who masks what is sent."""

    of_all: ClassVar[int] = 0
    """Bytes of small messages that wait on all connections of this process."""

    def __init__(self, connection: Connection, *, served: bool) -> None:
        self._connection = connection
        self._reader = MessageReader(
            most=MAX_RECORD,
            first=MAX_HANDSHAKE_MESSAGE,
            unmask=apply_mask if served else None,
            memory=BUFFERS.take,
            admit=self._admit,
        )
        self._masks = not served
        self._came: asyncio.Future[None] | None = None
        self._paused = self._over = False
        self._waiting = self._small = 0
        """Bytes of messages that wait; those of small ones."""
        self._incoming = incoming()
        self._party: str | None = None
        """On whose account large ones are."""
        self._held = 0
        """Bytes of that."""

    def begin(self, early: bytes) -> None:
        """Take over from the connection. ``early``: what came after its opening."""
        transport = self._connection.transport
        transport.pause_reading()  # some loops go on as the protocol wanted it that they began with
        transport.set_protocol(self)
        transport.resume_reading()
        if early:
            self._reader.feed(early)
            self._go_on()

    async def receive(self) -> Buffer:
        """The next message. Raises LinkClosed: there is none."""
        waiting = self._reader.messages
        while not waiting:
            if self._reader.offence is not None:
                raise LinkClosed(peer="the other side", reason=self._reader.offence.reason)
            if self._over:
                raise self._closed(self._connection.protocol.close_exc)
            self._came = asyncio.get_running_loop().create_future()
            try:
                await self._came
            finally:
                self._came = None
        message, room = waiting.popleft(), self._reader.rooms.popleft()
        if self._over:  # nothing is counted any more
            return message
        self._waiting -= len(message)
        if room:
            self._give(room)
        else:
            self._count(self._small - len(message))
        if self._paused and len(waiting) <= _READ_ON and self._waiting <= MAX_UNTAKEN_BYTES // 4:
            self._paused = False
            self._read_on()
        return message

    def belong_to(self, party: str) -> None:
        """From now on what comes is on this account, and what is here already."""
        before, self._party = self._party, party
        if self._over or before == party:
            return
        if before is not None and self._held:
            self._incoming.move(before, party, self._held)
        if self._reader.halted:
            if before is not None:
                self._incoming.leave(before, self)
            if self._admit(self._reader.room):
                self._admitted(counted=True)

    def _count(self, small: int) -> None:
        """So many bytes of small messages wait now."""
        Messages.of_all += small - self._small
        self._small = small

    def _admit(self, count: int) -> bool:
        """Whether there is room for a message for which so many bytes may be held."""
        if self._party is None or not self._incoming.reserve(
            self._party, count, self, self._admitted
        ):
            return False
        self._held += count
        return True

    def _admitted(self, *, counted: bool = False) -> None:
        """There is room now for the message that has begun."""
        if not counted:
            self._held += self._reader.room
        self._reader.go_on()
        self._go_on()
        self._read_on()

    def _read_on(self) -> None:
        """Unless there is a reason not to."""
        transport = self._connection.transport
        if not (self._paused or self._reader.halted or self._over or transport.is_closing()):
            transport.resume_reading()

    def _give(self, room: int) -> None:
        assert self._party is not None
        self._held -= room
        self._incoming.give(self._party, room)

    def _give_all(self) -> None:
        """It is over: nothing is held back any more."""
        self._over = True
        self._count(0)
        if self._party is not None:
            self._incoming.leave(self._party, self)
            if self._held:
                self._give(self._held)

    async def send(self, *parts: Buffer) -> None:
        """Send a message, and wait until the socket has room for another one. The parts must not change
        until it has gone. Raises LinkClosed."""
        connection = self._connection
        try:
            if connection.protocol.state is not State.OPEN:
                await connection.send(b"")  # says why
            mask = os.urandom(4) if self._masks else b""
            size = sum(map(len, parts))
            payload = _masked(parts, mask) if mask else parts
            head = frame_head(size, mask)
            if size <= _JOINED:
                connection.transport.write(b"".join((head, *payload)))
            else:
                connection.transport.writelines((head, *payload))
            await connection.drain()
        except ConnectionClosed as error:
            raise self._closed(error) from error
        except (
            OSError,
            RuntimeError,
        ) as error:  # the latter is what a loop says of a closed transport
            raise LinkClosed(peer="the other side", reason=str(error)) from error

    def forget(self) -> None:
        """It is closed, and nobody receives any more: what came and was not taken goes now, and not
        with the connection, which leads in a circle to this."""
        self._reader.forget()
        if not self._over:
            self._give_all()

    def _closed(self, error: ConnectionClosed) -> LinkClosed:
        if error.rcvd is not None:
            reason = error.rcvd.reason or f"closed by the other side ({error.rcvd.code})"
        else:
            cause = self._connection.connection_exc or error.__cause__
            reason = str(cause or "the connection broke")
        return LinkClosed(peer="the other side", reason=reason)

    # --- for the transport ---------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.filled(nbytes)
        self._go_on()

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
        if not self._over:
            self._give_all()
        self._reader.abandon()
        self._wake()

    def _go_on(self) -> None:
        """Something came."""
        reader, connection = self._reader, self._connection
        while reader.control:
            connection.data_received(reader.control.popleft())
        if reader.offence is not None and connection.protocol.state is State.OPEN:
            connection.protocol.fail(*reader.offence)
            connection.send_data()
            self._wake()
        if reader.messages:
            if not self._over:
                self._count_all()
            self._wake()
        much = self._is_much()
        if (much or reader.halted) and not self._over:
            self._paused = self._paused or much
            connection.transport.pause_reading()

    def _count_all(self) -> None:
        """Count what waits anew."""
        reader = self._reader
        self._waiting = sum(map(len, reader.messages))
        self._count(
            sum(
                len(message)
                for message, room in zip(reader.messages, reader.rooms, strict=True)
                if not room
            )
        )

    def _is_much(self) -> bool:
        """Whether what waits is too much to read on."""
        count = len(self._reader.messages)
        return count > 0 and (
            count > MAX_UNTAKEN
            or self._waiting > MAX_UNTAKEN_BYTES
            or Messages.of_all > MAX_UNTAKEN_BYTES_OF_ALL
        )

    def _wake(self) -> None:
        if self._came is not None and not self._came.done():
            self._came.set_result(None)


def _masked(parts: Sequence[Buffer], mask: bytes) -> list[bytes]:
    """The parts of one frame, as a client sends them."""
    found = []
    at = 0
    for part in parts:
        found.append(apply_mask(part, mask[at % 4 :] + mask[: at % 4]))
        at += len(part)
    return found


class Opening:
    """Tells what belongs to the request, or the answer, with which a WebSocket opens, from what comes
    after it."""

    def __init__(self) -> None:
        self.over = False
        self._last = b""

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """What of ``data`` still belongs to it, and what does not."""
        if self.over:
            return b"", data
        end = (self._last + data).find(_END)
        if end < 0:
            self._last = (self._last + data)[-len(_END) + 1 :]
            return data, b""
        self.over = True
        stop = end + len(_END) - len(self._last)
        return data[:stop], data[stop:]


class Dialled(ClientConnection):
    """A WebSocket that this node opens."""

    messages: Messages | None = None
    """When it is open."""
    _opening: Opening | None = None

    def data_received(self, data: bytes) -> None:
        if self.messages is not None:  # a frame of control
            super().data_received(data)
            return
        if self._opening is None:
            self._opening = Opening()
        head, rest = self._opening.split(data)
        if head:
            super().data_received(head)
        if self._opening.over and self.protocol.state is State.OPEN:
            self.messages = Messages(self, served=False)
            self.messages.begin(rest)
        elif rest:  # of a refusal
            super().data_received(rest)
