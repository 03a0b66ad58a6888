"""A knock tells who knows a channel, once, and tells nobody else anything."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol.limits import KNOCK_MARKS, KNOCK_SECONDS, MAX_CLOCK_SKEW
from kachery_p2p.protocol.links.knock import RANDOM_BYTES, Knocks, make_knock

NODE, OTHER = b"n" * 32, b"o" * 32
CHANNELS = [bytes([number]) * 32 for number in range(20)]
NOW = 1_700_000_000.0


def knock(channels: list[bytes], node: bytes = NODE, now: float = NOW) -> str:
    return make_knock(channels, node, now, os.urandom(RANDOM_BYTES))


def test_who_knows_one_of_the_channels_is_known() -> None:
    assert Knocks(NODE).opens(knock(CHANNELS[:3]), CHANNELS[2:9], NOW + 1)


def test_who_knows_none_of_them_is_not() -> None:
    knocks = Knocks(NODE)
    assert not knocks.opens(knock(CHANNELS[:3]), CHANNELS[3:], NOW)
    assert not knocks.opens(knock([]), CHANNELS, NOW)
    assert not knocks.opens(knock(CHANNELS[:1]), [], NOW)


def test_a_knock_that_was_overheard_is_worth_nothing_a_second_time() -> None:
    knocks, heard = Knocks(NODE), knock(CHANNELS[:1])
    assert knocks.opens(heard, CHANNELS, NOW)
    assert not knocks.opens(heard, CHANNELS, NOW)


def test_nor_to_another_node_nor_later() -> None:
    heard = knock(CHANNELS[:1])
    assert not Knocks(OTHER).opens(heard, CHANNELS, NOW)
    for now in (NOW + KNOCK_SECONDS + 2, NOW - KNOCK_SECONDS - 2):
        assert not Knocks(NODE).opens(heard, CHANNELS, now)
    assert Knocks(NODE).opens(heard, CHANNELS, NOW + MAX_CLOCK_SKEW - 2)


def test_it_does_not_say_how_many_channels_there_are_and_more_than_it_holds_do_no_harm() -> None:
    sizes = {len(knock(CHANNELS[:count])) for count in (0, 1, KNOCK_MARKS, 20)}
    assert len(sizes) == 1
    assert Knocks(NODE).opens(knock(CHANNELS), CHANNELS[:1], NOW)


def test_nothing_of_it_is_the_same_twice_but_the_time() -> None:
    first, second = knock(CHANNELS[:1]), knock(CHANNELS[:1])
    assert first[:8] == second[:8]
    assert first[11:] != second[11:]


@pytest.mark.parametrize(
    "text", ["", "x", "A" * 203, "!" * 203, "\N{SNOWMAN}" * 203, "A" * 100_000]
)
def test_what_is_no_knock_is_not_heard(text: str) -> None:
    assert not Knocks(NODE).opens(text, CHANNELS, NOW)


@given(st.text())
def test_no_text_raises(text: str) -> None:
    assert not Knocks(NODE).opens(text, CHANNELS, NOW)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kachery_p2p.protocol.links.knock.MAX_KNOCKS_KEPT", 5)
    knocks = Knocks(NODE)
    for _ in range(20):
        assert knocks.opens(knock(CHANNELS[:1]), CHANNELS, NOW)
    assert len(knocks._heard) == 5
