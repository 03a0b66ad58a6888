from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.limits import (
    CIRCUIT_CREDIT,
    CIRCUIT_CREDIT_BATCH,
    CIRCUIT_WINDOW_LEAST,
    MAX_BODY,
    MIN_BODY,
    QUEUE_SECONDS,
)
from kachery_p2p.protocol.links.pace import Pace, bulk_bytes


class Path:
    """A simulated path of constant rate and round-trip time, always with something to send."""

    def __init__(self, rate: float, rtt: float) -> None:
        self.rate, self.rtt, self.now = rate, rtt, 0.0
        self.pace = Pace(CIRCUIT_CREDIT, 0.0)
        self.free_at = 0.0
        self.flying: list[tuple[float, int]] = []
        self.delivered = 0

    @property
    def outstanding(self) -> int:
        return sum(size for _, size in self.flying)

    @property
    def queue_seconds(self) -> float:
        return max(0.0, self.free_at - self.now)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            back = [item for item in self.flying if item[0] <= self.now]
            self.flying = [item for item in self.flying if item[0] > self.now]
            self.delivered += sum(size for _, size in back)
            size = bulk_bytes(self.pace.rate)
            if self.pace.allows(size, self.outstanding, self.rtt, self.now):
                self.free_at = max(self.free_at, self.now) + size / self.rate
                self.flying.append((self.free_at + self.rtt, size))
                self.pace.sent(size)
            else:
                self.now = min(at for at, _ in self.flying)


@pytest.mark.parametrize("rate", [1.25e6, 2.5e6, 12.5e6, 1e8])
@pytest.mark.parametrize("rtt", [0.0005, 0.01, 0.02])
def test_the_road_is_filled_and_the_queue_stays_short(rate: float, rtt: float) -> None:
    path = Path(rate, rtt)
    path.run(5.0)
    before, since = path.delivered, path.now
    path.run(5.0)
    assert (path.delivered - before) / (path.now - since) > 0.8 * rate
    # Of queue, what is meant to be there, and the least window where that is more.
    least = (CIRCUIT_WINDOW_LEAST + MAX_BODY * (rate >= 1e8)) / rate
    assert path.queue_seconds <= 2 * max(QUEUE_SECONDS, least)


def test_it_follows_a_road_that_becomes_slow_and_fast_again() -> None:
    path = Path(1e8, 0.01)
    path.run(3.0)
    fast = path.pace.rate
    path.rate = 2e6
    path.run(10.0)
    assert path.pace.rate < fast / 10
    assert path.queue_seconds < 1.0
    path.rate = 1e8
    before, since = path.delivered, path.now
    path.run(10.0)
    assert (path.delivered - before) / (path.now - since) > 0.5 * path.rate


def test_a_pause_does_not_lower_the_rate() -> None:
    pace = Pace(CIRCUIT_CREDIT, 0.0)
    pace.sent(10_000_000)
    pace.window(0, 0.01, 0.1)
    rate = pace.rate
    assert rate == pytest.approx(1e8)
    for second in range(1, 60):
        assert pace.allows(1000, 0, 0.01, float(second))
    assert pace.rate == rate


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, CIRCUIT_CREDIT), st.floats(0, 10), st.floats(0, 2)), max_size=40
    )
)
def test_the_window_is_always_within_its_bounds(steps) -> None:
    pace, now, sent = Pace(CIRCUIT_CREDIT, 0.0), 0.0, 0
    for size, pause, rtt in steps:
        now += pause
        pace.sent(size)
        sent += size
        assert CIRCUIT_WINDOW_LEAST <= pace.window(min(sent, size), rtt, now) <= CIRCUIT_CREDIT
        assert pace.allows(size, 0, rtt, now)
        assert pace.rate >= 0


def test_bulk_frames_fit_the_rate() -> None:
    assert bulk_bytes(0.0) == MAX_BODY
    assert bulk_bytes(1e9) == MAX_BODY
    assert bulk_bytes(1.0) == MIN_BODY
    assert bulk_bytes(4e6) == 128 * 1024


def test_a_message_longer_than_the_window_passes_when_only_unreturned_credit_is_out() -> None:
    """Credit comes back in batches, so what seems to be under way need never become nothing."""
    pace = Pace(CIRCUIT_CREDIT, 0.0)
    long = 2 * CIRCUIT_WINDOW_LEAST
    pace.sent(1_000)
    assert pace.allows(long, 1_000, 0.1, 1.0)
    assert not pace.allows(long, CIRCUIT_CREDIT_BATCH, 0.1, 2.0)
