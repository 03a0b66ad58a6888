"""Two multiplexers joined by two pipes, whatever the users of them do; and hostile frames."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kachery_p2p.protocol.errors import (
    Busy,
    KacheryError,
    LinkClosed,
    NotFound,
    ProtocolViolation,
    RemoteError,
)
from kachery_p2p.protocol.limits import (
    CONTROL_PAUSE_BYTES,
    DEAD_SECONDS,
    FRAME_OVERHEAD,
    MAX_BODY,
    MAX_CONTROL_BYTES,
    MAX_CONTROL_QUEUE,
    MAX_HEADER,
    MAX_RELAY_TAIL,
    MAX_REQUESTS,
    MAX_STREAMS,
    PING_SECONDS,
    RTT_SECONDS,
)
from kachery_p2p.protocol.links import frames, mux
from kachery_p2p.protocol.links.frames import (
    NO_TAIL,
    OPAQUE_TAIL,
    SEALED_TAIL,
    Bye,
    Credit,
    Data,
    End,
    Failure,
    Frame,
    Hello,
    Note,
    Open,
    Ping,
    Pong,
    Request,
    Response,
    cost_of,
    decode_header,
)
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import TAG_BYTES

HELLO = Hello("test", 0.0, "", [], {})


def one(*, initiator: bool = False, greeted: bool = True) -> Mux:
    made = Mux(initiator=initiator, now=0.0)
    if greeted:
        made.receive(HELLO, None, 0.0)
    return made


def pair() -> tuple[Mux, Mux]:
    return one(initiator=True), one()


def following(sender: Mux) -> tuple[Frame, Any] | None:
    """What the sender sends next, as its receiver decodes it."""
    item = sender.next_frame()
    if item is None:
        return None
    frame, body = item
    return (decode_header(frame) if isinstance(frame, bytes) else frame), body


def drain(sender: Mux) -> list[Frame]:
    found = []
    while (item := following(sender)) is not None:
        found.append(item[0])
    return found


def move(sender: Mux, receiver: Mux) -> list[mux.Event]:
    events: list[mux.Event] = []
    while (item := following(sender)) is not None:
        events += receiver.receive(item[0], _wire(*item), 0.0)
    return events


def _wire(frame: Frame, body: Any) -> Any:
    """What a session would hand to the receiver; the body of a sealed tail does not matter here."""
    return None if body is None else memoryview(bytes(body))


# --- requests ---------------------------------------------------------------------------------


def test_a_request_gets_its_answer() -> None:
    a, b = pair()
    number = a.request("m", {"x": 1})
    assert move(a, b) == [mux.Requested(number, "m", {"x": 1})]
    b.respond(number, [2])
    assert move(b, a) == [mux.Responded(number, [2])]
    assert a.idle
    assert b.idle


def test_a_request_gets_its_error() -> None:
    a, b = pair()
    number = a.request("m", None)
    move(a, b)
    b.fail(number, NotFound(what="x", detail="y"))
    [failed] = move(b, a)
    assert isinstance(failed, mux.Failed)
    assert isinstance(failed.error, NotFound)
    assert failed.error.fields == {"what": "x", "detail": "y"}


def test_a_request_is_answered_once() -> None:
    a, b = pair()
    number = a.request("m", None)
    move(a, b)
    b.respond(number, 1)
    b.respond(number, 2)
    b.fail(number, NotFound(what="x", detail="y"))
    assert move(b, a) == [mux.Responded(number, 1)]


def test_an_abandoned_request_is_cancelled_there_and_its_late_answer_ignored_here() -> None:
    a, b = pair()
    number = a.request("m", None)
    move(a, b)
    b.respond(number, "too late")
    a.abandon(number)
    assert move(a, b) == [], "it had answered already: nothing is left to cancel"
    assert move(b, a) == []

    number = a.request("m", None)
    move(a, b)
    a.abandon(number)
    [ended] = move(a, b)
    assert isinstance(ended, mux.Ended)
    assert isinstance(ended.error, RemoteError)
    assert "cancelled" in str(ended.error)
    b.respond(number, "nobody waits")
    assert move(b, a) == []


def test_more_requests_than_allowed_are_refused_on_both_sides() -> None:
    a, b = pair()
    for _ in range(MAX_REQUESTS):
        a.request("m", None)
    with pytest.raises(Busy):
        a.request("m", None)
    assert len(move(a, b)) == MAX_REQUESTS
    over = 2 * MAX_REQUESTS + 1
    assert b.receive(Request(over, "m", None), None, 0.0) == []
    [answer] = drain(b)
    assert isinstance(answer, Failure)
    assert (answer.id, answer.code) == (over, "busy")


# --- streams ----------------------------------------------------------------------------------


def opened(credit: int = 1 << 20) -> tuple[Mux, Mux, int]:
    """A stream on which the acceptor, b, may send ``credit``."""
    a, b = pair()
    number = a.open("m", None, credit=credit)
    assert move(a, b) == [mux.Opened(number, "m", None)]
    return a, b, number


def test_data_arrives_in_order_and_then_the_end() -> None:
    a, b, number = opened()
    for place in range(5):
        b.send(number, place, b"x" * place)
    b.end(number)
    events = move(b, a)
    assert [e.meta for e in events[:-1] if isinstance(e, mux.Received)] == list(range(5))
    assert events[-1] == mux.Ended(number, None)
    assert a.idle
    assert b.idle


def test_a_bad_end_overtakes_what_is_queued() -> None:
    a, b, number = opened()
    b.send(number, 0, b"x")
    b.end(number, NotFound(what="x", detail="y"))
    [ended] = move(b, a)
    assert isinstance(ended, mux.Ended)
    assert isinstance(ended.error, NotFound)


def test_credit_is_needed_to_send_and_asking_for_it_makes_the_grant_heard() -> None:
    a, b, number = opened(credit=cost_of(100 + TAG_BYTES))
    assert b.can_send(number, 100 + TAG_BYTES)
    b.send(number, None, b"x" * 100)
    assert not b.can_send(number, 0)
    with pytest.raises(ValueError, match="beyond the credit"):
        b.send(number, None, b"")
    move(b, a)
    a.grant(number, FRAME_OVERHEAD)
    assert move(a, b) == [mux.Writable(number)]
    assert b.can_send(number, 0)


def test_an_acceptor_grants_nothing_by_itself() -> None:
    a, b, number = opened()
    assert not a.can_send(number, 0)
    b.grant(number, FRAME_OVERHEAD)
    assert move(b, a) == [mux.Writable(number)]
    a.send(number, "now")
    assert [type(event) for event in move(a, b)] == [mux.Received]


def test_sending_on_an_ended_stream_says_so() -> None:
    a, b, number = opened()
    a.end(number)
    move(a, b)
    assert b.can_send(number, 1 << 30), "so that the sender goes on and hears of the end"
    with pytest.raises(LinkClosed):
        b.send(number, None, b"x")


def test_frames_that_crossed_an_end_are_ignored() -> None:
    a, b, number = opened()
    b.send(number, None, b"x")
    b.grant(number, 5)
    a.end(number)
    assert move(b, a) == []
    [ended] = move(a, b)
    assert ended == mux.Ended(number, None)
    assert a.idle
    assert b.idle


def test_more_streams_than_allowed_are_refused_on_both_sides() -> None:
    a, b = pair()
    for _ in range(MAX_STREAMS):
        a.open("m", None)
    with pytest.raises(Busy):
        a.open("m", None)
    move(a, b)
    with pytest.raises(Busy):
        b.open("m", None)
    over = 2 * MAX_STREAMS + 1
    assert b.receive(Open(over, "m", None, 0), None, 0.0) == []
    [end] = drain(b)
    assert isinstance(end, End)
    assert (end.id, end.code) == (over, "busy")
    assert b.receive(Credit(over, 5), None, 0.0) == [], "the opener could not know yet"


# --- order and fairness -----------------------------------------------------------------------


def flood(streams: dict[str, int], each: int) -> tuple[Mux, dict[int, str]]:
    """A mux with ``streams`` {group: count}, ``each`` frames waiting on every stream."""
    sender = one()
    owners = {}
    number = 1
    for group, count in streams.items():
        for _ in range(count):
            sender.receive(Open(number, "m", None, 1 << 30), None, 0.0)
            sender.set_group(number, group)
            for place in range(each):
                sender.send(number, place, b"x" * 100)
            owners[number] = group
            number += 2
    return sender, owners


def test_control_goes_before_bulk() -> None:
    sender, _ = flood({"g": 2}, 5)
    first = sender.next_frame()
    assert first is not None
    assert isinstance(first[0], Data)
    sender.note("topic", None)
    sender.request("m", None)
    sender.grant(1, 5)
    kinds = [type(frame) for frame in drain(sender)]
    assert kinds == [Note, Request, Credit] + [Data] * 9


def test_groups_share_equally_however_many_streams_each_has() -> None:
    streams = {"greedy": 50, "modest": 1, "two": 2}
    sender, owners = flood(streams, 40)
    seen: Counter[str] = Counter()
    for _ in range(3 * 40):
        item = sender.next_frame()
        assert item is not None
        assert isinstance(item[0], Data)
        seen[owners[item[0].id]] += 1
        assert max(seen.values()) - min(seen[group] for group in streams) <= 1


def test_the_streams_of_a_group_share_equally() -> None:
    sender, owners = flood({"g": 7}, 10)
    seen: Counter[int] = Counter()
    for frame in drain(sender):
        assert isinstance(frame, Data)
        seen[frame.id] += 1
        assert max(seen.values()) - min(seen[number] for number in owners) <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), min_size=1, max_size=12))
def test_nothing_is_lost_and_no_group_with_something_to_say_is_passed_over(
    loads: list[tuple[int, int]],
) -> None:
    sender = one()
    waiting: Counter[int] = Counter()
    owners = {}
    for place, (group, frames_there) in enumerate(loads):
        number = 2 * place + 1
        owners[number] = group
        sender.receive(Open(number, "m", None, 1 << 30), None, 0.0)
        sender.set_group(number, group)
        for _ in range(frames_there):
            sender.send(number, None)
        waiting[group] += frames_there
    while +waiting:
        round_of = [group for group in waiting if waiting[group]]
        served = set()
        for _ in round_of:
            item = sender.next_frame()
            assert item is not None
            assert isinstance(item[0], Data)
            served.add(owners[item[0].id])
            waiting[owners[item[0].id]] -= 1
        assert served == set(round_of)
    assert sender.next_frame() is None


def test_a_peer_that_does_not_take_control_frames_is_given_up_and_nobody_else_hears() -> None:
    sender = one()
    for _ in range(MAX_CONTROL_QUEUE):
        sender.note("topic", None)
    assert sender.overflow is None
    sender.note("topic", None)
    assert "does not read" in str(sender.overflow)
    # Whatever anybody still has to say is dropped, without a word to them.
    number = sender.request("m", None)
    sender.abandon(number)
    sender.end(sender.open("m", None))
    sender.ping(0.0)
    assert len(drain(sender)) == MAX_CONTROL_QUEUE


def test_what_a_peer_leaves_unread_is_bounded_in_bytes() -> None:
    sender = one()
    piece = bytes(MAX_HEADER - 100)
    for _ in range(MAX_CONTROL_BYTES // len(piece) + 1):
        sender.note("topic", piece)
    assert sender.overflow is not None
    assert sender.control.bytes <= MAX_CONTROL_BYTES
    sender.bye(LinkClosed(peer="x", reason="y"), at_once=True)
    assert [type(frame) for frame in drain(sender)] == [Bye], "and it holds nothing any more"


def test_pings_whose_answers_nobody_takes_are_bounded_too() -> None:
    sender = one()
    for token in range(MAX_CONTROL_QUEUE + 1):
        sender.receive(Ping(token), None, 0.0)
    assert sender.overflow is not None


def test_answers_wait_while_much_is_unread() -> None:
    sender = one()
    piece = bytes(MAX_HEADER - 100)
    while not sender.congested:
        sender.note("topic", piece)
    assert sender.control.bytes <= CONTROL_PAUSE_BYTES + MAX_HEADER
    sender.next_frame()
    assert not sender.congested


def test_a_request_that_fits_no_frame_leaves_nothing_behind() -> None:
    sender = one()
    with pytest.raises(ValueError, match="over the limit"):
        sender.request("m", bytes(MAX_HEADER))
    with pytest.raises(ValueError, match="over the limit"):
        sender.open("m", bytes(MAX_HEADER))
    assert sender.idle


def test_an_answer_that_fits_no_frame_is_that_requests_failure() -> None:
    a, b = pair()
    for result in (bytes(MAX_HEADER), 1 << 70, object()):
        number = a.request("m", None)
        move(a, b)
        b.respond(number, result)
        [failed] = move(b, a)
        assert isinstance(failed, mux.Failed)
        assert failed.id == number


def test_bye_is_the_last_word() -> None:
    sender, _ = flood({"g": 1}, 3)
    sender.bye(LinkClosed(peer="x", reason="y"))
    sender.note("after", None)
    sender.bye(NotFound(what="x", detail="y"))
    assert [type(frame) for frame in drain(sender)] == [Bye]


def test_hello_is_the_first_word() -> None:
    sender = Mux(initiator=True, now=0.0)
    sender.note("topic", None)
    sender.hello(HELLO)
    assert [type(frame) for frame in drain(sender)] == [Hello, Note]


# --- life -------------------------------------------------------------------------------------


def test_a_silent_peer_is_pinged_and_then_dead() -> None:
    a = one()
    assert a.tick(PING_SECONDS - 0.1)
    assert drain(a) == []
    assert a.tick(PING_SECONDS)
    assert a.tick(PING_SECONDS + 1)
    assert [type(frame) for frame in drain(a)] == [Ping], "one ping at a time"
    assert not a.tick(DEAD_SECONDS)


def test_an_answered_ping_gives_the_round_trip_and_life() -> None:
    a, b = pair()
    a.ping(5.0)
    [ping] = drain(a)
    assert b.receive(ping, None, 5.1) == []
    [pong] = drain(b)
    assert a.receive(pong, None, 5.25) == [mux.RoundTrip(0.25)]
    assert a.receive(pong, None, 6.0) == [], "said twice, it counts once"
    assert a.tick(6.0 + DEAD_SECONDS - 0.1)


def test_a_busy_link_is_measured_as_often_as_an_idle_one() -> None:
    a, b = pair()
    now = 0.0
    pinged = []
    while now < 4 * RTT_SECONDS:
        now += 1.0
        a.receive(Note("t", {}), None, now)
        assert a.tick(now)
        for ping in drain(a):
            pinged.append(now)
            b.receive(ping, None, now)
            a.receive(drain(b)[0], None, now)
    assert pinged == [RTT_SECONDS, 2 * RTT_SECONDS, 3 * RTT_SECONDS, 4 * RTT_SECONDS]


# --- hostile frames ---------------------------------------------------------------------------


@pytest.mark.parametrize("frame", [Ping(1), Request(1, "m", None), Note("t", None), Credit(1, 1)])
def test_nothing_is_heard_before_the_hello(frame: Frame) -> None:
    with pytest.raises(ProtocolViolation):
        one(greeted=False).receive(frame, None, 0.0)


def test_a_peer_may_leave_instead_of_greeting() -> None:
    [bye] = one(greeted=False).receive(Bye("busy", {"limit": "5 links"}), None, 0.0)
    assert isinstance(bye, mux.SaidBye)
    assert isinstance(bye.error, Busy)


def stretched(receiver: Mux) -> Mux:
    """The receiver after a peer opened stream 1 and asked 3, and it opened 2 and asked 4 itself."""
    receiver.receive(Open(1, "m", None, 100), None, 0.0)
    receiver.receive(Request(3, "m", None), None, 0.0)
    assert receiver.open("m", None, credit=1_000) == 2
    assert receiver.request("m", None) == 4
    return receiver


@pytest.mark.parametrize(
    "frame",
    [
        HELLO,
        Open(1, "again", None, 0), Open(3, "again", None, 0), Open(6, "ours", None, 0),
        Open(0, "zero", None, 0), Open(-1, "negative", None, 0), Open(5, "m", None, -1),
        Request(1, "again", None), Request(2, "ours", None), Request(-3, "negative", None),
        Response(6, None), Response(3, None), Response(1, None), Response(-2, None),
        Failure(8, "busy", {}), Failure(5, "busy", {}),
        Data(5, None, NO_TAIL, 0), Data(6, None, NO_TAIL, 0), Data(0, None, NO_TAIL, 0),
        Data(1, None, NO_TAIL, 0),
        Data(2, None, SEALED_TAIL, 1_000), Data(2, None, SEALED_TAIL, MAX_BODY + TAG_BYTES + 1),
        Data(2, None, OPAQUE_TAIL, MAX_RELAY_TAIL + 1), Data(2, None, NO_TAIL, -500),
        Credit(1, 0), Credit(1, -5), Credit(1, 1 << 50), Credit(7, 5), Credit(0, 5), Credit(-1, 5),
        End(5, "", {}), End(6, "", {}), End(0, "", {}),
    ],
    ids=repr,
)  # fmt: skip
def test_what_cannot_be_right_is_a_violation(frame: Frame) -> None:
    with pytest.raises(ProtocolViolation):
        stretched(one()).receive(frame, memoryview(b""), 0.0)


def test_credit_cannot_be_piled_up_without_end() -> None:
    receiver = stretched(one())
    receiver.receive(Credit(1, 1 << 40), None, 0.0)
    with pytest.raises(ProtocolViolation):
        receiver.receive(Credit(1, 1), None, 0.0)


def test_empty_frames_cost_credit_too() -> None:
    receiver = one()
    number = receiver.open("m", None, credit=10 * FRAME_OVERHEAD)
    for _ in range(10):
        receiver.receive(Data(number, None, NO_TAIL, 0), None, 0.0)
    with pytest.raises(ProtocolViolation):
        receiver.receive(Data(number, None, NO_TAIL, 0), None, 0.0)


wide = st.integers(-(1 << 63), (1 << 64) - 1)
ids = st.integers(-2, 12) | wide
texts = st.sampled_from(["", "busy", "m", "protocol-violation"]) | st.text(max_size=5)
anything = st.none() | wide | st.text(max_size=5) | st.lists(st.binary(max_size=4))
fields = st.dictionaries(st.text(max_size=5), anything, max_size=3)
any_frame = st.one_of(
    st.just(HELLO),
    st.builds(Request, ids, texts, anything),
    st.builds(Response, ids, anything),
    st.builds(Failure, ids, texts, fields),
    st.builds(Open, ids, texts, anything, wide),
    st.builds(Data, ids, anything, st.integers(-1, 4), st.integers(-100, 2_000) | wide),
    st.builds(Credit, ids, wide),
    st.builds(End, ids, texts, fields),
    st.builds(Note, texts, anything),
    st.builds(Ping, wide),
    st.builds(Pong, wide),
    st.builds(Bye, texts, fields),
)


@settings(max_examples=200, deadline=None)
@given(st.booleans(), st.lists(any_frame, max_size=30))
def test_arbitrary_frames_are_taken_or_a_violation_and_never_beat_the_credit(
    greeted: bool, received: list[Frame]
) -> None:
    receiver = one(greeted=greeted)
    if greeted:
        stretched(receiver)
    cost = 0
    try:
        for frame in received:
            for event in receiver.receive(frame, memoryview(b""), 0.0):
                if isinstance(event, mux.Received):
                    cost += event.cost
    except ProtocolViolation:
        pass
    assert cost <= 1_000
    for frame in drain(receiver):
        assert len(frames.encode_header(frame)) > 0


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
            for event in self.ends[1 - side].receive(frame, _wire(frame, body), 0.0):
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
        while any(self.pipes) or any(end.control or end._turn for end in self.ends):
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


def test_an_end_of_the_tree_is_what_the_peer_is_told() -> None:
    a, b, number = opened()
    a.end(number, ZeroDivisionError("a bug"))
    [ended] = move(a, b)
    assert isinstance(ended, mux.Ended)
    assert isinstance(ended.error, KacheryError)
    assert ended.error.code == "remote", "its bug is not a bug of this node"
    assert "a bug" in str(ended.error)
