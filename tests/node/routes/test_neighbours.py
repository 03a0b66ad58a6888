"""Members in the same local network: who is heard, what is kept of it, and what is dialled."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

import pytest

from kachery_p2p.node.routes import neighbours
from kachery_p2p.node.routes.neighbours import Neighbours
from kachery_p2p.protocol.channels.neighbours import make_card
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.identity import NodeKey
from tests.node.harness import Lab, laboratory, until

from .test_upgrading import direct, links

HOME = (ipaddress.ip_address("127.0.0.9"), ipaddress.ip_network("127.0.0.0/8"))


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """The local network of this computer is loopback."""
    monkeypatch.setattr(neighbours, "own_networks", lambda: iter([HOME]))


def hear(lab: Lab, name: str, card: Any) -> list[str]:
    heard: Neighbours = lab[name].routes.neighbours
    heard.hear(card)
    return heard.urls(lab.id("A"))


async def test_a_member_that_is_heard_is_dialled_and_a_circuit_to_it_left(at_home: None) -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        lab["A"].context.urls.clear()  # nobody has published where it is
        sha1, _ = await lab.store("A", b"next door")
        [relayed] = [await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])]
        assert relayed.via == lab.id("P")
        # Its own addresses on loopback say that this node may dial there (protocol/links/addresses.py).
        lab["B"].dialling.listening = "127.0.0.1"
        assert hear(lab, "B", make_card(lab["A"].context.key, [f"ws://{lab['A'].listening}"]))
        await until(lambda: direct(lab, "B", "A"), "a direct link")
        assert [each["via"] for each in (await lab.load("B", sha1))["sources"]] == [None]


async def test_nothing_is_kept_of_who_is_no_member(at_home: None) -> None:
    async with laboratory() as lab:
        stranger = NodeKey(b"\x09" * 32)
        hear(lab, "B", make_card(stranger, ["ws://127.0.0.1:1"]))
        hear(lab, "B", make_card(lab["B"].context.key, ["ws://127.0.0.1:1"]))
        hear(lab, "B", {b"n": b"", b"other": None})
        assert not lab["B"].routes.neighbours._urls


async def test_addresses_elsewhere_and_ones_own_are_not_dialled(at_home: None) -> None:
    async with laboratory() as lab:
        key = lab["A"].context.key
        assert hear(lab, "B", make_card(key, ["ws://10.0.0.1:1", "ws://8.8.8.8:1"])) == []
        assert hear(lab, "B", make_card(key, ["ws://127.0.0.9:1", "ws://name.example:1"])) == []
        assert hear(lab, "B", make_card(key, ["ws://127.0.0.8:1", "ws://[fd00::1]:1"])) == [
            "ws://127.0.0.8:1/kachery-p2p"
        ]


async def test_an_address_that_a_network_change_left_behind_is_not_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = [HOME]
    monkeypatch.setattr(neighbours, "own_networks", lambda: iter(here))
    async with laboratory() as lab:
        assert hear(lab, "B", make_card(lab["A"].context.key, ["ws://127.0.0.8:1"]))
        here.clear()
        assert not lab["B"].routes.neighbours.urls(lab.id("A"))


async def test_a_neighbour_that_does_not_answer_costs_no_more_than_a_head_start(
    at_home: None,
) -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"through the proxy")
        hear(lab, "B", make_card(lab["A"].context.key, ["ws://127.0.0.8:1"]))
        assert [each["via"] for each in (await lab.load("B", sha1))["sources"]] == ["P"]
        assert links(lab, "B", "A")


async def test_without_the_package_the_option_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "zeroconf", None)
    async with laboratory() as lab:
        with pytest.raises(BadInput, match=r"kachery_p2p\[lan\]"):
            await lab["A"].routes.neighbours.start(lab["A"].network.supervisor, listening=None)


async def test_two_nodes_hear_each_other_over_multicast() -> None:
    """Of a real network: this computer's own, whatever it is."""
    pytest.importorskip("zeroconf")
    if not list(neighbours.own_networks()):
        pytest.skip("this computer is in no network")
    async with laboratory("A", "B") as lab:
        heard: list[Any] = []
        here, there = (lab[name].routes.neighbours for name in "AB")
        there.hear = heard.append  # type: ignore[method-assign]
        await here.start(lab["A"].network.supervisor, listening="0.0.0.0:4711")
        await there.start(lab["B"].network.supervisor, listening=None)
        card = await until(lambda: [x for x in heard if x[b"n"] == lab["A"].context.key.public])
        assert b":4711" in card[0][b"u"]


async def test_a_node_without_the_packages_of_lan_dials_others_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ifaddr", "zeroconf"):
        monkeypatch.setitem(sys.modules, name, None)
    async with laboratory("A", "B", listening=("A",)) as lab:
        sha1, _ = await lab.store("A", b"nobody asked for neighbours")
        assert (await lab.load("B", sha1))["size"] == 27
        await until(lambda: direct(lab, "B", "A"), "a direct link")
