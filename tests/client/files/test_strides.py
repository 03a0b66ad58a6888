"""What is fetched ahead of who reads at equal distances, without any file."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.client.files.read_cache import ReadCache
from kachery_p2p.client.files.strides import Range, Strides
from kachery_p2p.protocol.limits import (
    BLOCK,
    PLACE_NEAR,
    READ_AHEAD_MOST,
    STRIDES_FIRST,
    STRIDES_MOST,
)

SIZE = 1 << 40
STEP = 54_722_616
NODE = 2_616


class Reader:
    """Reads as a program does, each after the one before, and counts what it had to wait for."""

    def __init__(self, size: int = SIZE) -> None:
        self._strides = Strides(size)
        self._fetched: set[int] = set()
        self.waits = 0
        self.ahead: list[Range] = []

    def read(self, start: int, length: int = NODE) -> None:
        here = start // BLOCK in self._fetched
        self.waits += not here
        self._fetched.add(start // BLOCK)
        more = self._strides.next(start, start + length, here=here)
        self.ahead += more
        self._fetched |= {at // BLOCK for at, _ in more}


def test_the_index_of_a_data_set_of_hdf5_is_read_in_few_round_trips() -> None:
    """As a trace of h5py has it: its nodes at equal distances, with something else between them now and
    then, and looks at the table in which it began."""
    reader = Reader()
    reader.read(0)
    at = 3_464
    for number in range(1, 200):
        at += STEP + (415_576 if number % 50 == 0 else 0)
        reader.read(at)
        reader.read(at - NODE)
        reader.read(0)
    assert reader.waits < 12, "with one read after another, 200"
    assert len(reader.ahead) < 199 + 5 * STRIDES_MOST, "little is fetched that nobody reads"


@pytest.mark.parametrize("step", [PLACE_NEAR + 1, 10 * PLACE_NEAR, -3 * PLACE_NEAR])
def test_after_two_equal_distances_what_comes_next_is_fetched(step: int) -> None:
    strides = Strides(SIZE)
    begin = SIZE // 2
    assert [strides.next(begin + n * step, begin + n * step + 10, here=False) for n in (0, 1)] == [
        [],
        [],
    ]
    found = strides.next(begin + 2 * step, begin + 2 * step + 10, here=False)
    places = [begin + n * step for n in range(3, 3 + STRIDES_FIRST)]
    assert found == [(at, at + 10) for at in places]


def test_nothing_is_fetched_twice_and_ever_more_of_it() -> None:
    strides = Strides(SIZE)
    reached, most = 0, 0
    for number in range(1, 500):
        for start, stop in strides.next(number * STEP, number * STEP + NODE, here=number > 3):
            assert (start, stop) == (start, start + NODE)
            assert start > max(reached, number * STEP)
            reached = start
        most = max(most, reached // STEP - number)
    assert most == STRIDES_MOST


def test_large_things_are_fetched_ahead_in_bounds() -> None:
    strides = Strides(SIZE)
    length = READ_AHEAD_MOST // 3
    for number in range(1, 50):
        found = strides.next(number * STEP, number * STEP + length, here=number > 3)
        assert sum(stop - start for start, stop in found) <= READ_AHEAD_MOST
    strides = Strides(SIZE)
    far = 3 * READ_AHEAD_MOST
    assert not any(
        strides.next(n * far, n * far + 2 * READ_AHEAD_MOST, here=False) for n in range(20)
    )


@given(st.integers(0, 2**32))
def test_who_jumps_anywhere_gets_nothing(seed: int) -> None:
    strides = Strides(SIZE)
    places = random.Random(seed).sample(range(SIZE), 300)
    assert not any(strides.next(at, at + 4096, here=False) for at in places)


def test_who_stops_reading_so_gets_nothing_more() -> None:
    reader = Reader()
    for number in range(1, 6):
        reader.read(number * STEP)
    before = len(reader.ahead)
    for at in random.Random(2).sample(range(SIZE), 100):
        reader.read(at)
    assert len(reader.ahead) == before


@given(st.integers(1, 40), st.integers(1, 3 * BLOCK), st.integers(0, 5 * BLOCK))
def test_nothing_is_fetched_beyond_the_ends(count: int, length: int, rest: int) -> None:
    size = count * STEP + rest
    for direction in (1, -1):
        strides = Strides(size)
        for number in range(count + 1)[::direction]:
            start = number * STEP
            stop = min(size, start + length)
            for begin, end in strides.next(start, stop, here=False):
                assert 0 <= begin < end <= size


def test_what_of_it_is_here_is_not_fetched_again() -> None:
    cache = ReadCache(SIZE)
    for number in (1, 2):
        assert cache.coming_next(number * STEP, number * STEP + NODE) == []
    fourth = 4 * STEP // BLOCK
    cache.put({fourth: b""})
    expected = [n * STEP // BLOCK for n in range(4, 4 + STRIDES_FIRST)]
    found = cache.coming_next(3 * STEP, 3 * STEP + NODE)
    assert fourth not in found
    assert set(expected) - {fourth} <= set(found)
