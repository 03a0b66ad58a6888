"""Reconnect backoff."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import BadInput


def test_the_ceiling_doubles_up_to_the_most_and_starts_over_after_a_reset() -> None:
    backoff = Backoff(0.5, 3.0, lambda: 1.0)
    assert [backoff.next() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.next() == 0.5


def test_the_jitter_is_full() -> None:
    draws = iter([0.0, 0.25, 0.5])
    backoff = Backoff(4.0, 100.0, lambda: next(draws))
    assert [backoff.next() for _ in range(3)] == [0.0, 2.0, 8.0]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(), attempts=st.integers(1, 3000))
def test_no_wait_is_ever_negative_or_above_the_most(seed: int, attempts: int) -> None:
    backoff = Backoff(0.5, 60.0, random.Random(seed).random)
    assert all(0 <= backoff.next() <= 60.0 for _ in range(attempts))


@pytest.mark.parametrize(("first", "most"), [(0, 1), (-1, 1), (2, 1), (float("nan"), 1)])
def test_senseless_bounds_are_refused(first: float, most: float) -> None:
    with pytest.raises(BadInput, match="first"):
        Backoff(first, most, random.random)
