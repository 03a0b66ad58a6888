"""Downloads from many sources, by seed: ``scripts/sim swarm`` runs more of them."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.limits import MIB
from tests.sim.swarm import Source, Swarm, best_seconds, run_seed

CHUNK = 25
SEEDS = 200
"""``./scripts/sim swarm --seeds 10000`` runs more."""
FAST = 1e7


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_nobody_makes_a_download_slower_than_the_best_sources_alone(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_seed(seed)
        except BaseException as error:
            error.add_note(f"replay: scripts/sim swarm --start {seed} --seeds 1 --verbose")
            raise


@pytest.mark.parametrize("seed", [1584, 5474, 6249, 6798])
def test_small_shares_of_a_far_source_and_one_that_became_slow_cost_no_more(seed: int) -> None:
    """They took up to eight times the seconds that they take now."""
    run_seed(seed)


def four() -> list[Source]:
    return [Source(f"s{number}", FAST) for number in range(4)]


@pytest.mark.parametrize("rate", [1e5, 1e6])
def test_a_fifth_that_is_slow_costs_nothing(rate: float) -> None:
    without = Swarm(400_000_000, four()).run(100).seconds
    assert without < 400 / 40 * 1.02
    among = Swarm(400_000_000, [*four(), Source("slow", rate)]).run(100).seconds
    assert among < without * 1.03


def test_one_that_falls_silent_stops_nobody() -> None:
    sources = four()
    sources[1].silent_from = 3.0
    outcome = Swarm(400_000_000, sources).run(100)
    assert outcome.slowest_gap < 0.5
    assert outcome.seconds < best_seconds(400_000_000, sources) * 1.05


def test_the_only_source_that_pauses_is_waited_for() -> None:
    source = Source("only", FAST, silent_from=1.0, silent_until=20.0)
    outcome = Swarm(40 * MIB, [source]).run(60)
    assert outcome.wasted == 0
    assert outcome.seconds < 20 + 40 * MIB / FAST + 1


def test_one_that_comes_later_is_used_at_once() -> None:
    sources = [Source("first", FAST), Source("second", FAST, joins=2.0)]
    outcome = Swarm(100_000_000, sources).run(60)
    assert outcome.by["second"] > 35_000_000


def test_what_others_have_a_part_of_is_not_all_taken_from_the_one_that_has_all() -> None:
    size = 100_000_000
    sources = [
        Source("all", 3.3e6),
        Source("b", 2e7, part=0, begins=33 * MIB, grows=3.3e6),
        Source("c", 2e7, part=0, begins=66 * MIB, grows=3.3e6),
    ]
    outcome = Swarm(size, sources, me="a").run(40)
    assert outcome.by["all"] < 0.5 * size
    assert outcome.seconds < 14


@pytest.mark.parametrize("silent_from", [0.0, 0.5, 1e9])
def test_where_order_counts_a_bad_source_gives_way(silent_from: float) -> None:
    sources = [
        Source("bad", 1e5 if silent_from == 1e9 else FAST, silent_from=silent_from),
        Source("good", FAST),
    ]
    outcome = Swarm(20 * MIB, sources, races=False).run(9)
    assert outcome.seconds < 20 * MIB / FAST + 5


def test_a_seed_replays_exactly() -> None:
    assert run_seed(5) == run_seed(5)
