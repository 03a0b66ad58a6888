"""A link that falls silent: another one takes its place, over whatever route there is, and what was
under way on it goes on there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.routes import replacing
from kachery_p2p.protocol.links import pulse
from tests.node.files.contents import BIG, content
from tests.node.harness import Lab, laboratory, until

from .test_upgrading import Roads, begun, links, slowed


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the time; and what is silent for long is not given up for that alone."""
    monkeypatch.setattr(pulse, "SUSPECT_SECONDS", 0.2)
    monkeypatch.setattr(pulse, "DEAD_SECONDS", 1_000.0)
    monkeypatch.setattr(replacing, "REPLACE_FIRST", 0.5)


def silence(*ends: Link) -> None:
    """What is sent there reaches nobody from now on, and neither end hears of it."""
    for link in ends:
        transport: Any = link.transport

        async def send(*parts: Any) -> None:
            pass

        async def receive() -> Any:
            await asyncio.Event().wait()

        transport.send = send
        transport.receive = receive


def unanswered(link: Link) -> None:
    """A ping goes out."""
    link._mux.ping(asyncio.get_running_loop().time())
    link._flush()
    link.heart.stir()


def ends(lab: Lab, one: str, other: str) -> list[Link]:
    return [*links(lab, one, other), *links(lab, other, one)]


async def test_a_link_to_a_bootstrap_that_falls_silent_is_replaced_before_it_is_dead() -> None:
    async with laboratory() as lab:
        old = ends(lab, "A", "P")
        silence(*old)
        unanswered(old[0])
        [fresh] = await until(lambda: [x for x in links(lab, "A", "P") if x not in old])
        await until(lambda: old[0].closed.is_set(), "the silent one is given up")
        assert "newer link" in str(old[0].closed_by)
        assert lab["A"].reach.is_kept(fresh)
        await until(lambda: old[1].closed.is_set(), "the proxy lets go of what was left behind")
        sha1, _ = await lab.store("A", b"after that")
        assert (await lab.load("B", sha1))["size"] == 10


@pytest.mark.parametrize("who", ["A", "B", "both"])
async def test_a_transfer_goes_on_when_a_link_on_its_way_falls_silent(who: str) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await slowed(lab, "A")
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await begun(lab, load)
        for name in "AB" if who == "both" else who:
            silence(*ends(lab, name, "P"))
        await slowed(lab, "A", None)
        await load
        assert lab.bytes_of("B", sha1) == data


async def test_a_transfer_falls_back_to_the_circuit_when_the_direct_link_is_silent() -> None:
    async with laboratory("A", "B", listening=("B",)) as lab:
        roads = Roads(lab, "A")
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await slowed(lab, "A")
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await begun(lab, load)
        roads.open()

        def straight() -> list[Link]:
            return [link for link in ends(lab, "A", "B") if link.via is None]

        await until(lambda: len(straight()) == 2)
        silenced = straight()
        before = silenced[-1].received
        await until(lambda: load.done() or silenced[-1].received > before + 100_000, "it is used")
        assert not load.done()
        silence(*silenced)
        await slowed(lab, "A", None)
        await load
        assert lab.bytes_of("B", sha1) == data


async def test_a_link_that_is_slow_to_answer_and_then_does_is_kept() -> None:
    async with laboratory() as lab:
        [link] = links(lab, "A", "P")
        transport: Any = link.transport
        real = transport.receive
        late = asyncio.Event()

        async def receive() -> Any:
            await late.wait()
            return await real()

        transport.receive = receive
        lab["A"].reach.dialer.dial = never
        unanswered(link)
        await link.heart.trouble.wait()
        late.set()
        await until(lambda: not link.heart.is_doubtful, "it is heard again")
        assert links(lab, "A", "P") == [link]
        sha1, _ = await lab.store("A", b"on the same link")
        assert (await lab.load("B", sha1))["size"] == 16
        assert link.closed_by is None


async def never(*args: Any, **more: Any) -> Any:
    await asyncio.Event().wait()


async def test_a_quiet_link_is_pinged_by_who_waits_on_it_and_once() -> None:
    async with laboratory() as lab:
        [link] = links(lab, "A", "P")
        await until(lambda: not link._mux.pulse.is_waiting, "the first ping is answered")
        link._mux.pulse.heard(asyncio.get_running_loop().time())
        link.heart.doubt()
        assert not link._mux.pulse.is_waiting, "it has just been heard"
        link._mux.pulse.heard(asyncio.get_running_loop().time() - 10)
        link.heart.doubt()
        link.heart.doubt()
        assert len(link._mux.pulse._tokens) == 1
        await until(lambda: not link._mux.pulse.is_waiting, "it is answered")
