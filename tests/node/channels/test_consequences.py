"""What follows from a change of a channel: each step by itself, repeated until it is done."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from kachery_p2p.node import node as node_module
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.channels.document import ChannelDocument
from tests.node.channels.removing import is_out, remove, talking
from tests.node.harness import laboratory, until

# --- whichever step fails ---------------------------------------------------------------------

STEPS = ["relay", "provider", "feed_server", "task_server", "bootstraps", "watches", "announcer",
         "availability"]  # fmt: skip


@pytest.mark.parametrize("part", STEPS)
async def test_a_step_that_fails_keeps_no_other_from_happening_and_is_done_again(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with talking("A", "B", "C") as lab:
        node = lab["P"]
        owner = getattr(node, part)
        names = {"bootstraps": "refresh", "watches": "on_change", "announcer": "on_change",
                 "availability": "on_change"}  # fmt: skip
        name = names.get(part, "cut")
        step, failures = getattr(owner, name), 0

        def fails(*args: Any) -> None:
            nonlocal failures
            if failures < 3:
                failures += 1
                raise OSError("a bug")
            step(*args)

        monkeypatch.setattr(owner, name, fails)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"), "B is out at the proxy")
        await until(lambda: failures == 3)
        consequences = node.documents._consequences
        await until(lambda: not consequences.open(lab.channels["lab"]), "and it was done")
        assert any("a bug" in text for _, text in node.context.warnings)


async def test_a_link_whose_rights_cannot_be_told_is_closed_and_the_others_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C", "D") as lab:
        network, bad = lab["P"].network, lab.id("A")
        reconsider = network.reconsider

        def fails(link: Link) -> None:
            if link.peer == bad and not network.is_member(lab.channels["lab"], lab.id("B")):
                raise RuntimeError("a bug")
            reconsider(link)

        monkeypatch.setattr(network, "reconsider", fails)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"))
        monkeypatch.undo()
        await lab.linked("A", "lab")
        assert is_out(lab, "B", "P")


async def test_a_listener_that_fails_does_not_keep_the_others_from_hearing() -> None:
    async with laboratory("A", "B") as lab:
        heard: list[str] = []

        def fails(*_: Any) -> None:
            raise RuntimeError("a bug")

        network = lab["P"].network
        for listeners, name in (
            (network.on_lost, "lost"),
            (network.on_shared, "shared"),
            (network.on_peer_version, "version"),
        ):
            listeners.insert(0, fails)
            listeners.append(lambda *_, name=name: heard.append(name))  # type: ignore[misc]
        await lab.stop("B")
        await until(lambda: "lost" in heard)
        await lab.start("B")
        await lab.linked("B", "lab")
        assert {"shared", "version"} <= set(heard)


async def test_an_expiry_that_fails_half_way_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory("A", "B") as lab:
        node, failures = lab["P"], 0
        look = node.network.reconsider_all

        def fails() -> bool:
            nonlocal failures
            failures += 1
            if failures < 3:
                raise RuntimeError("a bug")
            return look()

        monkeypatch.setattr(node.network, "reconsider_all", fails)
        document = node.context.book.signed(lab.channels["lab"]).document
        monkeypatch.setattr(
            ChannelDocument, "expired", lambda self, now: self.channel_id == document.channel_id
        )
        with contextlib.suppress(RuntimeError):
            node.documents.check_expiry()
        await until(lambda: not node.network.links, "nobody is linked any more")
        assert failures >= 3


async def test_housekeeping_survives_what_fails_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module.limits, "HOUSEKEEPING_SECONDS", 0.02)
    calls = {"reach": 0, "feeds": 0}

    def fails(*_: Any) -> None:
        calls["reach"] += 1
        raise OSError("a bug")

    async def hangs(*_: Any) -> None:
        calls["feeds"] += 1
        await asyncio.Event().wait()

    monkeypatch.setattr("kachery_p2p.node.routes.reach.Reach.sweep", fails)
    monkeypatch.setattr("kachery_p2p.node.feeds.reader.FeedReader.sweep", hangs)
    async with laboratory("A", "B") as lab:
        await until(lambda: calls["reach"] > 6 and calls["feeds"], "it goes on")
        channel = lab.channels["lab"]
        monkeypatch.setattr(
            ChannelDocument, "expired", lambda self, now: self.channel_id == channel
        )
        await until(lambda: not lab["P"].network.links, "the channel's end is noticed")
