"""The seconds that a command gives its work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kachery_p2p.client.session import portal
from kachery_p2p.protocol.errors import DeadlineExceeded

R = TypeVar("R")


class Patience:
    """So many seconds for all that is run; None: as long as it takes. ``what`` takes so long, and
    ``name`` is the function that is called, both as errors say it."""

    def __init__(self, seconds: float | None, what: str, name: str) -> None:
        self._seconds, self._what, self._name = seconds, what, name
        self._end = None if seconds is None else time.monotonic() + seconds

    def run(self, call: Callable[[], Awaitable[R]]) -> R:
        """Raises DeadlineExceeded, and what the call raises."""

        async def bounded() -> R:
            left = None if self._end is None else max(0.0, self._end - time.monotonic())
            try:
                async with asyncio.timeout(left):
                    return await call()
            except TimeoutError as error:
                raise DeadlineExceeded(what=self._what, seconds=self._seconds) from error

        return portal.run(bounded, name=self._name)
