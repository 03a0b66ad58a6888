"""What an open file keeps in memory and fetches ahead, without any file."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.client.files.read_cache import ReadCache, runs
from kachery_p2p.protocol.limits import (
    BLOCK,
    PLACE_FIRST,
    PLACE_NEAR,
    PLACES_READ,
    READ_AHEAD_FIRST,
    READ_AHEAD_MOST,
    READ_CACHE_BYTES,
)

SIZE = 9 * BLOCK + 100
DATA = random.Random(3).randbytes(SIZE)
numbers = st.sets(st.integers(0, 9))
places = st.integers(0, SIZE)


def block(number: int) -> bytes:
    return DATA[number * BLOCK : (number + 1) * BLOCK]


@given(numbers, places, places)
def test_bytes_are_had_when_all_their_blocks_are_here(
    here: set[int], start: int, stop: int
) -> None:
    cache = ReadCache(SIZE)
    cache.put({number: block(number) for number in here})
    start, stop = sorted((start, stop))
    if start == stop:
        return
    touched = {at // BLOCK for at in (*range(start, stop, BLOCK), stop - 1)}
    assert cache.lacking(start, stop) == sorted(touched - here)
    assert cache.get(start, stop) == (DATA[start:stop] if touched <= here else None)


@given(numbers)
def test_blocks_as_ranges_are_the_same_bytes_in_as_few_as_can_be(some: set[int]) -> None:
    found = runs(sorted(some), SIZE)
    assert b"".join(DATA[a:b] for a, b in found) == b"".join(block(n) for n in sorted(some))
    assert all(a[1] < b[0] for a, b in itertools.pairwise(found))


def test_who_jumps_about_in_one_place_gets_ever_more_of_it() -> None:
    cache = ReadCache(10_000 * BLOCK)
    assert cache.around(500, 500) == [], "once says nothing"
    first = cache.around(503, 503)
    assert first == [n for n in range(501, 509) if n != 503]
    cache.put(dict.fromkeys([500, 503, *first], b""))
    second = cache.around(510, 511)
    assert second == [509, *range(512, 522)], "what is here is not fetched again"
    assert cache.around(9_000, 9_000) == [], "another place"
    cache.put(dict.fromkeys(second, b""))
    assert cache.around(530, 530) == [n for n in range(522, 554) if n != 530], "back in the first"
    assert cache.around(9_999, 9_999) == []
    assert max(cache.around(9_998, 9_998)) == 9_999, "not beyond the end"


def test_who_jumps_anywhere_or_reads_much_gets_no_more_than_it_asks_for() -> None:
    size = 4 << 30
    cache = ReadCache(size)
    places_ = random.Random(1).sample(range(size // BLOCK), 200)
    more = sum(len(cache.around(place, place)) for place in places_)
    assert more * BLOCK < 0.2 * 200 * PLACE_FIRST
    cache = ReadCache(size)
    assert not any(cache.around(at, at + 15) for at in range(0, 160, 16))


def test_so_many_places_are_remembered() -> None:
    cache = ReadCache(1 << 40)
    far = 10 * PLACE_NEAR // BLOCK
    for number in range(PLACES_READ):
        assert cache.around(number * far, number * far) == []
    for number in range(PLACES_READ):
        cache.around(number * far + 1, number * far + 1)
    assert cache.around(far * PLACES_READ, far * PLACES_READ) == []
    assert cache.around(1, 1) == [], "the first is forgotten"
    assert cache.around(2 * far + 2, 2 * far + 2)


def test_who_is_near_another_read_by_chance_gets_no_more_than_it_asks_for() -> None:
    size = 1 << 30
    cache = ReadCache(size)
    chance = random.Random(2)
    blocks = [chance.randrange(size // BLOCK) for _ in range(1_000)]
    more = [len(cache.around(place, place)) for place in blocks]
    assert sum(more) < 1_000, "in such a file one in ten is near one of sixteen others"
    beside = [cache.around(1_000 + 3 * at, 1_000 + 3 * at) for at in range(2 * PLACES_READ)]
    assert not beside[0]
    assert all(beside[PLACES_READ:]), "places are noticed after chance, too"


def test_memory_is_bounded_and_what_was_used_last_is_kept() -> None:
    most = READ_CACHE_BYTES // BLOCK
    cache = ReadCache(10 * READ_CACHE_BYTES)
    cache.put({0: b"first", 1: b"second"})
    for number in range(2, most):
        cache.put({number: b""})
    assert cache.block(0) == b"first"
    cache.put({most: b""})
    assert len(cache) == most
    assert cache.block(0) == b"first"
    assert cache.block(1) is None
    cache.put(dict.fromkeys(range(3 * most), b""))
    assert len(cache) == most
    cache.clear()
    assert not len(cache)


def test_who_reads_one_after_another_gets_ever_more_fetched_ahead() -> None:
    size = 100 * READ_AHEAD_MOST
    cache = ReadCache(size)
    reached, windows = 0, []
    for start in range(0, 4 * READ_AHEAD_MOST, BLOCK):
        ahead = cache.ahead(start, start + BLOCK)
        if ahead is not None:
            assert ahead[0] == max(reached, start + BLOCK), "nothing twice, and without a gap"
            reached = ahead[1]
            windows.append(reached - start - BLOCK)
    assert windows[0] == READ_AHEAD_FIRST
    assert windows == sorted(windows)
    assert windows[-1] == READ_AHEAD_MOST
    assert len(windows) < 40, "not a request for each read"
    assert reached - 4 * READ_AHEAD_MOST <= READ_AHEAD_MOST


@pytest.mark.parametrize("step", [10, 1_000, BLOCK, 3 * BLOCK + 7])
def test_reads_of_any_size_in_a_row_are_one_after_another(step: int) -> None:
    cache = ReadCache(1 << 40)
    cache.ahead(0, step)
    assert cache.ahead(step, 2 * step) == (2 * step, 2 * step + READ_AHEAD_FIRST)


@given(st.lists(st.integers(0, 1_000).map(lambda at: at * 3 * BLOCK), min_size=2, unique=True))
def test_who_jumps_gets_nothing_ahead(starts: list[int]) -> None:
    cache = ReadCache(1 << 40)
    assert all(cache.ahead(start, start + 4096) is None for start in starts)


def test_nothing_is_fetched_beyond_the_end() -> None:
    cache = ReadCache(SIZE)
    cache.ahead(0, 10)
    assert cache.ahead(10, 20) == (20, min(SIZE, 20 + READ_AHEAD_FIRST))
    cache.ahead(SIZE - 10, SIZE - 5)
    assert cache.ahead(SIZE - 5, SIZE) is None
    assert cache.ahead(SIZE, SIZE) is None
