"""Lists of byte ranges do what sets of bytes do."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.files.ranges import (
    Range,
    common,
    grouped,
    intersect,
    length,
    merge,
    rarest,
    subtract,
)
from kachery_p2p.protocol.limits import PIECES_AT_ONCE


def bytes_of(ranges: list[Range]) -> set[int]:
    return {place for start, stop in ranges for place in range(start, stop)}


ranges = st.lists(
    st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda pair: tuple(sorted(pair))),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(ranges, st.integers(0, 300), st.integers(0, 300))
def test_intersect_is_what_both_have(parts: list[Range], start: int, stop: int) -> None:
    found = intersect(parts, start, stop)
    assert bytes_of(found) == bytes_of(parts) & set(range(start, stop))
    assert all(a < b for a, b in found)


@given(ranges, ranges)
def test_ranges_are_subtracted_and_merged_as_sets_are(
    some: list[Range], others: list[Range]
) -> None:
    left = subtract(merge(some), merge(others))
    assert bytes_of(left) == bytes_of(some) - bytes_of(others)
    assert left == sorted(left)
    assert bytes_of(merge(some)) == bytes_of(some)
    assert length(merge(some)) == len(bytes_of(some))
    assert bytes_of(common(merge(some), merge(others))) == bytes_of(some) & bytes_of(others)


@settings(deadline=None)
@given(ranges, st.lists(ranges, max_size=4))
def test_the_rarest_are_those_that_the_fewest_have(
    pool: list[Range], maps: list[list[Range]]
) -> None:
    wanted = bytes_of(pool)
    counts = Counter(place for each in maps for place in bytes_of(each) & wanted)
    fewest = min((counts[place] for place in wanted), default=0)
    expected = {place for place in wanted if counts[place] == fewest}
    found = rarest(merge(pool), [merge(each) for each in maps])
    assert bytes_of(found) == expected
    assert found == merge(found)


@given(st.lists(st.integers(1, 50), max_size=100), st.integers(10, 100))
def test_small_pieces_are_read_together_and_in_their_order(sizes: list[int], most: int) -> None:
    pieces = [(at * 1_000, at * 1_000 + size) for at, size in enumerate(sizes)]
    groups = list(grouped(pieces, lambda: most))
    assert [piece for group in groups for piece in group] == pieces
    for group in groups:
        assert len(group) == 1 or sum(stop - start for start, stop in group) <= most
        assert len(group) <= PIECES_AT_ONCE
