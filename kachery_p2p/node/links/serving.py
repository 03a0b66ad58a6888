"""What the peer of one link asks of this node: each request and stream is served by a task of its own.

When a link ends, so does all that is served on it, a little at a time: to end a thousand exchanges
takes as long as to begin them, and others have something to ask meanwhile.

Every exchange counts in the peer's budget, and so does an answer until it is queued. What breaks in a
handler costs the exchange, not the link.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

from kachery_p2p.protocol.errors import Busy, KacheryError, LinkClosed
from kachery_p2p.protocol.limits import ANSWER_BYTES
from kachery_p2p.protocol.links.mux import Mux

from .budget import Budget
from .stream import Stream
from .writer import Writer

log = logging.getLogger(__name__)

_ENDED_AT_ONCE = 4
"""Exchanges of a link that is over."""


class Serving:
    """``metered`` has work done in the peer's turn; ``came_to`` is told of exchanges that came to an
    end, or to nothing, and how many; ``on_request`` and ``on_stream`` do what is asked;
    ``flush``: the mux may have what to send."""

    def __init__(
        self,
        mux: Mux,
        writer: Writer,
        budget: Budget,
        metered: Callable[..., Coroutine[Any, Any, None]],
        came_to: Callable[..., None],
        *,
        on_request: Callable[[str, Any], Awaitable[Any]],
        on_stream: Callable[[Stream, str, Any], Awaitable[None]],
        flush: Callable[[], None],
    ) -> None:
        self._mux = mux
        self._writer = writer
        self._budget = budget
        self._metered = metered
        self._came_to = came_to
        self._over = False
        self._on_request = on_request
        self._on_stream = on_stream
        self._flush = flush
        self._running: dict[int, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        """How many exchanges are being served."""
        return len(self._running)

    def __contains__(self, number: int) -> bool:
        return number in self._running

    def request(self, number: int, method: str, params: Any) -> None:
        """The peer asks for something; it is answered, in the end."""
        if self._budget.exchanges.take():
            self._spawn(number, partial(self._answer, number, method, params))
        else:
            self._mux.fail(number, _too_much())
            self._came_to(False)

    def stream(self, stream: Stream, method: str, params: Any) -> bool:
        """The peer opened a stream; False if it has too many exchanges: then it is told."""
        if not self._budget.exchanges.take():
            self._mux.end(stream.number, _too_much())
            self._came_to(False)
            return False
        self._spawn(stream.number, partial(self._serve, stream, method, params))
        return True

    def cancel(self, number: int) -> None:
        """The peer does not want it any more."""
        if (task := self._running.get(number)) is not None:
            _cancel([task])

    async def stop(self) -> None:
        """The link is over: end all that is served, a little at a time; all at once if this is
        cancelled. Returns when none of it runs any more."""
        tasks = list(self._running.values())
        self._over = True
        if tasks:
            self._came_to(False, len(tasks))
        try:
            for start in range(0, len(tasks), _ENDED_AT_ONCE):
                _cancel(tasks[start : start + _ENDED_AT_ONCE])
                await asyncio.sleep(0)
        finally:
            _cancel(tasks)
            if tasks:
                await asyncio.wait(tasks)
            del self._metered, self._came_to, self._on_request, self._on_stream, self._flush

    def _spawn(self, number: int, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = asyncio.create_task(self._metered(work, every_step=False))
        self._running[number] = task
        task.add_done_callback(lambda _: self._ended(number))

    def _ended(self, number: int) -> None:
        self._running.pop(number, None)
        self._budget.exchanges.give()
        if not self._over:
            self._came_to(True)

    async def _answer(self, number: int, method: str, params: Any) -> None:
        try:
            if self._mux.congested:
                await self._writer.room()
            async with self._budget.bytes.hold(ANSWER_BYTES):
                result = await self._on_request(method, params)
                if self._mux.congested:
                    await self._writer.room()
        except KacheryError as error:
            self._mux.fail(number, error)
        except Exception as error:  # a bug in a handler must not cost the link
            log.exception("request %s failed", method)
            self._mux.fail(number, error)
        else:
            self._mux.respond(number, result)
        finally:
            self._flush()

    async def _serve(self, stream: Stream, method: str, params: Any) -> None:
        try:
            await self._on_stream(stream, method, params)
        except KacheryError as error:
            stream.end(error)
        except Exception as error:  # a bug in a handler must not cost the link
            log.exception("stream %s from %s failed", method, stream.peer[:8])
            stream.end(error)
        else:
            stream.end()
        finally:
            if not stream.ended:
                stream.end(LinkClosed(peer=stream.peer[:8], reason="the other side stopped"))


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Each once: who is told again, while it waits for a thread that reads, closes what that reads."""
    for task in tasks:
        if not task.cancelling():
            task.cancel()


def _too_much() -> Busy:
    return Busy(limit="what one node may ask of another at a time")
