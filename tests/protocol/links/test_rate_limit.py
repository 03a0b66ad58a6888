"""A rate is kept to, whatever the sizes are, and who waits has its share of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.limits import BLOCK, MAX_BODY, MIB, RATE_BURST_SECONDS
from kachery_p2p.protocol.links.rate_limit import FairTurns, TokenBucket, piece_bytes

RATE = 1_000_000
BURST = int(RATE * RATE_BURST_SECONDS)


@given(
    st.lists(
        st.tuples(st.integers(1, 3 * RATE), st.floats(0.0, 2.0)),  # size, and a pause before it
        min_size=1,
    )
)
def test_no_more_passes_than_the_rate_a_burst_and_one_item(items: list[tuple[int, float]]) -> None:
    bucket, now, passed = TokenBucket(RATE, 0.0), 0.0, 0
    for size, pause in items:
        now += pause
        waits = 0
        while (wait := bucket.wait(now)) > 0:
            now += wait
            waits += 1
        assert waits <= 2, "what is said to be the wait is the wait"
        assert passed <= RATE * now + BURST
        bucket.take(size, now)
        passed += size


@pytest.mark.parametrize(
    ("taken", "given_back", "at", "wait"),
    [
        (0, 0, 0.0, 0.0),
        (BURST - 1, 0, 0.0, 0.0),
        (BURST + RATE, 0, 0.0, 1.0),
        (BURST + RATE, 0, 0.25, 0.75),
        (BURST + RATE, 0, 1.5, 0.0),
        (BURST + RATE, RATE // 2, 0.0, 0.5),
        (BURST + RATE, 3 * RATE, 0.0, 0.0),
    ],
)
def test_how_long_is_waited(taken: int, given_back: int, at: float, wait: float) -> None:
    bucket = TokenBucket(RATE, 0.0)
    bucket.take(taken, 0.0)
    bucket.give(given_back)
    assert bucket.wait(at) == pytest.approx(wait)


def test_a_new_rate_counts_at_once_and_old_debts_do_not_last() -> None:
    bucket = TokenBucket(RATE, 0.0)
    bucket.take(1_000 * RATE, 0.0)
    bucket.set_rate(2 * RATE, 0.0)
    assert bucket.wait(0.0) == pytest.approx(RATE_BURST_SECONDS)
    bucket.set_rate(None, 0.0)
    assert bucket.wait(0.0) == 0
    bucket.take(1_000 * RATE, 1.0)
    bucket.set_rate(RATE, 1.0)
    assert bucket.wait(1.0) <= 1e-3, "what passed without a limit is not owed"


def test_parties_share_by_bytes_and_not_by_items() -> None:
    turns = FairTurns[str]()
    for number in range(100):
        turns.add("large", MIB, f"large {number}")
        for _ in range(10):
            turns.add("small", MIB // 10, "small")
    had: Counter[str] = Counter()
    for _ in range(500):
        size, item = turns.next()
        had[item.split()[0]] += size
        assert abs(had["large"] - had["small"]) <= MIB + MIB // 10
    assert turns


def test_who_comes_later_waits_for_one_turn_and_has_no_claim_for_before() -> None:
    turns = FairTurns[str]()
    for _ in range(50):
        turns.add("first", MIB, "first")
    for _ in range(20):
        turns.next()
    for _ in range(10):
        turns.add("later", MIB, "later")
    seen = [turns.next()[1] for _ in range(20)]
    assert seen.index("later") <= 1
    assert 9 <= seen.count("first") <= 11
    assert not FairTurns[str]()


def test_nobody_is_remembered_who_has_gone() -> None:
    turns = FairTurns[int]()
    for number in range(1_000):
        turns.add(f"node {number}", 10, number)
        assert turns.next() == (10, number)
    assert len(turns._had) < 20
    turns.skip("node 3", 10)


@pytest.mark.parametrize(
    ("rate", "most", "piece"),
    [
        (None, MAX_BODY, MAX_BODY),
        (10**9, MAX_BODY, MAX_BODY),
        (5 * MIB, MAX_BODY, MAX_BODY // 2),
        (10_000, MAX_BODY, BLOCK),
        (10_000, BLOCK // 2, BLOCK // 2),
    ],
)
def test_pieces_are_short_where_the_rate_is_low(rate: int | None, most: int, piece: int) -> None:
    assert piece_bytes(rate, most) == piece
