"""Copies that other nodes rely on while they delete theirs: not to be deleted here meanwhile.

Invariant: either a copy is locked or it is being deleted, never both; which comes first is decided on
the event loop. So of two nodes that delete a file at once, each asking the other, none does.

A lock is in memory alone. After a restart there is none, but whoever deletes then asks anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kachery_p2p.protocol.errors import Busy, CopyLocked, NotFound
from kachery_p2p.protocol.limits import COPY_LOCK_SECONDS, MAX_COPY_LOCKS_EACH
from kachery_p2p.storage.files.arrivals import Arrivals


@dataclass
class _Lock:
    until: float
    timer: asyncio.TimerHandle


class CopyLocks:
    """``readers``: of the store, where what is locked counts as in use, so that it does not go to make
    room either. ``now``: seconds of any clock that never goes back."""

    def __init__(self, readers: Arrivals, now: Callable[[], float] | None = None) -> None:
        self._readers = readers
        self._now = now or asyncio.get_running_loop().time
        self._locks: dict[tuple[str, str], _Lock] = {}
        """By hash and the node that relies on it."""
        self._each: Counter[str] = Counter()
        self._deleting: Counter[str] = Counter()

    def lock(self, sha1: str, peer: str) -> None:
        """A node relies on it from now on, for ``COPY_LOCK_SECONDS``.

        Raises:
            NotFound: it is being deleted at this moment.
            Busy: the node has locked too much.
        """
        if self._deleting[sha1]:
            raise NotFound(what=f"sha1://{sha1}", detail="the provider deletes it at this moment")
        key = (sha1, peer)
        old = self._locks.get(key)
        if old is not None:
            old.timer.cancel()
        elif self._each[peer] >= MAX_COPY_LOCKS_EACH:
            raise Busy(limit=f"{MAX_COPY_LOCKS_EACH} copies that one node relies on")
        else:
            self._readers.begin(sha1)
            self._each[peer] += 1
        loop = asyncio.get_running_loop()
        timer = loop.call_later(COPY_LOCK_SECONDS, self._end, key)
        self._locks[key] = _Lock(self._now() + COPY_LOCK_SECONDS, timer)

    def unlock(self, sha1: str, peer: str) -> None:
        """It does not, after all."""
        lock = self._locks.get((sha1, peer))
        if lock is not None:
            lock.timer.cancel()
            self._end((sha1, peer))

    def _end(self, key: tuple[str, str]) -> None:
        del self._locks[key]
        self._readers.end(key[0])
        self._each[key[1]] -= 1
        if not self._each[key[1]]:
            del self._each[key[1]]

    @contextlib.contextmanager
    def deleting(self, sha1s: Sequence[str], *, force: bool) -> Iterator[None]:
        """In here nobody locks these. Raises CopyLocked: somebody has; with ``force`` that is no
        matter."""
        for (sha1, peer), lock in self._locks.items():
            if sha1 in sha1s and not force:
                left = max(1, round(lock.until - self._now()))
                raise CopyLocked(what=f"sha1://{sha1}", who=f"node {peer[:8]}", seconds=left)
        self._deleting.update(sha1s)
        try:
            yield
        finally:
            self._deleting.subtract(sha1s)
            self._deleting += Counter()
