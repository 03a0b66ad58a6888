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


def test_a_burst_of_one_moment_is_no_rate() -> None:
    delivery = Delivery(0.5)
    delivery.asked(0.0)
    delivery.came(MIB, 0.2)  # sooner than the round trip that was measured
    rate = delivery.rate(0.2)
    assert rate is not None
    assert rate <= MIB / 0.02
