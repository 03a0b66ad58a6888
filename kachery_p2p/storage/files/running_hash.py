"""A SHA-1 that is computed beside whoever has the bytes.

SHA-1 takes about as long as writing to the page cache, and both release the interpreter's lock, so
they run side by side: :meth:`RunningHash.update` hands the bytes to a thread and returns. Bytes are
hashed in the order of the calls; at most ``_AHEAD`` pieces wait, then the caller does.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from kachery_p2p.storage.disk import Buffer

_AHEAD: Final = 4
_INLINE: Final = 64 * 1024
"""Bytes up to which a hop to the thread costs more than the hash."""


class RunningHash:
    """Not thread-safe: one caller at a time. The bytes given must not change afterwards."""

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def update(self, data: Buffer) -> None:
        if len(data) <= _INLINE and not self._pending:
            self._sha1.update(data)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "kachery-sha1")
        while len(self._pending) >= _AHEAD or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._sha1.update, data))

    def hexdigest(self) -> str:
        """Of all that was given; waits for what is pending."""
        while self._pending:
            self._pending.popleft().result()
        return self._sha1.hexdigest()

    def close(self) -> None:
        """End the thread; a second time does nothing."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        self._pending.clear()
