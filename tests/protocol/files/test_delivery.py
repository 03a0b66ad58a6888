"""How fast a source gives, and whether it is silent: by what came and when."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol.files.delivery import Delivery
from kachery_p2p.protocol.limits import MIB, SILENCE_SECONDS, SILENCE_TRIPS


def given(rate: float, seconds: float, rtt: float = 0.0, piece: int = MIB) -> Delivery:
    """One that gave at this rate, from 0 on."""
    delivery = Delivery(rtt)
    delivery.asked(0.0)
    for number in range(1, int(seconds * rate / piece) + 1):
        delivery.came(piece, rtt + number * piece / rate)
    return delivery


@pytest.mark.parametrize("rate", [1e5, 1e6, 1e7, 5e8])
@pytest.mark.parametrize("rtt", [0.0, 0.2])
def test_a_steady_rate_is_measured_whatever_the_round_trip(rate: float, rtt: float) -> None:
    piece = min(MIB, int(rate / 10))
    delivery = given(rate, 3, rtt, piece)
    assert delivery.rate(rtt + 3) == pytest.approx(rate, rel=0.1)


def test_nothing_is_known_before_anything_came() -> None:
    delivery = Delivery(0.1)
    assert delivery.rate(5.0) is None
    delivery.asked(5.0)
    assert delivery.rate(5.1) is None


def test_the_rate_falls_while_nothing_comes_and_stays_while_nothing_is_asked() -> None:
    delivery = given(1e7, 3)
    full = delivery.rate(3)
    later = delivery.rate(6)
    assert full is not None
    assert later is not None
    assert later < full / 10
    delivery.idle()
    assert delivery.rate(1_000) == pytest.approx(full, rel=0.2)


def test_it_follows_a_change_within_seconds() -> None:
    delivery = given(1e7, 3)
    for number in range(1, 21):
        delivery.came(MIB // 10, 3 + number * 0.1048576)
    rate = delivery.rate(5.1)
    assert rate is not None
    assert 1e6 < rate < 3.3e6, "of what was before, a quarter counts"


@pytest.mark.parametrize("rtt", [0.0, 0.1, 2.0])
def test_it_is_silent_after_two_seconds_or_four_round_trips(rtt: float) -> None:
    delivery = Delivery(rtt)
    assert not delivery.is_silent(1e6), "nothing was asked"
    delivery.asked(10.0)
    delivery.asked(11.0)
    until = 10 + max(SILENCE_SECONDS, SILENCE_TRIPS * rtt)
    assert not delivery.is_silent(until)
    assert delivery.is_silent(until + 0.01)
    delivery.came(1, until)
    assert not delivery.is_silent(until + 0.01)
    delivery.idle()
    assert not delivery.is_silent(1e6)


def test_who_has_become_slow_is_known_to_be_long_before_the_average_says_it() -> None:
    delivery = given(1e7, 5)
    assert (delivery.least_rate(5.0) or 0.0) > 0.8 * (delivery.rate(5.0) or 0.0)
    for tenth in range(1, 16):
        delivery.came(10_000, 5.0 + tenth / 10)
    average, least = delivery.rate(6.5) or 0.0, delivery.least_rate(6.5) or 0.0
    assert average > 3e6
    assert least < 4e5
    assert Delivery(0.1).least_rate(1.0) is None


def test_a_burst_of_one_moment_is_no_rate() -> None:
    delivery = Delivery(0.5)
    delivery.asked(0.0)
    delivery.came(MIB, 0.2)  # sooner than the round trip that was measured
    rate = delivery.rate(0.2)
    assert rate is not None
    assert rate <= MIB / 0.02


def test_it_is_neither_slow_nor_silent_while_we_do_not_take_what_came() -> None:
    delivery = given(1e7, 3)
    full = delivery.rate(3) or 0.0
    delivery.hold(MIB, 3.0)
    delivery.hold(MIB, 4.0)
    assert not delivery.is_silent(60.0)
    delivery.let_go(60.0)
    assert not delivery.is_silent(70.0), "another piece of it still waits"
    before = delivery.rate(70.0) or 0.0
    assert before > full
    delivery.let_go(70.0)
    for _ in range(2):
        delivery.came(MIB, 70.0)
    assert delivery.rate(70.0) == pytest.approx(before), "they counted when they came"
    assert not delivery.is_silent(70.0 + SILENCE_SECONDS)
    assert delivery.is_silent(70.1 + SILENCE_SECONDS), "from then on it is itself"


def test_what_is_held_back_for_long_is_soon_forgotten_when_it_no_longer_is() -> None:
    delivery = given(1e7, 3)
    for second in range(3, 300):
        delivery.hold(MIB, second + 0.001)
        delivery.let_go(second + 1.0)
        delivery.came(MIB, second + 1.0)
    assert 1e7 <= (delivery.rate(300.0) or 0.0) <= 1e10
    for tenth in range(1, 100):
        delivery.came(MIB, 300.0 + tenth / 10)
    assert (delivery.rate(310.0) or 0.0) < 5e7
