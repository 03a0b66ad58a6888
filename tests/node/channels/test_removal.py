"""A removal always happens: whoever does not read, whatever the disk says, whichever step fails."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kachery_p2p.node.links import heartbeat
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import (
    KacheryError,
    LinkClosed,
    NotAMember,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import MAX_CONTROL_BYTES, MAX_CONTROL_QUEUE
from tests.node.channels.removing import BIG, is_out, never, remove, talking
from tests.node.harness import Lab, laboratory, until


async def deafen(lab: Lab, name: str, at: str = "P") -> Link:
    """From now on a node reads nothing of what another one sends to it, and as much waits as may."""
    [link] = lab[at].network.links_to(lab.id(name), lab.channels["lab"])
    link.transport.send = never  # type: ignore[method-assign]
    for _ in range(10):
        link.note("nothing", None)
        await asyncio.sleep(0)
    for _ in range(MAX_CONTROL_QUEUE - len(link._mux.control)):
        link.note("nothing", None)
    assert link.closed_by is None
    # The worst order: before everybody else's turn comes.
    others = dict(lab[at].network.links)
    lab[at].network.links.clear()
    lab[at].network.links.update({link: None} | others)
    return link


# --- who does not read ------------------------------------------------------------------------


async def test_a_member_that_does_not_read_keeps_no_removed_member_in() -> None:
    async with talking("A", "B", "C", "D") as lab:
        for name in ("C", "D"):
            await deafen(lab, name)
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "P"), "B is out at the proxy")
        await until(lambda: is_out(lab, "B", "A"), "B is out at the owner")
        after, _ = await lab.store("A", b"stored after the removal")
        assert isinstance(await lab.error("B", after), KacheryError)
        assert lab.bytes_of("B", after) == b""


async def test_a_removal_reaches_members_past_one_that_does_not_read() -> None:
    async with laboratory("A", "B", "C", "D") as lab:
        await deafen(lab, "C")
        await remove(lab, "B")
        await until(lambda: is_out(lab, "B", "D"), "D has heard")


async def test_a_full_queue_ends_its_own_link_and_not_that_of_who_announces() -> None:
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        [innocent] = lab["P"].network.links_to(lab.id("A"), key)
        deaf = await deafen(lab, "C")
        for _ in range(3):
            deaf.note("nothing", None)
        assert isinstance(deaf.closed_by, LinkClosed)
        assert "does not read" in str(deaf.closed_by)
        await until(deaf.closed.is_set)
        sha1, _ = await lab.store("A", b"x")
        await lab.load("B", sha1)
        assert innocent.closed_by is None


async def test_whoever_watches_and_does_not_read_costs_the_announcer_nothing() -> None:
    async with laboratory("A", "B", "C") as lab:
        key = lab.channels["lab"]
        [innocent] = lab["P"].network.links_to(lab.id("A"), key)
        deaf = await deafen(lab, "C")
        deaf.note("nothing", None)
        watch_list = lab["P"].availability.watch_list
        watch_list.appeared = (  # type: ignore[method-assign]
            lambda channel, keys, origin: [deaf.note("appeared", None) for _ in range(5)]
        )
        sha1, _ = await lab.store("A", b"announced")
        await lab.load("B", sha1)
        assert innocent.closed_by is None
        assert deaf.closed_by is not None


async def test_a_peer_that_reads_nothing_is_given_up_though_it_speaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "WRITE_STALL_SECONDS", 0.2)
    monkeypatch.setattr(heartbeat, "TICK_SECONDS", 0.05)
    async with laboratory("A", "B") as lab:
        [link] = lab["P"].network.links_to(lab.id("B"), lab.channels["lab"])
        link.transport.send = never  # type: ignore[method-assign]
        link.note("nothing", None)
        [there] = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])
        while link.closed_by is None:
            there.note("I am alive", None)
            await asyncio.sleep(0.01)
        assert "read nothing" in str(link.closed_by)
        await lab.linked("B", "lab")


async def test_a_thousand_answers_on_a_slow_road_are_no_reason_to_drop_it() -> None:
    """They wait for the route, and what waits is bounded."""
    async with laboratory("A", "B") as lab:
        [link] = lab["P"].network.links_to(lab.id("B"), lab.channels["lab"])
        send, go = link.transport.send, asyncio.Event()
        most = 0

        async def slow(*record: Any) -> None:
            nonlocal most
            await go.wait()
            most = max(most, link._mux.control.bytes)  # type: ignore[arg-type]
            await send(*record)

        async def much(link: Link, params: Any) -> Any:
            return bytes(32_000)

        lab["P"].network.on_request_of("much", dict, much)
        [asking] = lab["B"].network.links_to(lab.id("P"), lab.channels["lab"])
        link.transport.send = slow  # type: ignore[method-assign]
        answers = asyncio.gather(*(asking.request("much", {}) for _ in range(1_000)))
        await until(lambda: len(link._serving) >= 900, "all are asked")
        go.set()
        assert {len(answer) for answer in await answers} == {32_000}
        assert link.closed_by is None
        assert most < MAX_CONTROL_BYTES / 2


# --- between the look and the deed ------------------------------------------------------------


async def two_channels(lab: Lab) -> None:
    """B shares a second channel with A, so that its link to A outlives its removal from ``lab``."""
    await lab.channel("two", {"A": "all", "B": "all"})
    sha1, _ = await lab.store("A", BIG)
    await lab.load("B", sha1)
    await until(lambda: lab["A"].network.links_to(lab.id("B"), lab.channels["two"]))


def direct(lab: Lab, source: str, target: str) -> Link:
    return lab[source].network.links_to(lab.id(target), lab.channels["two"])[0]


async def test_whoever_is_removed_while_a_slow_disk_reads_gets_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        await two_channels(lab)
        sha1, _ = await lab.store("A", b"secret")
        reads, go = threading.Event(), threading.Event()
        info = lab["A"].provider._info

        def slow(*args: Any) -> Any:
            reads.set()
            assert go.wait(10)
            return info(*args)

        monkeypatch.setattr(lab["A"].provider, "_info", slow)
        link = direct(lab, "B", "A")
        params = {"channel": lab.channels["lab"], "sha1": bytes.fromhex(sha1)}
        asking = asyncio.create_task(link.request("file.open", params))
        try:
            await until(reads.is_set)
            await remove(lab, "B")
        finally:
            go.set()
        with pytest.raises(NotAMember):
            await asking


async def test_a_task_whose_arguments_come_after_the_removal_does_not_run() -> None:
    async with laboratory("A", "B", listening=("A",)) as lab:
        await two_channels(lab)
        submitted: list[Any] = []

        async def submit(*args: Any, **options: Any) -> Any:
            submitted.append(args)
            raise LinkClosed(peer="nobody", reason="this is a test")

        lab["A"].task_queue.submit = submit  # type: ignore[method-assign]
        link = direct(lab, "B", "A")
        params = {"channel": lab.channels["lab"], "task": bytes(16), "function": "f.1",
                  "type": "query", "again": False}  # fmt: skip

        async def run(between: Callable[[], Awaitable[Any]]) -> None:
            stream = link.open("task.run", params)
            await until(lambda: stream.credit > 0, "the arguments may come")
            await between()
            with contextlib.suppress(KacheryError):
                await stream.send([2], b"{}")
                await stream.receive()
            assert stream.ended

        await run(lambda: asyncio.sleep(0))
        assert len(submitted) == 1
        await run(lambda: remove(lab, "B"))
        assert len(submitted) == 1


async def test_who_may_ask_for_nothing_any_more_does_not_hear_that_it_appeared() -> None:
    async with laboratory("A", "B") as lab:
        key, heard = lab.channels["lab"], asyncio.Event()
        content = file_key(hashlib.sha1(b"rare").hexdigest())
        lab["B"].watches.add(content, heard.set)
        watch_list = lab["P"].availability.watch_list
        await until(lambda: watch_list._watchers)
        roles = "provide-files,provide-feeds"
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles=roles)
        await until(
            lambda: "request-files" not in lab["P"].context.book.effective(key, lab.id("B"))
        )
        told: list[str] = []
        [link] = lab["P"].network.links_to(lab.id("B"), key)
        link.note = lambda topic, params: told.append(topic)  # type: ignore[method-assign]
        [(_, blinded)] = watch_list._watchers
        watch_list.appeared(key, [blinded], lab["A"].context.key.public)
        assert told == []


async def test_a_proxy_whose_role_is_taken_relays_nothing_more() -> None:
    async with talking("A", "B") as lab:
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("P"), roles="none")
        await until(lambda: len(lab["P"].relay) == 0)
