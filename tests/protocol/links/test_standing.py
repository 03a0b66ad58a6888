"""Who stays goes before newcomers, also when it comes again; who leaves what it asked for does not."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.limits import (
    MAX_USAGE_ACCOUNTS,
    SETTLED_SECONDS,
    STANDING_SECONDS,
    WASTE_HALF_LIFE,
    WASTE_LEAST,
)
from kachery_p2p.protocol.links.standing import Standings

NOW = SETTLED_SECONDS


@pytest.fixture
def standings() -> Standings:
    """One peer has been linked for long enough."""
    standings = Standings()
    standings.linked("member", 0.0, NOW)
    return standings


def test_a_link_that_lasts_gives_a_standing_that_outlives_it(standings: Standings) -> None:
    assert standings.stays("member", NOW)
    assert standings.stays("member", NOW + STANDING_SECONDS)
    assert not standings.stays("member", NOW + STANDING_SECONDS + 1)
    standings.kept("member", NOW + STANDING_SECONDS + 1)
    assert not standings.stays("member", NOW + STANDING_SECONDS + 1)


def test_an_attacker_that_comes_again_and_again_is_a_newcomer_each_time() -> None:
    standings = Standings()
    for second in range(600):
        standings.linked("attacker", second - SETTLED_SECONDS / 3, float(second))
        assert not standings.stays("attacker", float(second))


@pytest.mark.parametrize(
    ("links", "kept", "stays"),
    [(1, 0, True), (2, 0, False), (2, WASTE_LEAST, True), (20, WASTE_LEAST, False)],
)
def test_who_leaves_most_of_what_it_asked_for_loses_it(
    standings: Standings, links: int, kept: int, stays: bool
) -> None:
    """One link that breaks is nobody's fault."""
    for _ in range(kept):
        standings.kept("member", NOW)
    for _ in range(links):
        standings.wasted("member", NOW, 500)
    assert standings.stays("member", NOW) is stays


def test_an_attacker_that_has_lost_it_gets_it_back_when_that_is_forgotten(
    standings: Standings,
) -> None:
    for _ in range(2):
        standings.wasted("member", NOW, 500)
    standings.linked("member", 0.0, NOW + 1)
    assert not standings.stays("member", NOW + 1)
    later = NOW + 3 * WASTE_HALF_LIFE
    standings.linked("member", 0.0, later)
    assert standings.stays("member", later)


def test_who_comes_under_ever_new_names_pushes_out_nobody_who_stays(standings: Standings) -> None:
    for number in range(2 * MAX_USAGE_ACCOUNTS):
        standings.wasted(f"attacker {number}", NOW + 1)
    assert len(standings) <= MAX_USAGE_ACCOUNTS
    assert standings.stays("member", NOW + 1)
