"""Who is online is what the proxies say, and whom this node is linked to itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.channels import presence as module
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.messages import CHANNEL_ONLINE, ChannelQuery, Online
from kachery_p2p.protocol.errors import AccessDenied, NotAMember, ProtocolViolation
from tests.node.harness import Lab, laboratory, until


@pytest.fixture(autouse=True)
def always_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRESENCE_SECONDS", 0.0)


async def names(lab: Lab, node: str) -> list[str]:
    [channel] = (await lab.call(node, "status"))["channels"]
    assert channel["online"] == len(channel["names"])
    return list(channel["names"])


async def members(lab: Lab, node: str) -> dict[str, bool]:
    shown = await lab.call(node, "channel.show", channel="lab")
    return {member["label"]: member["online"] for member in shown["members"]}


async def test_a_node_behind_a_proxy_sees_all_who_are_on_line() -> None:
    async with laboratory("A", "B", "C") as lab:
        assert await names(lab, "A") == ["B", "C", "P"]
        assert await names(lab, "P") == ["A", "B", "C"]
        assert set((await members(lab, "B")).values()) == {True}
        await lab.stop("C")
        await until(lambda: len(lab["P"].network.links) == 2)
        assert await names(lab, "A") == ["B", "P"]
        assert (await members(lab, "B"))["C"] is False
        await lab.restart("C")
        await lab.linked("C", "lab")
        assert await names(lab, "B") == ["A", "C", "P"]


async def test_it_is_asked_once_for_all_who_look_and_not_again_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PRESENCE_SECONDS", 60.0)
    async with laboratory() as lab:
        told: list[str] = []
        answer = lab["P"].presence._tell

        async def tell(link: Any, query: ChannelQuery) -> Any:
            told.append(link.peer)
            return await answer(link, query)

        lab["P"].network.on_request_of(CHANNEL_ONLINE, ChannelQuery, tell)
        found = await asyncio.gather(*(names(lab, "A") for _ in range(5)))
        assert found == [["B", "P"]] * 5
        assert await names(lab, "A") == ["B", "P"]
        assert told == [lab.id("A")]


async def test_a_proxy_that_is_silent_or_older_or_lies_costs_only_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PRESENCE_ASK_SECONDS", 0.1)
    async with laboratory() as lab:

        async def silent(link: Any, query: Any) -> Any:
            await asyncio.Event().wait()

        async def lies(link: Any, query: Any) -> Any:
            strangers = [bytes([number]) * 32 for number in range(9)]
            return codec.plain(Online([*strangers, bytes.fromhex(lab.id("A"))]))

        async def nonsense(link: Any, query: Any) -> Any:
            return {"nodes": 7}

        async def older(link: Any, query: Any) -> Any:
            raise ProtocolViolation(reason="no such request: 'channel.online'")

        for handler in (silent, lies, nonsense, older):
            lab["P"].network.on_request_of(CHANNEL_ONLINE, ChannelQuery, handler)
            assert await names(lab, "A") == ["P"]


async def test_only_a_proxy_tells_and_only_members() -> None:
    async with laboratory("A", "B", listening=("B",)) as lab:
        sha1, _ = await lab.store("B", b"so that there is a link")
        await lab.load("A", sha1)
        [link] = [each for each in lab["A"].network.links if each.peer == lab.id("B")]
        query = codec.plain(ChannelQuery(lab.channels["lab"]))
        with pytest.raises(AccessDenied, match="proxy"):
            await link.request(CHANNEL_ONLINE, query)
        [proxy] = lab["A"].network.proxies_on(lab.channels["lab"])
        with pytest.raises(NotAMember):
            await proxy.request(CHANNEL_ONLINE, codec.plain(ChannelQuery(b"x" * 32)))


async def test_a_crowd_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ONLINE", 2)
    async with laboratory("A", "B", "C", "D") as lab:
        assert len(await names(lab, "A")) == 3  # two of them, and the proxy
