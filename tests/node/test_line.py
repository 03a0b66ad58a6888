"""Who is next: who stays waits for no crowd of newcomers, each of whom has used next to nothing."""

from __future__ import annotations

from collections import Counter

import pytest

from kachery_p2p.node.parties import KNOCKED, OWN_USER, STRANGERS, Line, Party
from kachery_p2p.protocol.limits import NEWCOMERS_LEAST, SETTLED_WEIGHT

CROWD = [Party(f"attacker {number}") for number in range(100)]
MEMBER = Party("member", SETTLED_WEIGHT)


@pytest.mark.parametrize("party", [MEMBER, OWN_USER])
def test_a_hundred_attackers_leave_four_of_five_places_to_who_stays(party: Party) -> None:
    """However much that one has used already."""
    line: Line[str] = Line()
    line.used(party, 1_000.0, 0.0)
    for number in range(1_000):
        line.add(CROWD[number % 100], "attack")
        line.add(party, "work")
    taken = [line.take() for _ in range(500)]
    done = Counter(each[1] for each in taken if each is not None)
    assert done == {"work": 500 * (1 - NEWCOMERS_LEAST), "attack": 500 * NEWCOMERS_LEAST}


def test_newcomers_have_all_that_is_left_and_take_turns() -> None:
    line: Line[int] = Line()
    for number in range(300):
        line.add(CROWD[number % 3], number)
    count: Counter[str] = Counter()
    for now in range(30):
        taken = line.take()
        assert taken is not None
        count[taken[0].name] += 1
        line.used(taken[0], 1.0, float(now))
    assert set(count.values()) == {10}


def test_among_those_who_stay_the_one_that_has_used_least_is_next() -> None:
    line: Line[str] = Line()
    greedy = Party("greedy", SETTLED_WEIGHT)
    for _ in range(100):
        line.add(greedy, "much")
    line.used(greedy, 1.0, 0.0)
    line.add(MEMBER, "little")
    assert line.take() == (MEMBER, "little")


def test_what_does_not_suit_stays_where_it_is() -> None:
    line: Line[str] = Line()
    for thing in ("a", "b", "c"):
        line.add(MEMBER, thing)
    assert line.take(lambda thing: thing == "b") == (MEMBER, "b")
    assert line.take(lambda thing: thing == "b") is None
    line.add(MEMBER, "first", first=True)
    line.remove(MEMBER, "c")
    assert line.clear() == ["first", "a"]
    assert not line
    with pytest.raises(KeyError):
        line.remove(MEMBER, "a")


@pytest.mark.parametrize("party", [STRANGERS, KNOCKED, CROWD[0]])
def test_who_is_a_newcomer(party: Party) -> None:
    assert party.new


@pytest.mark.parametrize("party", [MEMBER, OWN_USER])
def test_who_is_none(party: Party) -> None:
    assert not party.new
