"""What this node asks of the peer of one link: requests, and the answers that are waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kachery_p2p.protocol.errors import DeadlineExceeded, KacheryError
from kachery_p2p.protocol.limits import DOUBT_SECONDS
from kachery_p2p.protocol.links.mux import Mux

from .writer import Writer


class Asking:
    """``flush``: the mux may have what to send. ``late``: an answer does not come soon."""

    def __init__(
        self,
        mux: Mux,
        writer: Writer,
        *,
        flush: Callable[[], None],
        late: Callable[[], None] = lambda: None,
    ) -> None:
        self._late = late
        self._mux = mux
        self._writer = writer
        self._flush = flush
        self._over: KacheryError | None = None
        self._futures: dict[int, asyncio.Future[Any]] = {}

    def __len__(self) -> int:
        """How many answers are waited for."""
        return len(self._futures)

    async def request(self, peer: str, method: str, params: Any, seconds: float) -> Any:
        """See :meth:`.link.Link.request`."""
        number = 0
        late = asyncio.get_running_loop().call_later(DOUBT_SECONDS, self._late)
        try:
            async with asyncio.timeout(seconds):
                if self._mux.congested:
                    await self._writer.room()
                if self._over is not None:
                    raise self._over.again()
                number = self._mux.request(method, params)
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                self._futures[number] = future
                self._flush()
                return await future
        except TimeoutError as error:
            raise DeadlineExceeded(
                what=f"The request {method!r} to {peer[:8]}", seconds=seconds
            ) from error
        finally:
            late.cancel()
            if self._futures.pop(number, None) is not None:
                self._mux.abandon(number)
                self._flush()

    def answered(self, number: int, result: Any) -> None:
        """The peer has answered, with an error perhaps."""
        future = self._futures.pop(number, None)
        if future is None or future.done():
            return
        if isinstance(result, KacheryError):
            future.set_exception(result)
        else:
            future.set_result(result)

    def release(self, error: KacheryError) -> None:
        """The link is over: who waits is told, each with an error of its own."""
        self._over, self._flush, self._late = error, lambda: None, lambda: None
        for future in self._futures.values():
            if not future.done():
                future.set_exception(error.again())
                future.exception()  # nobody may be waiting any more; that is no news
        self._futures.clear()
