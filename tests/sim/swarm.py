"""One download from many simulated sources, in virtual time: the decisions of a plan, and nothing else.

A source sends its segments in turns, a piece of each, through a pipe of its own rate, in which a
little is always under way: what is stopped still takes its time. It may be slow, fall silent and come
back, lie, leave, come later, change its rate, or have a part of the file alone, which grows.

What is compared with: the time in which the honest sources that have all of the file could have given
it, each at its rate for as long as it was there, had they known everything beforehand.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from kachery_p2p.protocol.files.plan import Plan
from kachery_p2p.protocol.files.ranges import Range, common, length, merge, subtract
from kachery_p2p.protocol.limits import BLOCK, MIB, REVIEW_SECONDS, SILENCE_SECONDS, SILENCE_TRIPS

FOREVER = 1e9
_PIPE_SECONDS = 0.1
"""What is under way in a pipe, and cannot be called back."""
MAP_SECONDS = 0.25
"""So often a source that has a part is asked what it has."""


@dataclass
class Source:
    """Times are seconds, the rate is in bytes a second. ``grows``: it has a part, of so many bytes more
    each second, and ``part`` to begin with; None: it has all."""

    name: str
    rate: float
    rtt: float = 0.02
    joins: float = 0.0
    leaves: float = FOREVER
    silent_from: float = FOREVER
    silent_until: float = FOREVER
    lies_after: float = FOREVER
    slows_at: float = FOREVER
    slow_rate: float = 0.0
    part: int | None = None
    begins: int = 0
    grows: float = 0.0
    # --- as it goes
    asked: set[int] = field(default_factory=set)
    sending: dict[int, list[Range]] = field(default_factory=dict)
    pipe_free: float = 0.0
    busy: bool = False
    gone: bool = True
    sent: int = 0

    def rate_at(self, now: float) -> float:
        return self.slow_rate if now >= self.slows_at else self.rate

    def is_silent(self, now: float) -> bool:
        return self.silent_from <= now < self.silent_until

    def has(self, now: float, size: int) -> list[Range] | None:
        if self.part is None:
            return None
        there = min(size, int(self.part + self.grows * now)) // BLOCK * BLOCK
        if there >= size // BLOCK * BLOCK:
            return None
        end = self.begins + there
        wrapped = [(0, end - size)] if end > size else []
        return merge([*wrapped, (self.begins, min(end, size))])

    def could_give(self, until: float) -> float:
        """Bytes, had it always had something to give."""
        edges = [self.joins, self.leaves, self.silent_from, self.silent_until, self.slows_at]
        times = sorted({min(max(edge, 0.0), until) for edge in (*edges, 0.0, until)})
        total = 0.0
        for start, stop in itertools.pairwise(times):
            middle = (start + stop) / 2
            if self.joins <= middle < self.leaves and not self.is_silent(middle):
                total += (stop - start) * self.rate_at(middle)
        return total


@dataclass
class Outcome:
    seconds: float
    wasted: int
    """Bytes that came, and were there."""
    by: dict[str, int]
    """Bytes that each sent."""
    slowest_gap: float
    """The longest time in which nothing new came."""


class Stuck(AssertionError):
    """It went on for longer than it may."""


class Swarm:
    def __init__(self, size: int, sources: list[Source], *, me: str = "me", races: bool = True):
        self.size, self.sources = size, {each.name: each for each in sources}
        self.races = races
        self.plan = Plan(size, BLOCK if races else size, me=me, races=races)
        self.plan.set_missing([(0, size)])
        self.now = 0.0
        self.missing: list[Range] = [(0, size)]
        self.wasted = 0
        self.gap = self.progressed = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._order), what))

    def run(self, most: float) -> Outcome:
        for each in self.sources.values():
            self.at(each.joins, lambda each=each: self._join(each))  # type: ignore[misc]
            if each.leaves < FOREVER:
                self.at(each.leaves, lambda each=each: self._drop(each))  # type: ignore[misc]
        self.at(REVIEW_SECONDS, self._review)
        while self.missing:
            self.now, _, what = heapq.heappop(self._events)
            if self.now > most:
                raise Stuck(f"{length(self.missing)} of {self.size} bytes after {most:g} s")
            what()
        assert self.plan.done or not self.plan.free, "what is here is not asked for any more"
        by = {each.name: each.sent for each in self.sources.values()}
        return Outcome(self.now, self.wasted, by, self.gap)

    # --- the shell around the plan, as node/files/segments.py is -------------------------------

    def _join(self, source: Source) -> None:
        source.gone = False
        has = source.has(self.now, self.size)
        self.plan.join(source.name, self.now, rtt=source.rtt, has=has)
        if has is not None:
            self.at(self.now + MAP_SECONDS, lambda: self._ask_map(source))
        self._ask_all()

    def _ask_map(self, source: Source) -> None:
        if source.gone or source.is_silent(self.now):
            return
        has = source.has(self.now, self.size)
        self.plan.holds(source.name, has)
        if has is not None:
            self.at(self.now + MAP_SECONDS, lambda: self._ask_map(source))
        self._ask(source)

    def _drop(self, source: Source) -> None:
        """It failed."""
        if source.gone:
            return
        source.gone = True
        for ticket in list(source.asked):
            self._stop(source, ticket)
        self.plan.leave(source.name)
        self._ask_all()

    def _stop(self, source: Source, ticket: int) -> None:
        source.asked.discard(ticket)
        source.sending.pop(ticket, None)
        self.plan.give_back(ticket)

    def _review(self) -> None:
        if self.plan.crowded:
            review = self.plan.review(self.now)
            for ticket in review.stop:
                self._stop(self._owner(ticket), ticket)
            self._ask_all()
        self.at(self.now + REVIEW_SECONDS, self._review)

    def _owner(self, ticket: int) -> Source:
        return next(each for each in self.sources.values() if ticket in each.asked)

    def _ask_all(self) -> None:
        for each in self.sources.values():
            self._ask(each)

    def _ask(self, source: Source) -> None:
        if source.gone:
            return
        while (taken := self.plan.ask(source.name, self.now)) is not None:
            ticket, ranges = taken
            source.asked.add(ticket)
            source.sending[ticket] = ranges
            self._check_asked(source, ranges)
            self.at(self.now + source.rtt / 2, lambda: self._send(source))

    def _check_asked(self, source: Source, ranges: list[Range]) -> None:
        assert ranges == merge(ranges)
        assert length(ranges) > 0
        unit = BLOCK if self.races else 1
        assert all(a % unit == 0 and (b % unit == 0 or b == self.size) for a, b in ranges)
        has = source.has(self.now, self.size)
        assert has is None or not subtract(ranges, has), "it has not got that"

    # --- what a source does --------------------------------------------------------------------

    def _send(self, source: Source) -> None:
        """Put a piece into the pipe, if there is room in it."""
        if source.busy or source.gone or not source.sending:
            return
        if source.is_silent(self.now):
            if source.silent_until < FOREVER:
                self.at(source.silent_until, lambda: self._send(source))
            return
        ahead = source.pipe_free - self.now
        if ahead > _PIPE_SECONDS:
            source.busy = True

            def again() -> None:
                source.busy = False
                self._send(source)

            self.at(source.pipe_free - _PIPE_SECONDS + 1e-6, again)
            return
        ticket = next(iter(source.sending))
        ranges = source.sending.pop(ticket)
        rate = max(source.rate_at(self.now), 1.0)
        size = int(min(MIB, max(BLOCK, rate * 0.05 // BLOCK * BLOCK)))
        start = ranges[0][0]
        stop = min(ranges[0][1], (start // size + 1) * size)
        left = subtract(ranges, [(start, stop)])
        if left:
            source.sending[ticket] = left  # at the end: each segment has its turn
        source.pipe_free = max(self.now, source.pipe_free) + (stop - start) / rate
        source.sent += stop - start
        lie = self.now >= source.lies_after
        self.at(
            source.pipe_free + source.rtt / 2,
            lambda: self._arrived(source, ticket, start, stop, lie),
        )
        self._send(source)

    def _arrived(self, source: Source, ticket: int, start: int, stop: int, lie: bool) -> None:
        if source.gone or ticket not in source.asked:
            self.wasted += stop - start
            return
        if lie:
            self._drop(source)
            return
        fresh = common(self.missing, [(start, stop)])
        self.wasted += stop - start - length(fresh)
        if fresh:
            self.gap = max(self.gap, self.now - self.progressed)
            self.progressed = self.now
            self.missing = subtract(self.missing, fresh)
        for other in self.plan.came(ticket, start, stop, self.now):
            self._stop(self._owner(other), other)
        if stop >= self.plan.end_of(ticket):
            freed = self.plan.give_back(ticket)
            source.asked.discard(ticket)
            source.sending.pop(ticket, None)
            if freed:
                self._ask_all()
        self._ask(source)


# --- seeds -------------------------------------------------------------------------------------


def best_seconds(size: int, sources: list[Source]) -> float:
    """In how many seconds the honest ones that have all of it could have given it."""
    honest = [each for each in sources if each.part is None]
    low, high = 0.0, 1e7
    for _ in range(80):
        middle = (low + high) / 2
        given = sum(min(each.could_give(middle), _honest_bytes(each, size)) for each in honest)
        low, high = (low, middle) if given >= size else (middle, high)
    return high


def _honest_bytes(source: Source, size: int) -> float:
    return size if source.lies_after == FOREVER else source.could_give(source.lies_after)


def scenario(seed: int) -> tuple[int, list[Source]]:
    """A file and its sources; one of them, at least, is good, and stays."""
    rng = random.Random(seed)
    size = int(rng.choice((3, 20, 60, 150, 400)) * MIB * rng.uniform(0.6, 1.3))
    good = rng.choice((1e6, 5e6, 1e7, 4e7, 1e8))
    sources = [Source("good", good * rng.uniform(0.7, 1.3), rng.choice((0.001, 0.02, 0.2)))]
    span = size / good
    for number in range(rng.randrange(0, 7)):
        rate = good * rng.choice((1.0, 1.0, 0.5, 0.1, 0.01, 3.0)) * rng.uniform(0.7, 1.3)
        each = Source(f"s{number}", rate, rng.choice((0.001, 0.02, 0.2)))
        when = rng.uniform(0, span * 0.8)
        kind = rng.choice(
            ("as it is", "silent", "pauses", "lies", "leaves", "joins", "slows", "part")
        )
        if kind in ("silent", "pauses"):
            each.silent_from = when
        if kind == "pauses":
            each.silent_until = when + rng.uniform(0.1, 6.0)
        if kind == "lies":
            each.lies_after = when
        if kind == "leaves":
            each.leaves = when
        if kind == "joins":
            each.joins = when
        if kind == "slows":
            each.slows_at, each.slow_rate = when, rate * rng.choice((0.3, 0.01, 0.001))
        if kind == "part":
            each.part = int(size * rng.uniform(0, 0.9))
            each.begins = rng.randrange(0, size) // BLOCK * BLOCK
            each.grows = good * rng.choice((0.0, 0.3, 1.0))
        sources.append(each)
    return size, sources


def allowed(size: int, sources: list[Source]) -> float:
    """Seconds: the best, a tenth more, and what it takes to begin, and to notice a silence."""
    trips = max(each.rtt for each in sources)
    notice = max(SILENCE_SECONDS, SILENCE_TRIPS * trips)
    return best_seconds(size, sources) * 1.1 + notice + 0.5 + 6 * trips


def run_seed(seed: int) -> tuple[Outcome, float]:
    """What came of a seed, and the best there is; raises Stuck if it was too slow."""
    size, sources = scenario(seed)
    most = allowed(size, sources)
    return Swarm(size, sources, me=f"m{seed}").run(most), best_seconds(size, sources)
