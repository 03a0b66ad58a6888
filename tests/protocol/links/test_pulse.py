"""When a link is pinged, when it is dead, and the round-trip time that it tells."""

from __future__ import annotations

from kachery_p2p.protocol.limits import (
    DEAD_SECONDS,
    PING_SECONDS,
    RTT_SECONDS,
    SUSPECT_SECONDS,
    SUSPECT_TRIPS,
)
from kachery_p2p.protocol.links.pulse import Pulse


def test_the_round_trip_is_the_least_of_the_last_minute() -> None:
    now, pulse, told = 1_000.0, Pulse(1_000.0), []
    for pause, seconds in [
        (0, 0.010),
        (15, 2.101),
        (15, 0.040),
        (15, 0.030),
        (30, 0.050),
        (61, 0.2),
    ]:
        now += pause
        token = pulse.ping(now - seconds)
        pulse.pong(token, now)
        told.append(round(pulse.rtt or 0.0, 6))
    assert told == [0.010, 0.010, 0.010, 0.010, 0.030, 0.2]


def test_what_is_remembered_of_round_trips_is_bounded() -> None:
    pulse = Pulse(0.0)
    for number in range(1_000):
        pulse.pong(pulse.ping(0.0), 0.001 * number)
    assert pulse.rtt == 0.0
    assert len(pulse._rtts) <= 64


def test_pongs_count_in_their_order_and_once() -> None:
    pulse = Pulse(0.0)
    first, second = pulse.ping(0.0), pulse.ping(1.0)
    assert pulse.pong(second, 2.0) is None, "it was sent after one that is unanswered"
    assert pulse.pong(first, 2.0) == 2.0
    assert pulse.pong(first, 3.0) is None
    assert pulse.pong(second, 3.0) == 2.0
    assert pulse.pong(second + 1, 3.0) is None, "it was never sent"


def test_a_silent_link_is_pinged_once_and_then_dead() -> None:
    pulse = Pulse(0.0)
    assert not pulse.is_due(PING_SECONDS - 0.1)
    assert pulse.is_due(PING_SECONDS)
    pulse.ping(PING_SECONDS)
    assert not pulse.is_due(DEAD_SECONDS)
    assert pulse.is_dead(DEAD_SECONDS)


def test_a_busy_link_is_measured_now_and_then() -> None:
    pulse = Pulse(0.0)
    pulse.heard(RTT_SECONDS)
    assert pulse.is_due(RTT_SECONDS)
    pulse.pong(pulse.ping(RTT_SECONDS), RTT_SECONDS + 0.1)
    pulse.heard(RTT_SECONDS + 1)
    assert not pulse.is_due(RTT_SECONDS + 1)


def test_a_link_is_doubtful_while_a_ping_is_unanswered_and_nothing_else_comes() -> None:
    pulse = Pulse(0.0)
    assert not pulse.is_doubtful(DEAD_SECONDS), "nobody has asked"
    token = pulse.ping(100.0)
    assert pulse.doubtful_in(100.0) == SUSPECT_SECONDS
    assert not pulse.is_doubtful(100.0 + SUSPECT_SECONDS - 0.01)
    assert pulse.is_doubtful(100.0 + SUSPECT_SECONDS)
    pulse.heard(100.0 + SUSPECT_SECONDS)
    assert not pulse.is_doubtful(100.0 + 2 * SUSPECT_SECONDS - 0.01), "a busy peer is no silent one"
    assert pulse.is_doubtful(100.0 + 2 * SUSPECT_SECONDS)
    pulse.pong(token, 200.0)
    assert not pulse.is_doubtful(300.0)


def test_where_round_trips_are_long_a_link_is_doubtful_later() -> None:
    pulse = Pulse(0.0)
    pulse.pong(pulse.ping(0.0), 1.0)
    pulse.heard(1.0)
    pulse.ping(1.0)
    assert not pulse.is_doubtful(1.0 + SUSPECT_SECONDS)
    assert pulse.is_doubtful(1.0 + SUSPECT_TRIPS * 1.0)


def test_the_next_ping_is_when_nothing_came_or_none_was_sent_for_long() -> None:
    pulse = Pulse(0.0)
    assert pulse.next_ping(0.0) == PING_SECONDS
    pulse.heard(8.0)
    assert pulse.next_ping(8.0) == RTT_SECONDS - 8.0
    for now in (0.0, 5.0, 14.0, 20.0):
        assert (pulse.next_ping(now) == 0.0) == pulse.is_due(now)
