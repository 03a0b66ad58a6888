"""One pass over a file's bytes that yields every hash the system knows it by.

Together with the whole SHA-1, a file over MANIFEST_CHUNK bytes needs the SHA-1 of each chunk and
the BLAKE3 leaves of its 64 KiB blocks. Two of these lanes run in worker threads beside
the caller, who copies the same bytes meanwhile: SHA-1 is the slowest of the three and cannot be cut
in pieces, so one core hashes the whole and another does the rest.

Invariant: a buffer given to :meth:`ContentHasher.feed` is read until the next ``feed``, ``settle``
or ``finish`` returns, and must not change until then.
"""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM, Chunk
from kachery_p2p.protocol.limits import BLOCK, KIB, MANIFEST_CHUNK
from kachery_p2p.storage.direct import Page

Buffer = bytes | bytearray | memoryview

PARALLEL: Final = 512 * KIB
"""Pieces of at least so many bytes are worth the two hand-overs to worker threads."""
_AHEAD: Final = 4
_INLINE: Final = 64 * 1024
"""Bytes up to which a hop to the thread costs more than the hash."""


@dataclass(frozen=True, slots=True)
class Hashed:
    """What one pass found, but for the leaves. ``chunks`` is empty up to MANIFEST_CHUNK bytes."""

    sha1: str
    size: int
    chunks: tuple[Chunk, ...]


class ContentHasher:
    """Hashes what it is fed, in order. Used by one thread."""

    def __init__(self, pool: Executor) -> None:
        self.size = 0
        self._pool = pool
        self._lanes: tuple[Future[None], ...] = ()
        self._whole = hashlib.sha1()
        self._first = ""
        self._chunks: list[str] = []
        self._chunk = hashlib.sha1()
        self._leaves = bytearray()
        self._leaf = tree.HASHES[TREE_ALGORITHM](b"\x00")
        self._leaf_fill = 0

    def feed(self, data: Buffer) -> None:
        """Take the next bytes. Returns while they are still being read if there are many."""
        self.settle()
        view = memoryview(data).cast("B")
        start = self.size
        self.size += len(view)
        if len(view) < PARALLEL:
            self._hash_whole(view, start)
            self._hash_parts(view, start)
        else:
            self._lanes = (
                self._pool.submit(self._hash_whole, view, start),
                self._pool.submit(self._hash_parts, view, start),
            )

    def settle(self) -> None:
        """Wait until the last buffer is no longer read."""
        lanes, self._lanes = self._lanes, ()
        for lane in lanes:
            lane.result()

    def take_leaves(self) -> bytearray:
        """The leaf hashes since the last call, concatenated. Call it when settled."""
        leaves, self._leaves = self._leaves, bytearray()
        return leaves

    def finish(self) -> Hashed:
        """The hashes; what is left of the leaves can be taken after it. Nothing more is fed."""
        self.settle()
        if self._leaf_fill:
            self._leaves += self._leaf.digest()
        sha1 = self._whole.hexdigest()
        if self.size <= MANIFEST_CHUNK:
            return Hashed(sha1, self.size, ())
        if self.size % MANIFEST_CHUNK:
            self._chunks.append(self._chunk.hexdigest())
        starts = range(0, self.size, MANIFEST_CHUNK)
        return Hashed(
            sha1,
            self.size,
            tuple(
                Chunk(start, min(start + MANIFEST_CHUNK, self.size), name)
                for start, name in zip(starts, (self._first, *self._chunks), strict=True)
            ),
        )

    def _hash_whole(self, view: memoryview, start: int) -> None:
        # The first chunk's hash is a state that the whole hash passes through: it comes free, and
        # a file without a manifest is hashed once only.
        if start < MANIFEST_CHUNK <= start + len(view):
            self._whole.update(view[: MANIFEST_CHUNK - start])
            self._first = self._whole.hexdigest()
            self._whole.update(view[MANIFEST_CHUNK - start :])
        else:
            self._whole.update(view)

    def _hash_parts(self, view: memoryview, start: int) -> None:
        at = max(0, MANIFEST_CHUNK - start)
        while at < len(view):
            space = MANIFEST_CHUNK - (start + at) % MANIFEST_CHUNK
            part = view[at : at + space]
            self._chunk.update(part)
            at += len(part)
            if len(part) == space:
                self._chunks.append(self._chunk.hexdigest())
                self._chunk = hashlib.sha1()
        self._hash_leaves(view)

    def _hash_leaves(self, view: memoryview) -> None:
        at = 0
        while at < len(view):
            part = view[at : at + BLOCK - self._leaf_fill]
            self._leaf.update(part)
            at += len(part)
            self._leaf_fill += len(part)
            if self._leaf_fill == BLOCK:
                self._leaves += self._leaf.digest()
                self._leaf = tree.HASHES[TREE_ALGORITHM](b"\x00")
                self._leaf_fill = 0


class RunningHash:
    """A SHA-1 that is computed beside whoever has the bytes.

    SHA-1 takes about as long as writing to the page cache, and both release the interpreter's lock, so
    they run side by side: :meth:`update` hands the bytes to a thread and returns. Bytes are hashed in
    the order of the calls; at most ``_AHEAD`` pieces wait, then the caller does. Not thread-safe: one
    caller at a time. The bytes given must not change afterwards.
    """

    def __init__(self) -> None:
        self._sha1 = hashlib.sha1()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[Future[None]] = deque()

    def update(self, data: Buffer, page: Page | None = None) -> None:
        """``page``: in which the bytes lie, and which is held as long as they are read."""
        if len(data) <= _INLINE and not self._pending:
            self._sha1.update(data)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "kachery-sha1")
        while len(self._pending) >= _AHEAD or (self._pending and self._pending[0].done()):
            self._pending.popleft().result()
        future = self._pool.submit(self._sha1.update, data)
        self._pending.append(future)
        if page is not None:
            page.hold()
            future.add_done_callback(lambda _: page.drop())

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
