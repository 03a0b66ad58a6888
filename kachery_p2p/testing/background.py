"""An event loop in a thread of its own: there the nodes of a test live, and the links between them,
whatever the test does on its own thread meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

_END_SECONDS = 15.0


class Background:
    """Runs from its making until :meth:`close`."""

    def __init__(self, name: str) -> None:
        started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._main, args=(started,), name=name, daemon=True)
        self._thread.start()
        self._loop = started.result()
        self.thread = self._thread.ident
        """Its identifier."""

    def _main(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        asyncio.run(self._serve(started))

    async def _serve(self, started: concurrent.futures.Future[asyncio.AbstractEventLoop]) -> None:
        self._ending = asyncio.Event()
        started.set_result(asyncio.get_running_loop())
        await self._ending.wait()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine there and wait for what it returns or raises; interrupted, cancel it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future], timeout=_END_SECONDS)
            raise

    def do(self, function: Callable[[], R]) -> R:
        """Call a function there and wait for what it returns or raises."""

        async def work() -> R:
            return function()

        return self.run(work())

    def close(self) -> None:
        """Cancel what still runs there and end the thread. Nothing if it has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(_END_SECONDS)
