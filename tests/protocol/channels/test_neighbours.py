"""What a node says of itself in its local network, and what anybody else may make of that."""

from __future__ import annotations

import pytest

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.member_urls import sign_urls, verify_urls
from kachery_p2p.protocol.channels.neighbours import make_card, read_card
from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_CARD

KEY = NodeKey(b"\x07" * 32)
URLS = ["ws://192.168.1.5:8080", "ws://[fd00::5]:8080"]


def test_a_card_says_where_its_node_is() -> None:
    node, urls = read_card(make_card(KEY, URLS))
    assert node == KEY.public
    assert urls == [f"{url}/kachery-p2p" for url in URLS]


def test_a_card_that_anybody_changed_is_none() -> None:
    card = make_card(KEY, URLS)
    for name, value in card.items():
        for other in (b"", value[:-1], value[::-1], value + b"x", b"\xff" * 300):
            with pytest.raises(ProtocolViolation):
                read_card(card | {name: other})
        with pytest.raises(ProtocolViolation):
            read_card({each: card[each] for each in card if each != name})


def test_a_card_has_room_in_a_dns_record() -> None:
    card = make_card(KEY, [f"ws://host-{number}.{'long.' * 20}example:80" for number in range(8)])
    assert all(len(name) + 1 + len(value) <= 255 for name, value in card.items())
    assert len(read_card(card)[1]) == 2


def test_a_card_is_no_published_address_and_the_other_way_round() -> None:
    """A proxy cannot tell the world where a laptop is at home, nor a neighbour what a hello said."""
    card = make_card(KEY, URLS)
    assert not verify_urls(KEY.public, URLS, card[b"s"])
    with pytest.raises(ProtocolViolation):
        read_card(card | {b"s": sign_urls(KEY, URLS)})


@pytest.mark.parametrize(
    "urls", [["ws://10.0.0.1:80/delete?all=1"], ["http://10.0.0.1"], [7], [[]]]
)
def test_what_its_own_node_signed_may_yet_be_no_address(urls: list[object]) -> None:
    packed = codec.pack(urls)
    card = {b"n": KEY.public, b"u": packed, b"s": KEY.sign(b"neighbour", packed)}
    with pytest.raises(ProtocolViolation):
        read_card(card)


def test_too_many_addresses_are_not_read() -> None:
    packed = codec.pack(["ws://10.0.0.1"] * 20)
    assert len(packed) > MAX_CARD
    with pytest.raises(ProtocolViolation):
        read_card({b"n": KEY.public, b"u": packed, b"s": KEY.sign(b"neighbour", packed)})
