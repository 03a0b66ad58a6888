"""Time in which a process was stopped does not count as time in which nothing came."""

from __future__ import annotations

from kachery_p2p.node.naps import Naps, Patience
from kachery_p2p.protocol.limits import HOUSEKEEPING_SECONDS, STOPPED_SECONDS


def beat(naps: Naps, start: float, stop: float) -> float:
    while start < stop:
        naps.beat(start)
        start += HOUSEKEEPING_SECONDS
    return start - HOUSEKEEPING_SECONDS


def test_a_process_that_runs_has_not_slept_even_if_it_is_late() -> None:
    naps = Naps()
    last = beat(naps, 0.0, 100.0)
    late = last + HOUSEKEEPING_SECONDS + STOPPED_SECONDS
    assert naps.total(late) == 0.0
    naps.beat(late)
    assert naps.total(late + 1) == 0.0


def test_what_was_slept_is_known_before_the_next_beat_and_after_it() -> None:
    naps = Naps()
    last = beat(naps, 0.0, 100.0)
    woken = last + 60.0
    assert naps.total(woken) == 60.0 - HOUSEKEEPING_SECONDS
    naps.beat(woken)
    assert naps.total(woken + 3) == 60.0 - HOUSEKEEPING_SECONDS
    naps.beat(woken + 100)
    assert naps.total(woken + 100) == 160.0 - 2 * HOUSEKEEPING_SECONDS, "it slept again"


def test_patience_is_not_used_up_in_sleep_and_grows_with_the_first_progress() -> None:
    naps = Naps()
    last = beat(naps, 0.0, 100.0)
    patience = Patience(naps, 30.0, 90.0)
    patience.begin(last)
    assert not patience.is_over(last + 30.0 + 0)
    assert not patience.is_over(last + 1_000.0), "it was stopped all the while"
    naps.beat(last + 1_000.0)
    after = beat(naps, last + 1_000.0, last + 1_050.0)
    assert patience.is_over(after)
    patience.progressed(after)
    assert not patience.is_over(beat(naps, after, after + 80.0))
    assert patience.is_over(beat(naps, after + 80.0, after + 120.0))
