"""One origin, kept off the loop: every call has a deadline, and so many run at once.

A call that is late is given up; its thread comes free when the store's own bounds end it
(:mod:`~kachery_p2p.storage.backing.objects`). If all threads are taken so, further calls are late
too, and nothing else of the node waits. An origin that failed as a whole is left alone for a while,
longer each time, and then tried again by whoever wants something."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kachery_p2p.node.pool import FairPool
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import (
    BadInput,
    KacheryError,
    OriginError,
    OriginRefused,
    OriginSlow,
    OriginUnreachable,
)
from kachery_p2p.protocol.limits import (
    ORIGIN_CALL_SECONDS,
    ORIGIN_PUT_SECONDS,
    ORIGIN_RETRY_FIRST,
    ORIGIN_RETRY_MOST,
    ORIGIN_THREADS,
)
from kachery_p2p.storage.backing.objects import Objects
from kachery_p2p.storage.backing.setting import OriginSetting, shown

R = TypeVar("R")
V = TypeVar("V")

_AS_A_WHOLE: Final = (OriginUnreachable, OriginSlow, OriginRefused, BadInput)
"""Errors that say something about all that lies there."""


class Moving:
    """What a thread that reads or writes much, and the task that waits for it, tell one another."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.done = 0


class Origin:
    """``number``: its own in the index. ``random`` gives floats in [0, 1)."""

    def __init__(self, setting: OriginSetting, number: int, *, random: Callable[[], float]) -> None:
        self.setting = setting
        self.number = number
        self.name = shown(setting.url)
        self.listing = False
        """It is being listed now."""
        self.error: KacheryError | None = None
        """What it failed with last as a whole; None once it has answered again."""
        self.writable: bool = setting.archive
        self._objects: Objects | None = None
        self._opening = asyncio.Lock()
        self._pool = FairPool(ORIGIN_THREADS, f"kachery-origin-{number}")
        self._backoff = Backoff(ORIGIN_RETRY_FIRST, ORIGIN_RETRY_MOST, random)
        self._again = 0.0
        """When it may be tried again, by the loop's clock."""

    @property
    def resting(self) -> KacheryError | None:
        """Why it is left alone now; None if it may be asked."""
        waits = self.error is not None and asyncio.get_running_loop().time() < self._again
        return self.error if waits else None

    async def call(
        self,
        what: str,
        work: Callable[[Objects], R],
        *,
        seconds: float = ORIGIN_CALL_SECONDS,
        anyway: bool = False,
    ) -> R:
        """Do ``work`` in a thread. ``what``: in words, for the error. ``anyway``: also while it is left
        alone, and it is not left alone for failing: a listing may fail where reading does not.

        Raises:
            OriginSlow: it took longer than ``seconds``.
            OriginError: as the work, or as the last one while it is left alone.
            BadInput: fsspec, or what it needs for this URL, is not installed.
        """
        if not anyway and (resting := self.resting) is not None:
            raise resting
        try:
            async with asyncio.timeout(seconds):
                objects = self._objects or await self._open()
                result = await self._run(work, objects)
        except TimeoutError:
            late = OriginSlow(origin=self.name, seconds=seconds, what=what)
            self._failed(late, rests=not anyway)
            raise late from None
        except _AS_A_WHOLE as error:
            self._failed(error, rests=not anyway)
            raise
        except OriginError:  # it answered
            self._answered()
            raise
        self._answered()
        return result

    async def move(self, what: str, work: Callable[[Objects, Moving], R]) -> R:
        """Do long ``work``, which says how far it is; it is late when it does not get on.

        Raises as :meth:`call`. Who is cancelled, or late, leaves: the work finds ``gone`` set.
        """
        moving = Moving()
        objects = await self.call("connecting", lambda files: files, seconds=ORIGIN_PUT_SECONDS)
        running = asyncio.ensure_future(self._run(lambda files: work(files, moving), objects))
        try:
            before = -1
            while moving.done != before:
                before = moving.done
                if (await asyncio.wait([running], timeout=ORIGIN_PUT_SECONDS))[0]:
                    return running.result()
        except _AS_A_WHOLE as error:
            self._failed(error)
            raise
        finally:
            moving.gone.set()
            running.add_done_callback(_heard)
        late = OriginSlow(origin=self.name, seconds=ORIGIN_PUT_SECONDS, what=what)
        self._failed(late)
        raise late

    async def _open(self) -> Objects:
        async with self._opening:
            if self._objects is None:
                self._objects = await self._run(Objects, self.setting.url)
            return self._objects

    async def _run(self, work: Callable[[V], R], value: V) -> R:
        return await self._pool.run(work, value)

    def _failed(self, error: KacheryError, *, rests: bool = True) -> None:
        """``rests``: it is left alone for a while."""
        loop = asyncio.get_running_loop()
        if rests and self.resting is None:
            self._again = loop.time() + max(ORIGIN_RETRY_FIRST / 2, self._backoff.next())
        if isinstance(error, OriginRefused):
            self._objects = None  # the next one reads the credentials anew, which may have changed
        self.error = error

    def _answered(self) -> None:
        self.error = None
        self._backoff.reset()

    def close(self) -> None:
        """Wait for nobody: its threads may wait for a server that never answers."""
        self._pool.close(wait=False)


def _heard(running: asyncio.Future[Any]) -> None:
    """Nobody is there any more to whom a failure would be news."""
    if not running.cancelled():
        running.exception()
