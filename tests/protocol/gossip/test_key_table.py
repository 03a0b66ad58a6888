"""A table of keys is a map from keys to numbers, whatever the keys are, and small."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.gossip import key_table
from kachery_p2p.protocol.gossip.key_table import KeyTable
from kachery_p2p.protocol.limits import INDEX_KEY_BYTES

KEYS = st.sampled_from([bytes(16), bytes(15) + b"\1", b"\1" + bytes(15), b"\1\0" * 8, b"\0\1" * 8])
NUMBERS = st.sampled_from([0, 1, 256, key_table.MAX_NUMBER])


@given(st.lists(st.tuples(st.booleans(), KEYS, NUMBERS), max_size=40))
def test_it_is_a_map_also_for_keys_that_overlap(changes: list[tuple[bool, bytes, int]]) -> None:
    table, model = KeyTable(), dict[bytes, list[int]]()
    # One bucket for all, as somebody who knew the hash would have it.
    key_table_hash = key_table.__dict__.setdefault("hash", hash)
    try:
        key_table.__dict__["hash"] = lambda key: 7
        for adds, key, number in changes:
            known = model.setdefault(key, [])
            if adds:
                assert table.add(key, number) is (number not in known)
                known += [number] * (number not in known)
            else:
                assert table.remove(key, number) is (number in known)
                model[key] = [each for each in known if each != number]
        for key, numbers in model.items():
            assert table.numbers(key) == numbers
            table.keep(key, {1})
            assert table.numbers(key) == [each for each in numbers if each == 1]
    finally:
        key_table.__dict__["hash"] = key_table_hash


def test_what_is_no_key_is_not_there() -> None:
    table = KeyTable()
    table.add(b"k" * 16, 1)
    assert table.numbers(b"k" * 15) == []
    assert table.numbers(b"") == []


def test_a_key_takes_as_much_memory_as_its_limit_says() -> None:
    """A million keys of one member took 140 MB."""
    count = 400_000
    table = KeyTable()
    tracemalloc.start()
    try:
        for number in range(count):
            table.add(number.to_bytes(8, "big") + bytes(8), 1)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    fixed = key_table._BUCKETS * 150  # an empty bucket's place, and its object
    assert used - fixed <= count * INDEX_KEY_BYTES
