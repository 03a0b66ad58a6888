"""Strangers in crowds, and servers that should not be talked to: hostile peers for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: kachery-p2p\r\n%s\r\n"
)
"""A request for a WebSocket, with room for more headers."""


@contextlib.asynccontextmanager
async def crowd(
    address: str, count: int, says: bytes = b"", *, sources: tuple[str, ...] = ("127.0.0.1",)
) -> AsyncIterator[list[int]]:
    """So many connections to ``host:port``; each says one thing and then nothing, and whoever is shown
    out comes back at once. Yields a list with the number of those that came so far."""
    host, port = address.rsplit(":", 1)
    came = [0]

    async def stranger(source: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    host, int(port), local_addr=(source, 0)
                )
                came[0] += 1
                try:
                    writer.write(says)
                    while await reader.read(1_000):
                        pass
                finally:
                    writer.close()

    tasks = [
        asyncio.create_task(stranger(sources[number % len(sources)])) for number in range(count)
    ]
    try:
        yield came
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Server:
    """Something else that listens on this machine; ``asked`` are the first lines it was sent."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") -> None:
        self.asked: list[str] = []
        self.came = 0
        self.port = 0
        self._answer = answer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.asked.append(head.split(b"\r\n")[0].decode())
            writer.write(self._answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Server]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()
