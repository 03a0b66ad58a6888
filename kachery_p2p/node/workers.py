"""Worker threads: everything that would hold up the event loop.

The loop does socket work only. Hashing, ciphers and disk calls release the interpreter's lock, so a
few threads use all cores. Two pools, so that a disk that is slow to sync never delays a cipher.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, ParamSpec, Protocol, TypeVar


class Closable(Protocol):
    def close(self) -> None: ...


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Closable)

CIPHER_THREADS = 2
DISK_THREADS = 8
"""Small stores each wait for a sync of their own; eight overlap."""


class Workers:
    """The two pools. ``cipher`` work is short and never blocks; ``disk`` work may."""

    def __init__(self, cipher: Executor | None = None, disk: Executor | None = None) -> None:
        self._cipher = cipher or ThreadPoolExecutor(CIPHER_THREADS, "kachery-cipher")
        self._disk = disk or ThreadPoolExecutor(DISK_THREADS, "kachery-disk")

    async def cipher(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await _run(self._cipher, function, *args, **kwargs)

    async def disk(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work. Cancelling the caller does not stop the thread, only the wait."""
        return await _run(self._disk, function, *args, **kwargs)

    def close(self) -> None:
        self._cipher.shutdown(wait=True, cancel_futures=True)
        self._disk.shutdown(wait=True, cancel_futures=True)


async def open_on_disk(workers: Workers, opener: Callable[[Callable[[], bool]], C]) -> C:
    """As :meth:`Workers.disk`, for what must be closed again: the caller gets it, or, if it is
    cancelled meanwhile, it is closed when it comes, which a cancelled caller waits for.

    ``opener`` is given a function that says whether the caller has gone.
    """
    handover = _Handover(opener)
    opening = asyncio.ensure_future(workers.disk(handover.open))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        handover.leave()
        opening.add_done_callback(_hear)  # even if we are cancelled once more
        await asyncio.wait([opening])
        raise


class _Handover(Generic[C]):
    """Between the thread that opens and the loop, whichever of the two comes last to close it."""

    def __init__(self, opener: Callable[[Callable[[], bool]], C]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._made: C | None = None

    def open(self) -> C:
        made = self._opener(self._gone.is_set)
        with self._lock:
            if self._gone.is_set():
                made.close()
            self._made = made
        return made

    def leave(self) -> None:
        with self._lock:
            if self._made is not None and not self._gone.is_set():
                self._made.close()
            self._gone.set()


def _hear(opening: asyncio.Future[C]) -> None:
    """Nobody is there any more to whom a failure would be news."""
    if not opening.cancelled():
        opening.exception()


async def _run(pool: Executor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    loop = asyncio.get_running_loop()
    if kwargs:
        return await loop.run_in_executor(pool, lambda: function(*args, **kwargs))
    return await loop.run_in_executor(pool, function, *args)
