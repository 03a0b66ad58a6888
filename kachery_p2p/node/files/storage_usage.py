"""How full the storage is, measured beside everything else that the node does.

The folder is walked in worker threads, a few hundred files at a visit, when somebody asks and the last
result is old. Whoever asks gets what was measured last, so a storage with millions of files costs a
caller nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.limits import STORAGE_SCAN_SECONDS
from kachery_p2p.storage.paths import Entry

_FILES_PER_VISIT: Final = 500
"""After so many files another has the worker thread, and the node can stop."""
_REST: Final = 20.0
"""A walk is followed by a rest of so many times its length: it takes a twentieth of a thread."""
_FIRST_SECONDS: Final = 0.5
"""The first to ask wait so long for a first result; a large storage takes longer."""


class Usage(NamedTuple):
    """``used``: bytes of the blobs that lie in the folder itself. ``links``: files elsewhere.
    ``free``, ``size``: bytes of its file system. ``at``: when it was measured, Unix time."""

    used: int
    blobs: int
    links: int
    free: int
    size: int
    at: float


class StorageUsage:
    """``spawn`` makes tasks that the node ends when it stops."""

    def __init__(self, context: Context, spawn: Callable[..., asyncio.Task[Any]]) -> None:
        self._context = context
        self._spawn = spawn
        self._last: Usage | None = None
        self._due = 0.0
        self._walk: asyncio.Task[Any] | None = None

    async def measured(self) -> Usage | None:
        """The last result; None as long as there is none."""
        now = asyncio.get_running_loop().time()
        if now >= self._due and (self._walk is None or self._walk.done()):
            self._walk = self._spawn(self._measure(), name="measure storage")
        if self._last is None and self._walk is not None:
            await asyncio.wait([self._walk], timeout=_FIRST_SECONDS)
        return self._last

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        disk = self._context.workers.disk
        self._due = begun + STORAGE_SCAN_SECONDS  # also if it fails
        entries = self._context.store.scan()
        used = blobs = links = 0
        while (seen := await disk(_some, entries))[0]:
            used, blobs, links = used + seen[1], blobs + seen[2], links + seen[3]
        free, size = await disk(self._room)
        self._last = Usage(used, blobs, links, free, size, self._context.clock())
        now = loop.time()
        self._due = now + max(STORAGE_SCAN_SECONDS, _REST * (now - begun))

    def _room(self) -> tuple[int, int]:
        status = os.statvfs(self._context.store.root)
        return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


def _some(entries: Iterator[Entry]) -> tuple[int, int, int, int]:
    """Go on with the walk: (entries seen, bytes of blobs, blobs, links)."""
    seen = list(itertools.islice(entries, _FILES_PER_VISIT))
    blobs = [entry.size for entry in seen if entry.kind == "blob"]
    return len(seen), sum(blobs), len(blobs), len(seen) - len(blobs)
