"""Who has used how much of late: sums that fade, and of which there are not too many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.limits import MAX_USAGE_ACCOUNTS, USAGE_HALF_LIFE
from kachery_p2p.protocol.links.usage import Usage


def test_what_was_used_fades_by_half() -> None:
    usage = Usage()
    usage.add("a", 8.0, 100.0)
    assert usage.of("a", 100.0) == 8.0
    assert usage.of("a", 100.0 + USAGE_HALF_LIFE) == pytest.approx(4.0)
    usage.add("a", 1.0, 100.0 + USAGE_HALF_LIFE)
    assert usage.of("a", 100.0 + 2 * USAGE_HALF_LIFE) == pytest.approx(2.5)


def test_who_has_used_nothing_comes_first() -> None:
    usage = Usage()
    usage.add("a", 1.0, 0.0)
    usage.add("b", 0.5, 0.0)
    assert usage.least(["a", "b"]) == "b"
    assert usage.least(["a", "b", "new"]) == "new"


def test_who_was_away_does_not_come_first_for_as_long_as_it_was_away() -> None:
    """As soon as it has used as much as the others have of late, it waits as they do."""
    usage = Usage()
    now = 0.0
    while now < 100 * USAGE_HALF_LIFE:
        usage.add("busy", 0.1, now)
        now += 0.2
    usage.add("back", usage.of("busy", now) + 0.1, now)
    assert usage.least(["busy", "back"]) == "busy"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 10), st.floats(0, 5)), max_size=60))
def test_sums_are_never_more_than_what_was_used(steps: list[tuple[str, float, float]]) -> None:
    usage, now = Usage(), 0.0
    total: dict[str, float] = {}
    for party, amount, pause in steps:
        now += pause
        usage.add(party, amount, now)
        total[party] = total.get(party, 0.0) + amount
    for party, most in total.items():
        assert 0.0 <= usage.of(party, now) <= most * (1 + 1e-9)


def test_accounts_are_bounded_and_the_smallest_are_forgotten() -> None:
    usage = Usage()
    usage.add("glutton", 1e6, 0.0)
    for number in range(3 * MAX_USAGE_ACCOUNTS):
        usage.add(f"p{number}", 1.0, 0.0)
    assert len(usage._accounts) <= MAX_USAGE_ACCOUNTS
    assert usage.of("glutton", 0.0) == 1e6
