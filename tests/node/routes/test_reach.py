"""In which order the routes to a member are tried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from kachery_p2p.node.routes.reach import BadRoutes, Reach
from kachery_p2p.protocol.errors import (
    Busy,
    DeadlineExceeded,
    KacheryError,
    LinkClosed,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.limits import MAX_BAD_ROUTES

CHANNEL = b"c" * 32
MEMBER = "ab" * 32
NEAR, FAR = "near", "far"


@dataclass
class FakeHeart:
    is_doubtful: bool = False


@dataclass(eq=False)
class FakeProxy:
    peer: str
    rtt: float
    closed_by: Any = None
    heart: FakeHeart = field(default_factory=FakeHeart)

    def open(self, *args: Any, **options: Any) -> Any:
        return SimpleNamespace()


@dataclass
class FakeNetwork:
    """Two proxies; ``fails`` says with what a circuit through each ends, if at all."""

    fails: dict[str, KacheryError] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    on_lost: list[Any] = field(default_factory=list)

    def on_stream_of(self, *args: Any) -> None:
        pass

    def links_to(self, node: str, channel: bytes) -> list[Any]:
        return []

    def proxies_on(self, channel: bytes) -> list[Any]:
        return [FakeProxy(FAR, 0.2), FakeProxy(NEAR, 0.001)]

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(work, name=name)

    def is_member(self, channel: bytes, node: str) -> bool:
        return False  # so that its hello is waited for

    async def greeted(self, link: Any) -> None:
        pass

    async def begin(self, transport: Any, *, via: str, **options: Any) -> Any:
        self.tried.append(via)
        if via in self.fails:
            raise self.fails[via]
        return f"a link through {via}"


class NoRoads:
    async def dial(self, url: str, *, knock: str = "") -> Any:
        raise Unreachable(what=url, reason="there are no routes here")

    async def dial_member(self, url: str, rules: Any, *, knock: str = "") -> Any:
        raise Unreachable(what=url, reason="there are no routes here")


def make(**fails: KacheryError) -> tuple[FakeNetwork, Reach]:
    network = FakeNetwork(fails)
    return network, Reach(network, NoRoads())  # type: ignore[arg-type]


async def test_the_nearest_proxy_is_tried_first() -> None:
    network, reach = make()
    await reach.to(MEMBER, CHANNEL)
    assert network.tried == [NEAR]


async def test_a_proxy_that_says_it_has_the_member_goes_before_a_nearer_one() -> None:
    network, reach = make()
    await reach.to(MEMBER, CHANNEL, relays={FAR})
    assert network.tried == [FAR]


@pytest.mark.parametrize(
    "error",
    [
        LinkClosed(peer="it", reason="it closed"),
        ProtocolViolation(reason="a record that is no record"),
        DeadlineExceeded(what="The handshake", seconds=10),
        Busy(limit="circuits"),
    ],
)
async def test_a_proxy_that_spoils_a_circuit_is_tried_last_from_then_on(
    error: KacheryError,
) -> None:
    network, reach = make(near=error)
    await reach.to(MEMBER, CHANNEL)
    assert network.tried == [NEAR, FAR]
    network.tried.clear()
    await reach.to(MEMBER, CHANNEL, relays={NEAR})
    assert network.tried == [FAR]


async def test_a_proxy_that_does_not_have_the_member_is_none_the_worse_for_it() -> None:
    network, reach = make(near=Unreachable(what="it", reason="it is not connected to the proxy"))
    for _ in range(2):
        network.tried.clear()
        await reach.to(MEMBER, CHANNEL)
        assert network.tried == [NEAR, FAR]


async def test_a_bad_proxy_is_still_tried_when_the_others_fail_and_forgiven_when_it_works() -> None:
    broken = LinkClosed(peer="it", reason="it closed")
    network, reach = make(near=broken, far=broken)
    with pytest.raises(Unreachable, match=r"near.*far"):
        await reach.to(MEMBER, CHANNEL)
    del network.fails[NEAR]
    network.tried.clear()
    await reach.to(MEMBER, CHANNEL)
    assert network.tried == [NEAR]
    network.tried.clear()
    await reach.to(MEMBER, CHANNEL, relays={FAR})
    assert network.tried == [NEAR], "the other one is still bad"


async def test_an_address_that_did_not_answer_is_not_dialled_again_at_once() -> None:
    _, reach = make(near=LinkClosed(peer="", reason=""), far=LinkClosed(peer="", reason=""))
    with pytest.raises(Unreachable, match="directly at ws://a"):
        await reach.to(MEMBER, CHANNEL, urls=["ws://a"])
    with pytest.raises(Unreachable) as caught:
        await reach.to(MEMBER, CHANNEL, urls=["ws://a"])
    assert "directly" not in str(caught.value)


def test_a_bad_road_is_forgotten_after_a_minute() -> None:
    routes = BadRoutes()
    routes.add("ws://a", 100.0)
    assert routes.is_bad("ws://a", 159.9)
    assert not routes.is_bad("ws://a", 160.0)
    assert not routes.is_bad("ws://b", 100.0)


def test_the_memory_of_bad_roads_is_bounded_and_drops_the_oldest() -> None:
    routes = BadRoutes()
    for number in range(MAX_BAD_ROUTES):
        routes.add(number, 0.0)
    routes.add(0, 1.0)
    routes.add("one more", 1.0)
    assert len(routes) == MAX_BAD_ROUTES
    assert routes.is_bad(0, 1.0)
    assert not routes.is_bad(1, 1.0)
