"""The line by which a node under test reaches the others; it can be cut and slowed.

A small HTTP proxy on 127.0.0.1 that knows CONNECT only and passes bytes on. A node that dials through
it (its own setting, or ``ws_proxy`` in a daemon's environment) dials nobody past it, so one line per
node is all it takes. Connections that others make to a node that listens do not pass its line.

Bound: what is under way in one direction of one connection (:data:`_PIECES` pieces), so a delay of d
seconds lets at most 4 MiB through in d seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

_PIECE = 65_536
_PIECES = 64
_HEAD_SECONDS = 10.0
_PACE_SECONDS = 0.02
"""On a slow line, what leaves at once is no more than it carries in this time."""
_LEAST = 256
"""Bytes; but never less than this."""


class Line:
    """See the module. Everything is called on the loop that started it."""

    def __init__(self) -> None:
        self.url = ""
        """For whom dials through it: ``http://127.0.0.1:PORT``."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._passes = asyncio.Event()
        self._rate: float | None = None
        self._delay = 0.0
        self._free = [0.0, 0.0]
        """When each direction has sent what it was given: the line is shared by its connections."""

    async def start(self) -> None:
        self._passes.set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_PIECE)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what can happen to a line -------------------------------------------------------------

    def cut(self, *, silently: bool) -> None:
        """Until :meth:`restore` nothing passes: its connections break now and new ones are refused;
        or, silently, nobody is told anything."""
        if silently:
            self._passes.clear()
        else:
            self._refuses = True
            for writer in list(self._open):
                writer.transport.abort()

    @property
    def is_cut(self) -> bool:
        return self._refuses or not self._passes.is_set()

    def restore(self) -> None:
        self._refuses = False
        self._passes.set()

    def slow(self, bytes_per_second: float | None, delay: float) -> None:
        """Each way: at most so many bytes per second (None: no limit), each ``delay`` seconds late."""
        self._rate, self._delay = bytes_per_second, delay
        self._free = [0.0, 0.0]

    # --- connections -----------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A connection that breaks is what a line is for: both sides see it end.
        with contextlib.suppress(
            OSError, EOFError, asyncio.LimitOverrunError, TimeoutError, asyncio.CancelledError
        ):
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._using(writer):
            await self._passes.wait()
            async with asyncio.timeout(_HEAD_SECONDS):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split()
            if self._refuses or len(head) < 2 or head[0] != "CONNECT":
                await _say(writer, "503 the line is cut" if self._refuses else "405 only CONNECT")
                return
            host, _, port = head[1].rpartition(":")
            try:
                there = await asyncio.open_connection(host.strip("[]"), int(port), limit=_PIECE)
            except (OSError, ValueError):
                await _say(writer, "502 nobody answers there")
                return
            with self._using(there[1]):
                await _say(writer, "200 connected")
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._carry(reader, there[1], 0))
                    group.create_task(self._carry(there[0], writer, 1))

    @contextlib.contextmanager
    def _using(self, writer: asyncio.StreamWriter) -> Any:
        self._open.add(writer)
        try:
            yield
        except* (OSError, EOFError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: int
    ) -> None:
        """One direction of one connection, until its end or until the line breaks."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_PIECES)
        loop = asyncio.get_running_loop()

        async def take() -> None:
            data = b"."
            while data:
                data = await reader.read(_PIECE)
                await under_way.put((loop.time() + self._delay, data))

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    break
                await self._send(writer, data, way)
        if writer.can_write_eof():
            writer.write_eof()

    async def _send(self, writer: asyncio.StreamWriter, data: bytes, way: int) -> None:
        loop = asyncio.get_running_loop()
        at = 0
        while at < len(data):
            await self._passes.wait()
            size = len(data)
            if self._rate is not None:
                size = max(_LEAST, int(self._rate * _PACE_SECONDS))
                now = loop.time()
                spent = min(size, len(data) - at) / self._rate
                self._free[way] = max(now, self._free[way]) + spent
                await asyncio.sleep(self._free[way] - now)
            writer.write(data[at : at + size])
            await writer.drain()
            at += size


async def _say(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
    await writer.drain()
