"""Which bytes of a download to ask of whom: pure decisions, no I/O.

Participants: a download (:mod:`kachery_p2p.node.files.content`) owns one :class:`Plan`; a *source* is
a node id. ``missing`` is what shall be fetched, and ``urgent`` what of it somebody waits for now.

What is urgent is asked for although a long segment of the whole has it, unless it is about to come.

Rules. A *segment* is what is asked of one source in one request: up to ``MAX_RANGES`` ranges, in
file order, so that the whole-file hash follows closely behind. It is with one source at a time; what
a source fails to deliver goes back. With one source segments are long (a segment's end costs a round
trip), with several they are short, so that all finish together. Ranges are half-open, and split only
at multiples of ``unit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kachery_p2p.protocol.limits import MAX_RANGES, PIECES_AT_ONCE, READ_BATCH_BYTES, SEGMENT

LONGEST_SEGMENT = 16 * SEGMENT

Range = tuple[int, int]
Taken = tuple[int, list[Range]]
"""A ticket, to be given back, and what is to be asked."""


class Plan:
    """What is missing, and who is fetching which part of it."""

    def __init__(self, size: int, unit: int) -> None:
        self._size = size
        self._unit = unit
        self._free: list[Range] = []
        self._urgent: list[Range] = []
        self._taken: dict[int, list[Range]] = {}
        self._long: set[int] = set()
        """Tickets of segments of the whole."""
        self._next = 0

    def set_missing(self, missing: Sequence[Range], urgent: Sequence[Range] = ()) -> None:
        """(Re)start from what is missing; segments that are under way stay out of it."""
        taken = merge(item for ranges in self._taken.values() for item in ranges)
        self._free = subtract(merge([*missing, *urgent]), taken)
        soon = merge(item for ticket in self._taken for item in self._soon(ticket))
        self._urgent = subtract(merge(urgent), soon)

    def _soon(self, ticket: int) -> list[Range]:
        """What of a segment that is under way is worth waiting for."""
        ranges = self._taken[ticket]
        if ticket not in self._long:
            return ranges
        return [(start, min(stop, start + READ_BATCH_BYTES)) for start, stop in ranges[:1]]

    @property
    def done(self) -> bool:
        return not self.free and not self._taken

    @property
    def free(self) -> bool:
        """There is something to be asked for."""
        return bool(self._free or self._urgent)

    def take_urgent(self) -> Taken | None:
        """The next segment of what somebody waits for."""
        return self._take(self._urgent, SEGMENT)

    def take(self, sources: int) -> Taken | None:
        """The next segment of all that is missing, for one of ``sources`` active sources."""
        left = sum(b - a for a, b in self._free)
        length = max(SEGMENT, min(LONGEST_SEGMENT, left // max(1, 2 * sources)))
        taken = self._take(self._free, LONGEST_SEGMENT if sources <= 1 else length)
        if taken is not None:
            self._long.add(taken[0])
        return taken

    def _take(self, pool: list[Range], length: int) -> Taken | None:
        left = max(self._unit, length // self._unit * self._unit)
        ranges: list[Range] = []
        for start, stop in pool[:MAX_RANGES]:
            cut = min(stop, start + left)
            if cut < stop:
                cut -= cut % self._unit
                if cut <= start:
                    if ranges:
                        break
                    cut = min(stop, start + self._unit)
            ranges.append((start, cut))
            left -= cut - start
            if cut < stop or left <= 0:
                break
        if not ranges:
            return None
        self._free = subtract(self._free, ranges)
        self._urgent = subtract(self._urgent, ranges)
        ticket = self._next
        self._next += 1
        self._taken[ticket] = ranges
        return ticket, ranges

    def advance(self, ticket: int, upto: int) -> None:
        """Bytes before ``upto`` of a segment have been verified and written."""
        taken = self._taken.get(ticket)
        if taken is not None:
            self._taken[ticket] = intersect(taken, upto, self._size)
            if self._urgent:
                self._urgent = subtract(self._urgent, intersect(taken, 0, upto))

    def give_back(self, ticket: int) -> int:
        """The source is done with a segment; what it did not deliver is free again. Returns how many
        bytes that is."""
        left = self._taken.pop(ticket)
        self._long.discard(ticket)
        self._free = merge([*self._free, *left])
        return sum(stop - start for start, stop in left)


def subtract(ranges: Sequence[Range], holes: Sequence[Range]) -> list[Range]:
    """What of ``ranges`` is in none of ``holes``; both are in order, without overlaps, and so is it."""
    left: list[Range] = []
    at = 0
    for start, stop in ranges:
        while at < len(holes) and holes[at][1] <= start:
            at += 1
        hole = at
        while hole < len(holes) and holes[hole][0] < stop:
            if start < holes[hole][0]:
                left.append((start, holes[hole][0]))
            start = max(start, holes[hole][1])
            hole += 1
        if start < stop:
            left.append((start, stop))
    return left


def merge(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes as as few ranges as possible, in order; empty ones are dropped."""
    merged: list[Range] = []
    for start, stop in sorted(ranges):
        if start >= stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def intersect(ranges: Iterable[Range], start: int, stop: int) -> list[Range]:
    """The parts of ``ranges`` within [start, stop)."""
    parts = ((max(a, start), min(b, stop)) for a, b in ranges)
    return [(a, b) for a, b in parts if a < b]


def grouped(pieces: Iterable[Range], most: Callable[[], int]) -> Iterator[list[Range]]:
    """Small pieces together, so many of them and so many bytes, as it is then; a larger one alone."""
    group: list[Range] = []
    room = most()
    for piece in pieces:
        if group and (piece[1] - piece[0] > room or len(group) == PIECES_AT_ONCE):
            yield group
            group, room = [], most()
        group.append(piece)
        room -= piece[1] - piece[0]
    if group:
        yield group
