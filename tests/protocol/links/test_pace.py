"""The pace of a link, over a simulated path: a bottleneck with a queue, a delay, and other traffic."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.limits import (
    MAX_BODY,
    MAX_PROBES,
    MIN_BODY,
    MIN_FRAGMENT,
    QUEUE_SECONDS,
    WINDOW_FIRST,
    WINDOW_LEAST,
    WINDOW_MOST,
)
from kachery_p2p.protocol.links.pace import PROBE_SECONDS, Pace, bulk_bytes, fragment_bytes


@dataclass(eq=False)
class Sender:
    """Who has always something to send, between ``begins`` and ``ends``."""

    pace: Pace
    begins: float = 0.0
    ends: float = float("inf")
    answers: bool = True
    lie: float = 0.0
    """Seconds by which its peer answers later than it could; earlier, if negative."""
    arrived: int = 0
    longest: float = 0.0
    queues: list[float] = field(default_factory=list)


class Bottleneck:
    """All senders share one first-in-first-out queue of ``rate`` bytes a second; there and back takes
    ``rtt`` seconds, and ``jitter`` more at random, in order."""

    def __init__(self, rate: float, rtt: float, *, jitter: float = 0.0, seed: int = 0) -> None:
        self.rate, self.rtt, self.jitter, self.now = rate, rtt, jitter, 0.0
        self.rng = random.Random(seed)
        self.senders: list[Sender] = []
        self._free_at = 0.0
        self._events: list[tuple[float, int, Sender, int, bool]] = []
        self._count = 0
        self._last: dict[Sender, float] = {}

    def add(self, **options: float | bool) -> Sender:
        sender = Sender(Pace(self.now, self.rtt), **options)  # type: ignore[arg-type]
        self.senders.append(sender)
        return sender

    def run(self, until: float) -> None:
        while self.now < until:
            for sender in sorted(self.senders, key=lambda each: each.pace.under_way):
                self._fill(sender)
            begin = min((x.begins for x in self.senders if x.begins > self.now), default=until)
            if not self._events or min(self._events[0][0], begin) >= until:
                self.now = until
                return
            if begin < self._events[0][0]:
                self.now = begin
                continue
            self.now, _, sender, size, ping = heapq.heappop(self._events)
            if not ping:
                sender.arrived += size
            elif sender.answers and sender.pace.waits:
                sender.pace.answered(self.now)
                sender.queues.append(sender.pace.queue)

    def _fill(self, sender: Sender) -> None:
        pace = sender.pace
        while sender.begins <= self.now < sender.ends and pace.allows:
            size = fragment_bytes(pace.rate)
            pace.sent(size)
            came = self._carry(size)
            self._later(came + self.rtt / 2, sender, size, ping=False)
            if pace.due:
                pace.probe(self.now)
                at = max(self.now, came + self.rtt + self.rng.random() * self.jitter + sender.lie)
                self._last[sender] = at = max(at, self._last.get(sender, 0.0))
                self._later(at, sender, 0, ping=True)
            if pace.window <= WINDOW_MOST:
                sender.longest = max(sender.longest, self.queue)
        if pace.due:
            pace.probe(self.now)
            self._later(max(self._free_at, self.now) + self.rtt + sender.lie, sender, 0, ping=True)

    @property
    def queue(self) -> float:
        return max(0.0, self._free_at - self.now)

    def _carry(self, size: int) -> float:
        self._free_at = max(self._free_at, self.now) + size / self.rate
        return self._free_at

    def _later(self, at: float, sender: Sender, size: int, *, ping: bool) -> None:
        self._count += 1
        heapq.heappush(self._events, (at, self._count, sender, size, ping))


def carried(path: Bottleneck, sender: Sender, seconds: float) -> float:
    """The share of the path's rate that a sender gets in the next seconds."""
    before = sender.arrived
    path.run(path.now + seconds)
    return (sender.arrived - before) / seconds / path.rate


MBIT = 125_000.0
PATHS = [
    (10, 0.001),
    (10, 0.05),
    (10, 0.2),
    (100, 0.001),
    (100, 0.05),
    (880, 0.001),
    (880, 0.05),
    (880, 0.2),
]


@pytest.mark.parametrize(("mbit", "rtt"), PATHS)
def test_the_road_is_filled_and_the_queue_stays_short(mbit: float, rtt: float) -> None:
    path = Bottleneck(mbit * MBIT, rtt)
    sender = path.add()
    path.run(5.0)
    sender.longest = 0.0
    assert carried(path, sender, 9.0) > 0.95
    assert sender.longest < 0.13
    assert path.queue < 0.05


@pytest.mark.parametrize(("mbit", "rtt"), PATHS)
def test_it_is_filled_soon(mbit: float, rtt: float) -> None:
    path = Bottleneck(mbit * MBIT, rtt)
    sender = path.add()
    path.run(15 * rtt)
    assert carried(path, sender, max(0.2, 5 * rtt)) > 0.8


@pytest.mark.parametrize("jitter", [0.002, 0.02])
def test_answers_that_come_unevenly_cost_little(jitter: float) -> None:
    path = Bottleneck(100 * MBIT, 0.02, jitter=jitter)
    sender = path.add()
    path.run(5.0)
    assert carried(path, sender, 10.0) > 0.85


@pytest.mark.parametrize("rtt", [0.001, 0.05, 0.2])
def test_it_follows_a_road_that_becomes_slow_and_fast_again(rtt: float) -> None:
    path = Bottleneck(100 * MBIT, rtt)
    sender = path.add()
    path.run(5.0)
    path.rate = 10 * MBIT
    path.run(path.now + 5.0 + 10 * rtt)
    sender.longest = 0.0
    assert carried(path, sender, 5.0) > 0.9
    assert sender.longest < 0.13
    path.rate = 100 * MBIT
    path.run(path.now + 2.0 + 20 * rtt)
    assert carried(path, sender, 5.0) > 0.9


@pytest.mark.parametrize(("before", "after"), [(0.005, 0.2), (0.2, 0.005), (0.05, 0.1)])
def test_it_follows_a_road_that_becomes_longer_or_shorter(before: float, after: float) -> None:
    path = Bottleneck(100 * MBIT, before)
    sender = path.add()
    path.run(5.0)
    path.rtt = after
    path.run(path.now + 6.0)
    sender.longest = 0.0
    assert carried(path, sender, 5.0) > 0.85
    assert sender.longest < 0.13


@pytest.mark.parametrize("rtt", [0.001, 0.05])
@pytest.mark.parametrize("mbit", [10, 100])
def test_two_share_a_road_and_the_second_is_not_starved(mbit: float, rtt: float) -> None:
    path = Bottleneck(mbit * MBIT, rtt)
    first, second = path.add(), path.add(begins=3.0)
    path.run(20.0)
    before = first.arrived, second.arrived
    path.run(50.0)
    got = [
        (now - then) / 30 / path.rate
        for now, then in zip((first.arrived, second.arrived), before, strict=True)
    ]
    assert sum(got) > 0.9
    assert min(got) > 0.2
    assert path.queue < 0.3  # each takes some of the other's queue for its path


def test_a_peer_that_answers_nothing_gets_the_first_window_and_no_more() -> None:
    path = Bottleneck(100 * MBIT, 0.01)
    sender = path.add(answers=False)
    path.run(60.0)
    assert sender.arrived <= WINDOW_FIRST + MIN_BODY
    assert sender.pace.oldest(path.now) > 50


@pytest.mark.parametrize("lie", [-1.0, 0.5])
def test_a_peer_that_lies_about_delays_harms_its_own_link(lie: float) -> None:
    """Answers before it has anything, or late. Each link has its own way here, as the mux gives it."""
    path = Bottleneck(100 * MBIT, 0.02)
    liar = path.add(lie=lie)
    path.run(20.0)
    assert liar.pace.under_way <= WINDOW_MOST + MAX_BODY
    assert len(liar.queues) < 1_000_000
    if lie > 0:
        assert carried(path, liar, 5.0) > 0.01


def test_the_round_trip_is_measured_anew_without_its_queue() -> None:
    """What a long transfer takes for the path must not become its own queue."""
    path = Bottleneck(100 * MBIT, 0.02, jitter=0.004)
    sender = path.add()
    for _ in range(10):
        path.run(path.now + PROBE_SECONDS + 1)
        assert sender.pace.rtt is not None
        assert sender.pace.rtt < 0.02 + QUEUE_SECONDS


def test_a_pause_does_not_lower_the_rate() -> None:
    path = Bottleneck(100 * MBIT, 0.02)
    sender = path.add()
    path.run(3.0)
    rate = sender.pace.rate
    pace, now = sender.pace, path.now
    while pace.waits:
        now += 0.02
        pace.answered(now)
    for second in range(1, 30):
        pace.idle()
        pace.sent(MIN_FRAGMENT)
        assert pace.allows
        pace.probe(now + second)
        pace.answered(now + second + 0.02)
    assert pace.rate == pytest.approx(rate, rel=0.3)
    assert pace.window > 0.9 * rate * 0.02


steps = st.tuples(
    st.sampled_from(["sent", "probe", "answered", "idle"]),
    st.integers(0, 2 * MAX_BODY),
    st.floats(0, 3),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(steps, max_size=60))
def test_the_window_is_always_within_its_bounds_and_opens_again(made) -> None:
    pace, now = Pace(0.0), 0.0
    for what, size, pause in made:
        now += pause
        if what == "sent":
            pace.sent(size)
        elif what == "idle":
            pace.idle()
        elif what == "probe" and pace.due:
            pace.probe(now)
        elif what == "answered" and pace.waits:
            assert pace.answered(now) >= 0
        assert WINDOW_LEAST <= pace.window <= WINDOW_MOST
        assert pace.rate >= 0
        assert 0 <= pace.oldest(now) <= now
        assert pace.allows or pace.waits or pace.due, "nothing would ever be sent again"
    for _ in range(2 * MAX_PROBES):
        now += 1.0
        if pace.due:
            pace.probe(now)
        if pace.waits:
            pace.answered(now)
    assert pace.allows


def test_pings_that_measure_are_few() -> None:
    path = Bottleneck(880 * MBIT, 0.2)
    sender = path.add()
    path.run(5.0)
    before = len(sender.queues)
    path.run(10.0)
    assert len(sender.queues) - before < 5 / 0.2 * MAX_PROBES


def test_bulk_is_cut_for_the_rate() -> None:
    assert bulk_bytes(0.0) == MIN_BODY
    assert bulk_bytes(1e9) == MAX_BODY
    assert bulk_bytes(26.3e6) == 4 * MIN_BODY
    assert fragment_bytes(0.0) == MIN_FRAGMENT
    assert fragment_bytes(1.25e6) == MIN_FRAGMENT
    assert fragment_bytes(13.2e6) == 2 * MIN_BODY
    assert fragment_bytes(1e9) == MAX_BODY
