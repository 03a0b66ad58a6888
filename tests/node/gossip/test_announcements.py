"""What a node has is known to its proxies in the end, whatever came first."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from kachery_p2p.node.gossip import announcer, own_log
from kachery_p2p.node.gossip.own_log import LogKeeper
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.announcements import AnnouncementLog, Change
from kachery_p2p.storage.paths import path_of
from tests.node.harness import laboratory, until


async def test_what_came_before_there_was_a_log_to_write_it_in_is_announced() -> None:
    async with laboratory("A", channel=False) as lab:
        own = lab["A"].announcer
        load, may_load = own._keeper._load, threading.Event()

        def slow(channel: bytes) -> Any:
            assert may_load.wait(10)
            return load(channel)

        own._keeper._load = slow  # type: ignore[method-assign]
        await lab.channel("lab", {"A": "all"})
        await lab.store("A", b"early", tell=None)
        assert own._pending
        may_load.set()
        await lab.announced("A")
        assert not own._pending


async def test_a_member_that_becomes_a_proxy_learns_what_others_have_already() -> None:
    async with laboratory("A", "B", "Q", listening=("Q",)) as lab:
        sha1, _ = await lab.store("Q", b"so that there is a link")
        await lab.load("B", sha1)
        await lab.announced("B")
        channel, b = lab.channels["lab"], lab["B"].context.key.public
        pull, may_pull = lab["B"].documents._pull, []

        async def held_up(*arguments: Any, **more: Any) -> Any:
            await until(lambda: may_pull)
            return await pull(*arguments, **more)

        lab["B"].documents._pull = held_up  # type: ignore[method-assign]
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("Q"), roles="all,proxy")
        text = await lab.export("A", "lab")
        await lab.call("Q", "channel.join", document=text, roles="all,proxy")
        assert lab["Q"].network.is_proxy(channel)
        assert lab["B"].network.version_of(channel) < lab["Q"].network.version_of(channel)
        may_pull.append(True)
        await until(lambda: b in lab["Q"].availability.index.digest(channel), "Q knows B's log")


async def test_many_that_come_and_go_at_once_are_written_and_told_of_page_by_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred thousand that were removed at once were one piece of work on the event loop; after a
    start, what had gone meanwhile, too, and for that all of the log was read into memory."""
    sizes: list[int] = []
    append = LogKeeper.append

    async def counted(
        keeper: LogKeeper, channel: bytes, log: AnnouncementLog, changes: Sequence[Change]
    ) -> bool:
        sizes.append(len(changes))
        return await append(keeper, channel, log, changes)

    monkeypatch.setattr(LogKeeper, "append", counted)
    monkeypatch.setattr(announcer, "_AT_ONCE", 10)
    monkeypatch.setattr(own_log, "_PAGE", 7)
    async with laboratory("A", "B") as lab:
        channel = lab.channels["lab"]

        def known() -> set[bytes]:
            index, me = lab["P"].availability.index, lab["A"].context.key.public
            secret = lab["A"].context.book.secret(channel)
            assert secret is not None
            keys = {name: file_key(name).blinded(secret[1]) for name in names}
            return {name for name, key in keys.items() if me in index.holders(channel, key)}

        names = [(await lab.store("A", b"%d" % number, tell=None))[0] for number in range(35)]
        await lab.announced("A")
        assert known() == set(names)
        for name in names[:25]:
            path_of(lab["A"].store.root, name).unlink()
            lab["A"].announcer.withdraw(file_key(name))
        await lab.announced("A")
        assert known() == set(names[25:])
        lab["A"].announcer.provide_many([file_key(name) for name in names[10:]])
        await lab.announced("A")
        assert known() == set(names[10:])
        await lab.restart("A")
        await lab.linked("A", "lab")
        await lab.announced("A")
        assert known() == set(names[25:]), "the rest had gone"
        own = lab["A"].announcer.log(channel)
        assert own is not None
        assert [row[1:] for row in lab["A"].state.announcements(channel.hex())] == [
            entry[1:] for entry in own.since(0)
        ]
    assert max(sizes) <= 10
