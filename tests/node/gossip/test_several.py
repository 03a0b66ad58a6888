"""The values of each key, as a dict of sets has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.node.gossip.several import Several

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 4)), max_size=60)


@given(STEPS)
def test_it_has_what_was_added_and_not_taken_away_in_order(
    steps: list[tuple[bool, int, int]],
) -> None:
    several: Several[int, int] = Several()
    plain: dict[int, dict[int, None]] = {}
    for add, key, value in steps:
        if add:
            several.add(key, value)
            plain.setdefault(key, {})[value] = None
        else:
            several.discard(key, value)
            plain.get(key, {}).pop(value, None)
            if not plain.get(key):
                plain.pop(key, None)
        assert {each: several.of(each) for each in range(4)} == {
            each: tuple(plain.get(each, ())) for each in range(4)
        }
        assert sorted(several) == sorted(plain)
        assert len(several) == len(plain)
