"""Two honest ends that do anything in any order, against a model of what must arrive."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kachery_p2p.protocol.errors import (
    NotFound,
)
from kachery_p2p.protocol.links import mux
from kachery_p2p.protocol.links.frames import (
    Data,
    cost_of,
)
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.protocol.links.muxes import as_received, following, pair

# --- two honest ends, doing anything in any order ---------------------------------------------

pick = st.integers(0, 1 << 16)


class TwoEnds(RuleBasedStateMachine):
    """Invariants are checked as frames arrive; between honest ends nothing is ever a violation."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = pair()
        self.pipes: tuple[deque[Any], deque[Any]] = (deque(), deque())
        self.sent: dict[tuple[int, int], list[int]] = {}
        self.got: dict[tuple[int, int], list[int]] = {}
        self.granted: Counter[tuple[int, int]] = Counter()
        self.used: Counter[tuple[int, int]] = Counter()
        self.closed: dict[tuple[int, int], bool] = {}  # who ended it first: was it a good end
        self.heard_end: set[tuple[int, int]] = set()
        self.streams: tuple[list[int], list[int]] = ([], [])
        self.asked: tuple[dict[int, Any], dict[int, Any]] = ({}, {})
        self.to_answer: tuple[list[int], list[int]] = ([], [])
        self.count = 0

    def stream(self, side: int, place: int) -> int | None:
        known = [n for n in self.streams[side] if (side, n) not in self.closed]
        known = [n for n in known if (side, n) not in self.heard_end]
        return known[place % len(known)] if known else None

    @rule(side=st.integers(0, 1), credit=st.integers(0, 2_000))
    def open(self, side: int, credit: int) -> None:
        number = self.ends[side].open("m", None, group=credit % 3, credit=credit)
        self.streams[side].append(number)
        self.granted[side, number] += credit

    @rule(side=st.integers(0, 1), place=pick, size=st.integers(0, 500))
    def send(self, side: int, place: int, size: int) -> None:
        number = self.stream(side, place)
        if number is None or not self.ends[side].can_send(number, size + TAG_BYTES):
            return
        self.count += 1
        self.ends[side].send(number, self.count, b"x" * size)
        self.sent.setdefault((side, number), []).append(self.count)
        self.used[1 - side, number] += cost_of(size + TAG_BYTES)

    @rule(side=st.integers(0, 1), place=pick, more=st.integers(1, 2_000))
    def grant(self, side: int, place: int, more: int) -> None:
        number = self.stream(side, place)
        if number is not None:
            self.ends[side].grant(number, more)
            self.granted[side, number] += more

    @rule(side=st.integers(0, 1), place=pick, good=st.booleans())
    def end(self, side: int, place: int, good: bool) -> None:
        number = self.stream(side, place)
        if number is not None:
            self.closed[side, number] = good
            self.ends[side].end(number, None if good else NotFound(what="x", detail="y"))

    @rule(side=st.integers(0, 1))
    def ask(self, side: int) -> None:
        number = self.ends[side].request("m", None)
        self.asked[side][number] = None

    @rule(side=st.integers(0, 1), place=pick, good=st.booleans())
    def answer(self, side: int, place: int, good: bool) -> None:
        if self.to_answer[side]:
            number = self.to_answer[side].pop(place % len(self.to_answer[side]))
            if good:
                self.ends[side].respond(number, number)
            else:
                self.ends[side].fail(number, NotFound(what="x", detail="y"))

    @rule(side=st.integers(0, 1), place=pick)
    def abandon(self, side: int, place: int) -> None:
        if self.asked[side]:
            number = sorted(self.asked[side])[place % len(self.asked[side])]
            del self.asked[side][number]
            self.ends[side].abandon(number)

    @rule(side=st.integers(0, 1))
    def ping(self, side: int) -> None:
        self.ends[side].ping(0.0)

    @rule(side=st.integers(0, 1), times=st.integers(1, 5))
    def take(self, side: int, times: int) -> None:
        for _ in range(times):
            control = bool(self.ends[side].control)
            item = following(self.ends[side])
            if item is None:
                return
            assert isinstance(item[0], Data) <= (not control), "bulk went before control"
            self.pipes[side].append(item)

    @precondition(lambda self: any(self.pipes))
    @rule(side=st.integers(0, 1), times=st.integers(1, 5))
    def arrive(self, side: int, times: int) -> None:
        for _ in range(min(times, len(self.pipes[side]))):
            frame, body = self.pipes[side].popleft()
            for event in self.ends[1 - side].receive(frame, as_received(frame, body), 0.0):
                self.happened(1 - side, event)

    def happened(self, side: int, event: mux.Event) -> None:
        match event:
            case mux.Opened(number, _, _):
                self.streams[side].append(number)
            case mux.Received(number, meta, _, _):
                assert (side, number) not in self.heard_end
                self.got.setdefault((side, number), []).append(meta)
            case mux.Ended(number, error):
                if number in self.to_answer[side]:
                    self.to_answer[side].remove(number)
                    return
                assert (side, number) not in self.heard_end, "an end is told once"
                self.heard_end.add((side, number))
                assert (error is None) == self.closed[1 - side, number]
            case mux.Requested(number, _, _):
                self.to_answer[side].append(number)
            case mux.Responded(number, result):
                assert result == number
                del self.asked[side][number]
            case mux.Failed(number, _):
                del self.asked[side][number]

    @invariant()
    def nobody_sent_more_than_was_granted(self) -> None:
        for key, used in self.used.items():
            assert used <= self.granted[key]

    @invariant()
    def what_arrived_is_the_beginning_of_what_was_sent(self) -> None:
        for (side, number), got in self.got.items():
            assert got == self.sent[1 - side, number][: len(got)]

    def teardown(self) -> None:
        while any(self.pipes) or any(end.control or end._bulk for end in self.ends):
            for side in (0, 1):
                self.take(side, 100)
                self.arrive(side, 1_000)
        for (side, number), good in self.closed.items():
            other = (1 - side, number)
            assert other in self.heard_end or other in self.closed, "an end was lost"
            if good and other not in self.closed:
                assert self.got.get(other, []) == self.sent.get((side, number), [])
        for side in (0, 1):
            assert set(self.asked[side]) == set(self.to_answer[1 - side])
            for number in self.streams[side]:
                ended = (side, number) in self.closed or (side, number) in self.heard_end
                assert ended == (number not in self.ends[side]._streams)


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
