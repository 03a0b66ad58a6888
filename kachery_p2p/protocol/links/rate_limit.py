"""Keeping to so many bytes a second, and who goes next when several wait. Pure: ``now`` is an
argument, in seconds on a clock that never goes back.

A :class:`TokenBucket` fills at its rate. Something may pass while there is anything in it, whatever
its size, and the bucket is in debt afterwards: so nothing is too large to pass.

Invariant: in any time ``t``, no more passes than ``rate * (t + RATE_BURST_SECONDS)`` and one item.

:class:`FairTurns` shares what passes between parties, byte by byte: the next is who has had least of it
since it began to wait. Who waits for little does not wait behind another's much.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from kachery_p2p.protocol.limits import BLOCK, RATE_BURST_SECONDS, RATE_PIECE_SECONDS

T = TypeVar("T")


class TokenBucket:
    """``rate``: bytes a second; None: there is no limit."""

    def __init__(self, rate: int | None, now: float) -> None:
        self.rate = rate
        self._level = self._most
        self._then = now

    @property
    def _most(self) -> float:
        return (self.rate or 0) * RATE_BURST_SECONDS

    def set_rate(self, rate: int | None, now: float) -> None:
        """From now on. What is owed from before is owed at the new rate for a burst at most."""
        self._fill(now)
        self.rate = rate
        self._level = max(-self._most, min(self._most, self._level))

    def _fill(self, now: float) -> None:
        passed = max(0.0, now - self._then)
        self._level = min(self._most, self._level + (self.rate or 0) * passed)
        self._then = now

    def wait(self, now: float) -> float:
        """Seconds until something may pass; 0: now."""
        if self.rate is None:
            return 0.0
        self._fill(now)
        return 0.0 if self._level > 0 else max(1e-3, -self._level / self.rate)

    def take(self, size: int, now: float) -> None:
        """So many bytes pass, whether they may or not."""
        if self.rate is not None:
            self._fill(now)
            self._level -= size

    def give(self, size: int) -> None:
        """So many of them did not pass after all."""
        if self.rate is not None:
            self._level = min(self._most, self._level + size)


class FairTurns(Generic[T]):
    """Items that wait, by party; of one party they go in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[tuple[int, T]]] = {}
        self._had: dict[str, float] = {}
        """Bytes that each party has had, by a count that goes on for those who do not wait."""
        self._least = 0.0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, party: str, size: int, item: T) -> None:
        """It waits from now on."""
        if party not in self._waiting:
            self._waiting[party] = deque()
            self._had[party] = max(self._least, self._had.get(party, 0.0))
        self._waiting[party].append((size, item))

    def next(self) -> tuple[int, T]:
        """Whose turn it is, with its size; it waits no more. Raises ValueError: nobody waits."""
        party = min(self._waiting, key=self._had.__getitem__)
        size, item = self._waiting[party].popleft()
        self._least = self._had[party]
        self._had[party] += size
        if not self._waiting[party]:
            del self._waiting[party]
            self._had = {
                each: had
                for each, had in self._had.items()
                if had > self._least or each in self._waiting
            }
        if not self._waiting:
            self._had.clear()
            self._least = 0.0
        return size, item

    def skip(self, party: str, size: int) -> None:
        """An item of a party did not pass after all: it was not had."""
        if party in self._had:
            self._had[party] = max(self._least, self._had[party] - size)


def piece_bytes(rate: int | None, most: int) -> int:
    """How long what passes at a time should be: ``most``, halved until it takes about
    ``RATE_PIECE_SECONDS``, but a block at least."""
    size = most
    while rate is not None and size > max(BLOCK, rate * RATE_PIECE_SECONDS):
        size //= 2
    return max(size, min(BLOCK, most))
