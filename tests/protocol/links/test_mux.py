"""Two multiplexers joined by two pipes, whatever the users of them do; and hostile frames."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol.errors import (
    Busy,
    KacheryError,
    LinkClosed,
    NotFound,
    RemoteError,
)
from kachery_p2p.protocol.limits import (
    CONTROL_PAUSE_BYTES,
    DEAD_SECONDS,
    FRAME_OVERHEAD,
    MAX_CONTROL_BYTES,
    MAX_CONTROL_QUEUE,
    MAX_HEADER,
    MAX_REQUESTS,
    MAX_STREAMS,
    PING_SECONDS,
    RTT_SECONDS,
)
from kachery_p2p.protocol.links import mux
from kachery_p2p.protocol.links.frames import (
    Bye,
    Credit,
    Data,
    End,
    Failure,
    Hello,
    Note,
    Open,
    Ping,
    Request,
    cost_of,
)
from kachery_p2p.protocol.links.mux import Mux
from kachery_p2p.protocol.links.session import TAG_BYTES
from tests.protocol.links.muxes import HELLO, as_received, drain, following, one, pair


def move(sender: Mux, receiver: Mux) -> list[mux.Event]:
    events: list[mux.Event] = []
    while (item := following(sender)) is not None:
        events += receiver.receive(item[0], as_received(*item), 0.0)
    return events


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


def test_an_end_of_the_tree_is_what_the_peer_is_told() -> None:
    a, b, number = opened()
    a.end(number, ZeroDivisionError("a bug"))
    [ended] = move(a, b)
    assert isinstance(ended, mux.Ended)
    assert isinstance(ended.error, KacheryError)
    assert ended.error.code == "remote", "its bug is not a bug of this node"
    assert "a bug" in str(ended.error)
