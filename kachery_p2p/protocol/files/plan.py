"""Which bytes of a download to ask of whom: pure decisions, no I/O.

Participants: a download (:mod:`kachery_p2p.node.files.content`) owns one :class:`Plan`; a *source* is
a node id. ``wanted`` ranges are what callers wait for; ``missing`` is what the partial lacks.

Rules. Bytes are asked in file order, so that the whole-file hash follows closely behind. A segment
is with one source at a time; what a source fails to deliver goes back. With one source segments are
long (a segment's end costs a round trip), with several they are short, so that all finish together.
Ranges are half-open, and split only at multiples of ``unit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kachery_p2p.protocol.limits import SEGMENT

LONGEST_SEGMENT = 16 * SEGMENT

Range = tuple[int, int]


class Plan:
    """What is missing, and who is fetching which part of it."""

    def __init__(self, size: int, unit: int) -> None:
        self._size = size
        self._unit = unit
        self._free: list[Range] = []
        self._taken: dict[int, Range] = {}
        self._next = 0

    def set_missing(self, missing: Sequence[Range]) -> None:
        """(Re)start from what is missing; segments that are under way stay out of it."""
        free = list(missing)
        for taken in self._taken.values():
            free = [part for item in free for part in _subtract(item, taken)]
        self._free = _merge(free)

    @property
    def done(self) -> bool:
        return not self._free and not self._taken

    @property
    def free(self) -> bool:
        """There is something nobody is fetching."""
        return bool(self._free)

    def take(self, sources: int) -> tuple[int, Range] | None:
        """The next segment for one of ``sources`` active sources, with a ticket."""
        if not self._free:
            return None
        start, stop = self._free[0]
        left = sum(b - a for a, b in self._free)
        length = max(SEGMENT, min(LONGEST_SEGMENT, left // max(1, 2 * sources)))
        if sources <= 1:
            length = LONGEST_SEGMENT
        length = max(self._unit, length // self._unit * self._unit)
        cut = min(stop, start + length)
        if cut < stop:
            cut -= cut % self._unit if cut - cut % self._unit > start else 0
        if cut < stop:
            self._free[0] = (cut, stop)
        else:
            self._free.pop(0)
        ticket = self._next
        self._next += 1
        self._taken[ticket] = (start, cut)
        return ticket, (start, cut)

    def advance(self, ticket: int, upto: int) -> None:
        """Bytes before ``upto`` of a segment have been verified and written."""
        taken = self._taken.get(ticket)
        if taken is not None:
            self._taken[ticket] = (max(taken[0], min(upto, taken[1])), taken[1])

    def give_back(self, ticket: int) -> int:
        """The source is done with a segment; what it did not deliver is free again. Returns how
        many bytes that is."""
        start, stop = self._taken.pop(ticket)
        if start < stop:
            self._free = _merge([*self._free, (start, stop)])
        return stop - start


def _subtract(item: Range, hole: Range) -> list[Range]:
    left = (item[0], min(item[1], hole[0]))
    right = (max(item[0], hole[1]), item[1])
    return [part for part in (left, right) if part[0] < part[1]]


def _merge(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        elif start < stop:
            merged.append((start, stop))
    return merged


def intersect(ranges: Iterable[Range], start: int, stop: int) -> list[Range]:
    """The parts of ``ranges`` within [start, stop)."""
    parts = ((max(a, start), min(b, stop)) for a, b in ranges)
    return [(a, b) for a, b in parts if a < b]
