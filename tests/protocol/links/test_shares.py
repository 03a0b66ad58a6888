"""Shares of what is scarce: nobody takes all, nobody is refused its part, and the sums are right."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kachery_p2p.protocol.links.shares import ShareBounds, Shares

BOUNDS = ShareBounds(least=10, guaranteed=50, most=40, pool=60)


def test_one_party_takes_no_more_than_its_most() -> None:
    shares = Shares(BOUNDS)
    assert shares.take("a", 40)
    assert not shares.take("a", 1)
    assert shares.held("a") == 40


def test_all_together_draw_no_more_than_the_pool_and_each_still_gets_its_part() -> None:
    shares = Shares(BOUNDS)
    assert shares.take("a", 40)
    assert shares.take("b", 40)
    assert not shares.take("c", 10) or shares.held("c") == 10
    assert shares.take("d", 10), "what is one's own is not taken by others"
    assert shares.drawn <= BOUNDS.pool


def test_who_holds_nothing_may_take_one_item_of_any_size() -> None:
    shares = Shares(BOUNDS)
    assert shares.take("a", 40)
    assert shares.take("b", 40)
    assert shares.take("c", 1_000)
    assert not shares.take("c", 1)


def test_the_more_parties_the_smaller_the_part_of_each() -> None:
    shares = Shares(BOUNDS)
    for number in range(100):
        shares.take(str(number), 1)
    assert shares.free("new") <= BOUNDS.pool
    assert shares.total == 100


def test_what_was_not_taken_cannot_be_given_back() -> None:
    shares = Shares(BOUNDS)
    with pytest.raises(ValueError, match="more is given back"):
        shares.give("a", 1)
    shares.take("a", 5)
    with pytest.raises(ValueError, match="more is given back"):
        shares.give("a", 6)


def test_nothing_is_remembered_of_who_holds_nothing() -> None:
    shares = Shares(BOUNDS)
    for number in range(1_000):
        assert shares.take(str(number), 3)
        shares.give(str(number), 3)
    assert len(shares) == 0
    assert (shares.total, shares.drawn) == (0, 0)


class AnyOrder(RuleBasedStateMachine):
    """Any takes, forced ones and returns, against a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.shares = Shares(BOUNDS)
        self.held: dict[str, int] = {}
        self.forced = 0

    @rule(party=st.sampled_from("abcdef"), amount=st.integers(1, 50))
    def take(self, party: str, amount: int) -> None:
        first, fits = party not in self.held, amount <= self.shares.free(party)
        assert self.shares.take(party, amount) == (first or fits)
        if first or fits:
            self.held[party] = self.held.get(party, 0) + amount
            self.forced += 0 if fits else amount

    @rule(party=st.sampled_from("abcdef"), amount=st.integers(1, 20))
    def force(self, party: str, amount: int) -> None:
        self.shares.force(party, amount)
        self.held[party] = self.held.get(party, 0) + amount
        self.forced += amount

    @rule(party=st.sampled_from("abcdef"), share=st.floats(0.1, 1))
    def give(self, party: str, share: float) -> None:
        amount = int(self.held.get(party, 0) * share)
        if amount:
            self.shares.give(party, amount)
            self.held[party] -= amount
            if not self.held[party]:
                del self.held[party]

    @invariant()
    def the_sums_are_right(self) -> None:
        assert {party: self.shares.held(party) for party in self.held} == self.held
        assert self.shares.total == sum(self.held.values())
        assert len(self.shares) == len(self.held)
        assert 0 <= self.shares.drawn <= self.shares.total
        assert self.shares.drawn <= BOUNDS.pool + self.forced


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
