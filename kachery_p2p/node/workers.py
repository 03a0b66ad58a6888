"""Worker threads: everything that would hold up the event loop.

The loop does socket work only. Hashing, ciphers and disk calls release the interpreter's lock, so a
few threads use all cores. Two pools, so that a disk that is slow to sync never delays a cipher.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

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


async def _run(pool: Executor, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    loop = asyncio.get_running_loop()
    if kwargs:
        return await loop.run_in_executor(pool, lambda: function(*args, **kwargs))
    return await loop.run_in_executor(pool, function, *args)
