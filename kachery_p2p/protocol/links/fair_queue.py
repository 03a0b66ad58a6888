"""Who sends next of those that have something to send: who has had least, in bytes.

Start-time fair queueing: each party has a count of what it has sent, and the lowest is next. Who comes
back, or is new, begins at the count of who was served last, so nobody saves up turns. Hence whoever
sends little goes at once, before all that others have waiting, and whoever sends much shares evenly,
whatever the length of its frames: a feed's message does not wait behind a file's megabytes.

Invariants: a party is in the queue once; what is remembered of those that are not is bounded by those
that are. Each step takes O(log n).
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_REMEMBERED = 64
"""Parties that are not in the queue, beyond as many as are."""


class FairQueue(Generic[K]):
    """Of parties; what they send is the caller's."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, K]] = []
        self._ready: dict[K, tuple[int, int]] = {}
        """Count and serial number: a heap entry with others is an old one."""
        self._had: dict[K, int] = {}
        """The counts of those that are not ready."""
        self._now = 0
        self._serial = 0

    def __len__(self) -> int:
        return len(self._ready)

    def __contains__(self, party: K) -> bool:
        return party in self._ready

    def add(self, party: K) -> None:
        """It has something to send from now on."""
        if party not in self._ready:
            self._push(party, max(self._now, self._had.pop(party, 0)))

    def _push(self, party: K, count: int) -> None:
        self._serial += 1
        self._ready[party] = count, self._serial
        heapq.heappush(self._heap, (count, self._serial, party))

    def first(self) -> K:
        """Whose turn it is. Raises IndexError: nobody is ready."""
        while True:
            count, serial, party = self._heap[0]
            if self._ready.get(party) == (count, serial):
                return party
            heapq.heappop(self._heap)

    def charge(self, party: K, size: int) -> None:
        """It sends so many bytes now."""
        count, _ = self._ready[party]
        self._now = max(self._now, count)
        self._push(party, count + size)

    def remove(self, party: K) -> None:
        """It has nothing to send any more."""
        if party not in self._ready:
            return
        count, _ = self._ready.pop(party)
        if not self._ready:
            self._heap.clear()
            self._had.clear()
            self._now = 0
            return
        if count > self._now:
            self._had[party] = count
        while len(self._had) > len(self._ready) + _REMEMBERED:
            del self._had[next(iter(self._had))]  # who left first
        if len(self._heap) > 2 * len(self._ready) + _REMEMBERED:
            self._heap = [(had, serial, each) for each, (had, serial) in self._ready.items()]
            heapq.heapify(self._heap)
