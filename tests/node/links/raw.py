"""A peer that says what it likes: a WebSocket, and as much of the protocol as a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kachery_p2p.node.links.opening import handshake
from kachery_p2p.node.links.transport import SUBPROTOCOL
from kachery_p2p.protocol.channels.membership import ChannelBook
from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.links.frames import Bye, Data, Frame, Hello
from kachery_p2p.protocol.links.session import Body, SealedBody, Session
from tests.patience import patience
from tests.protocol.links.records import record_of


@contextlib.asynccontextmanager
async def wire(address: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A bare WebSocket to ``host:port``."""
    async with connect(
        f"ws://{address}",
        subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
        compression=None,
        max_size=None,
        proxy=None,
        close_timeout=1,
        **options,
    ) as connection:
        yield connection


async def gone(connection: ClientConnection) -> None:
    """The other side closes within reason, whatever it says before."""
    async with asyncio.timeout(patience(10)):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await connection.recv()


class Bare:
    """A transport for the handshake, over a WebSocket that stays the test's."""

    taken_at = rate = None

    def __init__(self, connection: ClientConnection) -> None:
        self.name = "test"
        self._connection = connection

    async def send(self, *parts: Buffer) -> None:
        await self._connection.send(b"".join(parts))

    async def receive(self) -> Buffer:
        try:
            message = await self._connection.recv()
        except ConnectionClosed as error:
            raise LinkClosed(peer=self.name, reason=str(error)) from error
        assert isinstance(message, bytes)
        return message

    async def close(self) -> None:
        await self._connection.close()


class Rogue:
    """After the handshake: sends any frame or any bytes, hears what comes."""

    def __init__(self, connection: ClientConnection, session: Session) -> None:
        self.connection = connection
        self.session = session
        self.heard: list[Frame] = []
        self._unheard: list[tuple[Frame, Body]] = []
        self.channel = b""

    async def send(self, frame: Frame, body: bytes | None = None) -> bytes:
        record = bytes(record_of(self.session.seal(), frame, body))
        await self.connection.send(record)
        return record

    async def hear(self, kind: type[Any]) -> Any:
        """The next frame of a kind."""
        async with asyncio.timeout(patience(10)):
            while True:
                if not self._unheard:
                    self._unheard += self.session.open(await self.connection.recv())  # type: ignore[arg-type]
                frame, body = self._unheard.pop(0)
                self.heard.append(frame)
                if isinstance(body, SealedBody):
                    body.open()
                if isinstance(frame, kind):
                    return frame

    async def ended(self) -> Bye | None:
        """Hear the other side out; its goodbye, if it could still say one."""
        try:
            return await self.hear(Bye)  # type: ignore[no-any-return]
        except ConnectionClosed:
            return None

    async def hello(self, book: ChannelBook | None = None, **changes: Any) -> None:
        channels: dict[bytes, tuple[int, list[str]]] = {}
        if book is not None:
            hash_ = self.session.handshake_hash
            channels = {
                tag: (version, ["request-files", "provide-files"])
                for tag, version in book.digests(hash_).items()
            }
        fields: dict[str, Any] = {
            "software": "rogue", "now": time.time(), "label": "R", "urls": [], "channels": channels,
        }  # fmt: skip
        await self.send(Hello(**fields | changes))


@contextlib.asynccontextmanager
async def rogue(address: str, key: NodeKey | None = None) -> AsyncIterator[Rogue]:
    """A peer whose handshake is right; of a key of its own, or of a member's."""
    async with wire(address) as connection:
        session = await handshake(
            Bare(connection),
            initiator=True,
            key=key or NodeKey(os.urandom(32)),
            random_bytes=os.urandom,
        )
        yield Rogue(connection, session)


__all__ = ["Bare", "Data", "Rogue", "gone", "rogue", "wire"]
