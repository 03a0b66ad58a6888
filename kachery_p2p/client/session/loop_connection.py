"""A connection to the local node that an event loop serves.

Every call ends: with its answer, with the node's error, or with LinkClosed when the node goes away.
Cancelling a call cancels it in the node too. Many calls may run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from kachery_p2p.local.framed import FramedSocket
from kachery_p2p.protocol.errors import KacheryError, LinkClosed, ProtocolViolation, from_wire
from kachery_p2p.protocol.limits import (
    CONNECT_LOCAL_SECONDS,
    LOCAL_ITEM_CREDIT,
    LOCAL_PIECE,
)
from kachery_p2p.protocol.local import messages as local

from .greeter import Greeter
from .pieces import Pieces

_GRANT_BYTES = LOCAL_ITEM_CREDIT // 4
"""Items dealt with for which credit goes back at once: not a frame for each of them."""


class _Call:
    def __init__(self, on_progress: Callable[[dict[str, Any]], None] | None) -> None:
        self.future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.on_progress = on_progress
        self.chunks: list[bytes] = []
        self.received = 0
        self.items: deque[local.Item] = deque()
        self.news: asyncio.Future[None] | None = None
        """Who waits for an item, or for the end."""

    def notify(self) -> None:
        if self.news is not None and not self.news.done():
            self.news.set_result(None)


class LoopConnection:
    """See the module. Made by :func:`~.connection.connect`."""

    def __init__(self, sock: socket.socket) -> None:
        self.greeter = Greeter(None, None)
        self.pid = os.getpid()
        self.keeper: AsyncGenerator[None, None] | None = None
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._socket = FramedSocket(sock, self._on_message, self._on_close)

    @property
    def alive(self) -> bool:
        return not self._socket.closed and self.pid == os.getpid()

    @property
    def passes_descriptors(self) -> bool:
        return self._socket.unix

    async def greet(self, greeter: Greeter) -> None:
        """Raises TimeoutError, LinkClosed, and what the greeter does."""
        self.greeter = greeter
        self._socket.send(greeter.greeting())
        async with asyncio.timeout(CONNECT_LOCAL_SECONDS):
            await self._greeted

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

        Args:
            descriptor: an open file that the node shall read; it stays the caller's.
            pieces: bytes that are streamed after the call.

        Raises besides what reading the pieces raises; then the node keeps nothing.
            on_progress: called with what the node says of how far it is.
        """
        async with self._open(method, params, descriptor, on_progress) as (number, call):
            if pieces is not None:
                await self._upload(number, call, pieces)
            return await call.future

    async def call_for_bytes(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[Any, bytes]:
        """Do one call whose result comes with a stream of bytes."""
        async with self._open(method, params, None, on_progress) as (_, call):
            result = await call.future
            return result, b"".join(call.chunks)

    async def call_for_items(
        self, method: str, params: dict[str, Any]
    ) -> AsyncGenerator[tuple[Any, bytes], None]:
        """Do one call that has many results; they come while it runs, in order. Who wants no more
        closes the generator, which cancels the call."""
        async with self._open(method, params, None, None) as (number, call):
            owed = 0
            while True:
                while call.items:
                    item = call.items.popleft()
                    yield item.meta, item.data
                    owed += local.item_cost(item.data)
                    if owed >= _GRANT_BYTES and self.alive:
                        self._socket.send(local.Granted(number, owed))
                        owed = 0
                if call.future.done():
                    call.future.result()
                    return
                call.news = asyncio.get_running_loop().create_future()
                await call.news

    @contextlib.asynccontextmanager
    async def _open(
        self,
        method: str,
        params: dict[str, Any],
        descriptor: int | None,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> AsyncIterator[tuple[int, _Call]]:
        await self._socket.drained()
        self._last += 1
        number = self._last
        call = self._calls[number] = _Call(on_progress)
        try:
            sent = local.Call(number, method, params, 0 if descriptor is None else 1)
            self._socket.send(sent, descriptor)
            yield number, call
        except asyncio.CancelledError:
            # Wait for the node to have let go: what it keeps must be settled when we return.
            if self.alive and (call.future.cancelled() or not call.future.done()):
                # Who cancels a task cancels the future that it awaits.
                call.future = asyncio.get_running_loop().create_future()
                self._socket.send(local.CancelCall(number))
                with contextlib.suppress(KacheryError, TimeoutError):
                    async with asyncio.timeout(CONNECT_LOCAL_SECONDS):
                        await call.future
            raise
        except GeneratorExit:
            if self.alive and not call.future.done():
                self._socket.send(local.CancelCall(number))
            raise
        finally:
            self._calls.pop(number, None)
            if call.future.done() and not call.future.cancelled():
                call.future.exception()

    async def _upload(self, number: int, call: _Call, data: Pieces) -> None:
        start = 0
        while data.size is None or start < data.size:
            if call.future.done():  # the node has refused it already
                return
            await self._socket.drained()
            try:
                left = LOCAL_PIECE if data.size is None else data.size - start
                piece = await data.read(start, min(LOCAL_PIECE, left))
            except KacheryError:
                # What came so far is nothing. The number is not used again.
                if self.alive and not call.future.done():
                    self._socket.send(local.CancelCall(number))
                raise
            if not piece:
                break
            self._socket.send(local.Piece(number, piece))
            if call.on_progress is not None:
                call.on_progress({"size": data.size, "done": start})
            start += len(piece)
        self._socket.send(local.Finish(number))

    def _on_message(self, message: local.Message) -> None:
        if not self._greeted.done():
            self._on_greeting(message)
            return
        match message:
            case local.Item():
                call = self._calls.get(message.id)
                if call is not None:
                    call.items.append(message)
                    call.notify()
            case local.Failure(id=0):
                raise from_wire(message.code, message.fields)
            case local.Answer():
                self._end(message.id, message.result, None)
            case local.Failure():
                self._end(message.id, None, from_wire(message.code, message.fields))
            case local.Progress():
                call = self._calls.get(message.id)
                if call is not None and call.on_progress is not None:
                    call.on_progress(message.info)
            case local.Chunk():
                call = self._calls.get(message.id)
                if call is not None:
                    call.chunks.append(message.data)
                    call.received += len(message.data)
                    if call.on_progress is not None:
                        call.on_progress({"done": call.received})
            case _:
                raise ProtocolViolation(reason="a message that only a client sends")

    def _on_greeting(self, message: local.Message) -> None:
        answer = self.greeter.hear(message)
        if answer is not None:
            self._socket.send(answer)
        else:
            self._socket.greeted()
            self._greeted.set_result(None)

    def _end(self, number: int, result: Any, error: KacheryError | None) -> None:
        call = self._calls.get(number)
        if call is None or call.future.done():
            return
        if error is not None:
            call.future.set_exception(error)
        else:
            call.future.set_result(result)
        call.notify()

    def _on_close(self, error: KacheryError | None) -> None:
        reason: KacheryError = error or LinkClosed(
            peer="the local node", reason="it stopped, or was killed"
        )
        for call in self._calls.values():
            if not call.future.done():
                call.future.set_exception(reason)
            call.notify()
        if not self._greeted.done():
            self._greeted.set_exception(reason)
            self._greeted.exception()

    def close(self) -> None:
        self._socket.close()
