"""Who is next, in what pieces, and that nothing is lost on the way."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.errors import NotFound, ProtocolViolation
from kachery_p2p.protocol.limits import FRAME_OVERHEAD, MAX_BODY, MIN_FRAGMENT
from kachery_p2p.protocol.links.bulk_queue import BulkQueue
from kachery_p2p.protocol.links.fair_queue import FairQueue
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    PART_TAIL,
    SEALED_TAIL,
    Data,
    Frame,
    cost_of,
    encode_header,
)
from kachery_p2p.protocol.links.mux import Event, Mux, Received
from kachery_p2p.protocol.links.session import TAG_BYTES, SealedBody, Session
from tests.protocol.links.muxes import decoded, drain, pair
from tests.protocol.links.records import record_of

KIB = 1024


def data(number: int, size: int, *, opaque: bool = False) -> tuple[Frame, Buffer]:
    tail, more = (OPAQUE_TAIL, 0) if opaque else (SEALED_TAIL, TAG_BYTES)
    return Data(number, None, tail, size + more), bytes(size)


def test_who_sends_little_goes_before_all_that_another_has_waiting() -> None:
    queue = BulkQueue()
    for _ in range(10):
        queue.put(1, "bulk", *data(1, 256 * KIB))
    for number in range(3):
        queue.next(MAX_BODY)
        queue.put(2, "sparse", *data(2, 100))
        frame, _ = queue.next(MAX_BODY)
        assert isinstance(frame, Data)
        assert frame.id == 2, number


@pytest.mark.parametrize("groups", [("a", "b"), ("a", "a")])
def test_parties_share_bytes_and_not_frames(groups: tuple[str, str]) -> None:
    queue = BulkQueue()
    for _ in range(100):
        queue.put(1, groups[0], *data(1, 16 * KIB))
    for _ in range(20):
        queue.put(2, groups[1], *data(2, 256 * KIB, opaque=True))
    sent: Counter[int] = Counter()
    for _ in range(60):
        frame, body = queue.next(16 * KIB)
        assert isinstance(frame, Data)
        sent[frame.id] += len(body or b"")
    assert abs(sent[1] - sent[2]) <= 256 * KIB + 100 * FRAME_OVERHEAD


def test_nobody_saves_up_turns_by_being_silent() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add("a")
    for _ in range(1_000):
        queue.charge("a", 100)
    queue.add("b")
    turns = []
    for _ in range(20):
        turns.append(queue.first())
        queue.charge(turns[-1], 100)
    assert turns.count("a") >= 9


def test_who_stops_for_a_moment_is_not_new_again() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.add("a")
    queue.add("b")
    served: Counter[str] = Counter()
    for _ in range(100):
        party = queue.first()
        queue.charge(party, 1_000 if party == "a" else 100)
        served[party] += 1_000 if party == "a" else 100
        if party == "a":  # its next frame comes a little later
            queue.remove("a")
            queue.add("a")
    assert abs(served["a"] - served["b"]) <= 1_100


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["add", "remove", "serve"]), st.integers(0, 10**6)
        ),
        max_size=300,
    )
)
def test_the_queue_remembers_little_and_serves_only_who_is_ready(steps: Any) -> None:
    queue: FairQueue[int] = FairQueue()
    ready: set[int] = set()
    for party, what, size in steps:
        if what == "add":
            queue.add(party)
            ready.add(party)
        elif what == "remove":
            queue.remove(party)
            ready.discard(party)
        elif ready:
            first = queue.first()
            assert first in ready
            queue.charge(first, size)
        assert len(queue) == len(ready)
        assert {each for each in range(6) if each in queue} == ready
        assert len(queue._heap) <= 2 * len(ready) + 65 + 300 * bool(ready)


def test_ten_thousand_that_come_and_go_leave_nothing_behind() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.add(-1)
    for party in range(10_000):
        queue.add(party)
        queue.charge(queue.first(), 10)
        queue.charge(party, 1_000_000)
        queue.remove(party)
    assert len(queue._had) <= 66
    assert len(queue._heap) <= 70


def test_an_opaque_tail_is_never_cut() -> None:
    queue = BulkQueue()
    queue.put(1, None, *data(1, 100 * KIB, opaque=True))
    frame, body = queue.next(MIN_FRAGMENT)
    assert isinstance(frame, Data)
    assert (frame.tail, len(body or b"")) == (OPAQUE_TAIL, 100 * KIB)


def test_what_is_dropped_is_not_counted_any_more() -> None:
    queue = BulkQueue()
    queue.put(1, None, *data(1, 100 * KIB))
    queue.put(1, None, Data(1, None, NO_TAIL, 0), None)
    queue.next(MIN_FRAGMENT)
    queue.drop(1)
    assert queue.bytes == 0
    assert not queue


# --- parts, from end to end -------------------------------------------------------------------

KEY = bytes(32)


def session() -> Session:
    return Session(send_key=KEY, receive_key=KEY, peer=KEY, handshake_hash=KEY)


def move(sender: Mux, receiver: Mux) -> list[Event]:
    """All that waits, through a real session."""
    there, back = session(), session()
    events: list[Event] = []
    while (item := sender.next_frame()) is not None:
        frame, body = item
        frame = decoded(frame) if isinstance(frame, bytes) else frame
        record = record_of(there.seal(), frame, body)
        for came, tail in back.open(record):
            events += receiver.receive(came, tail, 0.0)
    return events


@pytest.mark.parametrize(
    "size", [1, MIN_FRAGMENT, MIN_FRAGMENT + 1, 3 * MIN_FRAGMENT - 1, 100_000, MAX_BODY]
)
def test_a_body_in_parts_arrives_whole_and_costs_what_it_does_in_one(size: int) -> None:
    a, b = pair()
    cost = cost_of(size + TAG_BYTES)
    number = a.open("m", None, credit=cost)
    move(a, b)
    body = os.urandom(size)
    b.send(number, ["meta"], body)
    [came] = move(b, a)
    assert isinstance(came, Received)
    assert isinstance(came.body, SealedBody)
    assert (came.meta, came.cost, len(came.body)) == (["meta"], cost, size)
    assert came.body.open() == body
    assert b.bulk_bytes == 0
    assert not b.can_send(number, 0)


def test_an_error_takes_back_a_body_that_has_come_in_part() -> None:
    a, b = pair()
    number = a.open("m", None, credit=1 << 20)
    move(a, b)
    b.send(number, None, bytes(100_000))
    frame, _ = b.next_frame() or (b"", None)
    assert isinstance(frame, Data)
    assert frame.tail == PART_TAIL
    b.end(number, NotFound(what="x", detail="y"))
    [end] = drain(b)
    assert encode_header(end)
    assert b.bulk_bytes == 0
    assert not b._bulk


def hostile(*sizes: tuple[int, int]) -> None:
    """Data of these kinds and sizes on one stream."""
    a, b = pair()
    number = a.open("m", None, credit=1 << 40)
    move(a, b)
    there, back = session(), session()
    for tail, size in sizes:
        frame = Data(number, None, tail, size if tail == OPAQUE_TAIL else size + TAG_BYTES)
        for came, body in back.open(record_of(there.seal(), frame, bytes(size))):
            a.receive(came, body, 0.0)


@pytest.mark.parametrize(
    "sizes",
    [
        [(PART_TAIL, 0)],
        [(PART_TAIL, MIN_FRAGMENT - 1)],
        [(PART_TAIL, MAX_BODY)],
        [(PART_TAIL, MAX_BODY // 2), (PART_TAIL, MAX_BODY // 2)],
        [(PART_TAIL, MAX_BODY // 2), (SEALED_TAIL, MAX_BODY // 2 + 1)],
        [(PART_TAIL, MIN_FRAGMENT), (OPAQUE_TAIL, 10)],
    ],
)
def test_parts_that_are_none_or_too_long_end_the_link(sizes: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolViolation):
        hostile(*sizes)


def test_parts_up_to_the_longest_body_are_taken() -> None:
    hostile((PART_TAIL, MAX_BODY // 2), (SEALED_TAIL, MAX_BODY // 2))
