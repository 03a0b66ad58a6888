"""What an open file keeps in memory, and what it should fetch ahead: pure decisions, no I/O.

Bytes are kept in blocks of ``BLOCK``, a bounded number of them, those used last. A reader that goes on
where it stopped gets ever more fetched ahead of it, and so does one that reads at equal distances
(:mod:`.strides`); one that jumps about in one place, as who reads the names in an HDF5 file does, gets
ever more of that place; one that jumps anywhere gets what it asks for and no more.

Methods are called from several threads. Each leaves the cache right whatever another does at the same
time: what one puts in, another may find or not.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping

from kachery_p2p.protocol.limits import (
    BLOCK,
    PLACE_FIRST,
    PLACE_MOST,
    PLACE_NEAR,
    PLACES_READ,
    PLACES_SHARE,
    READ_AHEAD_FIRST,
    READ_AHEAD_MOST,
    READ_CACHE_BYTES,
)

from .strides import Range, Strides


class ReadCache:
    """Of a file of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._expected = 0
        self._window = 0
        self._reached = 0
        self._places: list[_Place] = []
        self._near: deque[bool] = deque(maxlen=2 * PLACES_READ)
        """Of the reads before, whether each was near one of these places."""
        self._strides = Strides(size)

    def __len__(self) -> int:
        """Blocks that are kept."""
        return len(self._blocks)

    def block(self, number: int) -> bytes | None:
        """A block, if it is here."""
        data = self._blocks.get(number)
        if data is not None:
            with contextlib.suppress(KeyError):  # another thread has just dropped it
                self._blocks.move_to_end(number)
        return data

    def get(self, start: int, stop: int) -> bytes | None:
        """Bytes [start, stop), which are not none, or None if not all of them are here."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        if last - first > len(self._blocks):
            return None
        parts: list[bytes] = []
        for number in range(first, last):
            data = self.block(number)
            if data is None:
                return None
            parts.append(data)
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        return whole[start - first * BLOCK : stop - first * BLOCK]

    def lacking(self, start: int, stop: int) -> list[int]:
        """The blocks where [start, stop) lies that are not here."""
        numbers = range(start // BLOCK, -(-min(stop, self._size) // BLOCK))
        return [number for number in numbers if number not in self._blocks]

    def put(self, blocks: Mapping[int, bytes]) -> None:
        """Keep these."""
        self._blocks.update(blocks)
        while len(self._blocks) > READ_CACHE_BYTES // BLOCK:
            with contextlib.suppress(KeyError):
                self._blocks.popitem(last=False)

    def clear(self) -> None:
        """Keep nothing."""
        self._blocks.clear()

    def coming_next(self, start: int, stop: int) -> list[int]:
        """Somebody reads [start, stop): blocks that are not here to be fetched beyond it, in order."""
        ahead = self.ahead(start, stop)
        if ahead is not None:
            return self.lacking(*ahead)
        here = not self.lacking(start, stop)
        strided = self._strides.next(start, stop, here=here)
        return sorted({number for each in strided for number in self.lacking(*each)})

    def ahead(self, start: int, stop: int) -> Range | None:
        """Somebody reads [start, stop): what to fetch beyond it, if anything."""
        goes_on = self._expected - BLOCK < start <= self._expected and self._expected > 0
        is_near = abs(start - self._expected) <= PLACE_NEAR
        self._expected = stop
        if not goes_on:
            if not is_near:  # a step aside in one place does not end a row
                self._window, self._reached = 0, stop
            return None
        if self._reached - stop > self._window // 2:  # not a request for each block
            return None
        self._window = min(READ_AHEAD_MOST, max(READ_AHEAD_FIRST, 2 * self._window))
        begin = max(stop, self._reached)
        self._reached = max(begin, min(self._size, stop + self._window))
        return (begin, self._reached) if begin < self._reached else None

    def around(self, first: int, last: int) -> list[int]:
        """The blocks from ``first`` to ``last`` are about to be fetched for a read: which of their
        neighbours to fetch, too, since others near them were lately. None for who reads much, and for
        who was near by chance: in a file of 1 GiB, one read in ten is near one of sixteen others."""
        if last - first >= PLACE_FIRST // BLOCK // 2:
            return []
        place = next((each for each in reversed(self._places) if each.is_near(first)), None)
        self._near.append(place is not None)
        if place is None:
            self._places = [*self._places[1 - PLACES_READ :], _Place(first, last + 1)]
            return []
        self._places = [each for each in self._places if each is not place] + [place]
        if sum(self._near) * PLACES_SHARE < len(self._near):
            return []
        begin, end = place.grow(first, last + 1)
        numbers = range(begin, min(end, -(-self._size // BLOCK)))
        return [n for n in numbers if not first <= n <= last and n not in self._blocks]


class _Place:
    """Blocks [start, stop), about, that somebody reads here and there."""

    def __init__(self, start: int, stop: int) -> None:
        self._start, self._stop = start, stop
        self._window = PLACE_FIRST // BLOCK // 2

    def is_near(self, number: int) -> bool:
        return self._start - PLACE_NEAR // BLOCK <= number < self._stop + PLACE_NEAR // BLOCK

    def grow(self, first: int, stop: int) -> Range:
        """Some more of it is read: what to fetch."""
        self._window = min(2 * self._window, PLACE_MOST // BLOCK)
        begin = max(0, first - self._window // 4)  # most go on forwards
        end = max(stop, begin + self._window)
        self._start, self._stop = min(begin, self._start), max(end, self._stop)
        return begin, end


def runs(numbers: Iterable[int], size: int) -> list[Range]:
    """Blocks, in order, as byte ranges of a file of ``size`` bytes: neighbours as one."""
    found: list[Range] = []
    for number in numbers:
        start, stop = number * BLOCK, min(size, (number + 1) * BLOCK)
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found
