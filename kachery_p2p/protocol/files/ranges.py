"""Byte ranges: half-open, and in lists that are in order and without overlaps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from kachery_p2p.protocol.limits import PIECES_AT_ONCE

Range = tuple[int, int]


def length(ranges: Iterable[Range]) -> int:
    """Bytes in all of them."""
    return sum(stop - start for start, stop in ranges)


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


def cut(ranges: Iterable[Range], most: Callable[[], int]) -> Iterator[Range]:
    """Pieces, of so many bytes as it is then. They end at multiples of their size, so that their proofs
    fit anybody else's pieces."""
    for start, end in ranges:
        while start < end:
            size = most()
            stop = min(end, (start // size + 1) * size)
            yield start, stop
            start = stop


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


def common(some: Sequence[Range], others: Sequence[Range]) -> list[Range]:
    """What is in both."""
    return subtract(some, subtract(some, others))


def rarest(pool: Sequence[Range], maps: Sequence[Sequence[Range]]) -> list[Range]:
    """What of ``pool`` is in the fewest of ``maps``."""
    steps: dict[int, int] = {}
    for ranges in maps:
        for start, stop in ranges:
            steps[start] = steps.get(start, 0) + 1
            steps[stop] = steps.get(stop, 0) - 1
    found: list[Range] = []
    fewest = len(maps) + 1
    edges = sorted(steps)
    at = count = 0
    for start, stop in pool:
        while start < stop:
            while at < len(edges) and edges[at] <= start:
                count += steps[edges[at]]
                at += 1
            end = min(stop, edges[at]) if at < len(edges) else stop
            if count < fewest:
                found, fewest = [], count
            if count == fewest:
                found.append((start, end))
            start = end
    return merge(found)
