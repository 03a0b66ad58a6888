"""A pair that a proxy connects comes to have a direct link, from whichever end it can be made, and what
is under way goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.routes import upgrading
from kachery_p2p.protocol.errors import LinkClosed, Unreachable
from tests.node.files.contents import BIG, content
from tests.node.harness import Lab, laboratory, until
from tests.node.links.strangers import Server
from tests.node.links.test_dialling import say


def links(lab: Lab, here: str, there: str) -> list[Link]:
    return lab[here].network.links_to(lab.id(there), lab.channels["lab"])


def direct(lab: Lab, here: str, there: str) -> list[Link]:
    return [link for link in links(lab, here, there) if link.via is None]


class Roads:
    """Which nodes can dial others: nobody, until they may."""

    def __init__(self, lab: Lab, *names: str) -> None:
        self.dialled: list[str] = []
        self._open = asyncio.Event()
        for name in names:
            dialer = lab[name].reach.dialer
            dialer.dial_member = self._through(name, dialer.dial_member)

    def open(self) -> None:
        self._open.set()

    def _through(self, name: str, real: Any) -> Any:
        async def dial_member(url: str, *args: Any, **more: Any) -> Any:
            self.dialled.append(name)
            await self._open.wait()
            return await real(url, *args, **more)

        return dial_member


async def test_a_provider_that_cannot_be_dialled_dials_the_requester() -> None:
    async with laboratory("A", "B", listening=("B",)) as lab:
        sha1, _ = await lab.store("A", b"from behind a router")
        assert (await lab.load("B", sha1))["size"] == 20
        [link] = await until(lambda: direct(lab, "B", "A"), "A has dialled B")
        assert not link.initiator
        other, _ = await lab.store("A", b"and now directly")
        assert [source["via"] for source in (await lab.load("B", other))["sources"]] == [None]


async def slowed(lab: Lab, name: str, rate: int | None = 4_000_000) -> None:
    """So that a load lasts until what is to happen during it has happened; None: no longer."""
    await lab.call(name, "set_rates", upload=rate or 0)


async def begun(lab: Lab, load: asyncio.Task[Any], more: int = 0) -> int:
    """Wait until a load has come so much further."""

    def verified() -> int:
        rows = [each.progress.verified for each in lab["B"].downloader.downloads.values()]
        return max(rows, default=0)

    was = verified()
    await until(lambda: load.done() or verified() > was + more, "bytes come")
    assert not load.done()
    return verified()


@pytest.mark.parametrize("dialler", ["A", "B"])
async def test_a_transfer_goes_over_to_a_direct_link_that_comes_up_and_back(dialler: str) -> None:
    listener = "B" if dialler == "A" else "A"
    async with laboratory("A", "B", listening=(listener,)) as lab:
        roads = Roads(lab, dialler)
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await slowed(lab, "A")
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await begun(lab, load)
        [relayed] = links(lab, "B", "A")
        assert relayed.via == lab.id("P")
        roads.open()
        [straight] = await until(lambda: direct(lab, "B", "A"), "a direct link")
        before = straight.received
        await until(lambda: load.done() or straight.received > before + 1_000_000, "is used")
        await slowed(lab, "A", None)
        if not load.done():
            straight.close(LinkClosed(peer="test", reason="the cable was pulled"), at_once=True)
        result = await load
        assert lab.bytes_of("B", sha1) == data
        assert straight.received > before + 1_000_000
        assert relayed.closed_by is None
        assert sum(source["bytes"] for source in result["sources"]) >= BIG


async def test_both_that_dial_at_once_have_links_and_lose_nothing() -> None:
    async with laboratory("A", "B", listening=("A", "B")) as lab:
        roads = Roads(lab, "A", "B")
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await slowed(lab, "A")
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await begun(lab, load)
        await until(lambda: set(roads.dialled) == {"A", "B"}, "both dial")
        roads.open()
        await until(lambda: len(direct(lab, "B", "A")) == len(direct(lab, "A", "B")) == 2)
        await slowed(lab, "A", None)
        await load
        assert lab.bytes_of("B", sha1) == data
        assert not [link for link in links(lab, "B", "A") if link.closed_by is not None]


async def test_a_member_that_opens_many_circuits_has_its_address_knocked_at_once() -> None:
    """Each circuit says hello, and each hello could name somebody else."""
    async with Server().listening() as victim, laboratory("A", "B") as lab:
        await say(lab, "B", f"ws://127.0.0.1:{victim.port}")
        for _ in range(5):
            link = await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
            await link.greeted.wait()
            await until(lambda: links(lab, "A", "B"), "A has it too")
            await until(lambda: victim.came, "A knocks")
            link.close(LinkClosed(peer="test", reason="once more"))
            await until(lambda: not links(lab, "A", "B") and not links(lab, "B", "A"))
        assert victim.came == 1


async def test_a_member_that_names_another_is_not_given_a_link_with_that() -> None:
    async with laboratory("A", "B", "C", listening=("C",)) as lab:
        await say(lab, "B", f"ws://{lab['C'].listening}")
        tried: list[Any] = []
        real = lab["A"].reach.direct

        async def spy(node: str, *args: Any) -> Link | None:
            tried.append(await real(node, *args))
            return tried[-1]

        lab["A"].reach.direct = spy  # type: ignore[method-assign]
        await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        await until(lambda: tried)
        assert tried == [None]
        assert not direct(lab, "A", "C")
        assert links(lab, "A", "B")


async def test_a_circuit_comes_while_an_address_does_not_answer() -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        roads = Roads(lab, "B")  # never opened: as an address from which nothing comes back
        sha1, _ = await lab.store("A", b"not waited for")
        load = await lab.load("B", sha1)
        assert [source["via"] for source in load["sources"]] == ["P"]
        assert roads.dialled == ["B"]


async def test_a_direct_link_that_broke_is_made_again_beside_the_circuit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upgrading, "UPGRADE_FIRST", 0.0)
    async with laboratory("A", "B", listening=("B",)) as lab:
        await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        [link] = await until(lambda: direct(lab, "B", "A"))
        link.close(LinkClosed(peer="test", reason="the cable was pulled"), at_once=True)
        await until(lambda: direct(lab, "B", "A") not in ([], [link]), "another one")


async def test_of_many_members_few_are_dialled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrading, "MAX_UPGRADES", 1)
    async with laboratory("A", "B", "C", listening=("B", "C")) as lab:
        at_once, most = 0, 0

        async def direct_to(node: str, channel: bytes, urls: Any, *_: Any) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= 1
            tried.append(node)

        tried: list[str] = []
        lab["A"].reach.direct = direct_to  # type: ignore[assignment]
        for name in "BC":
            await lab[name].reach.to(lab.id("A"), lab.channels["lab"])
        await until(lambda: len(tried) == 2)
        assert most == 1
        with pytest.raises(Unreachable):
            await lab["A"].reach._make("00" * 32, lab.channels["lab"], (), frozenset())
