"""What a node has is known to its proxies in the end, whatever came first."""

from __future__ import annotations

import threading
from typing import Any

from tests.node.harness import laboratory, until


async def test_what_came_before_there_was_a_log_to_write_it_in_is_announced() -> None:
    async with laboratory("A", channel=False) as lab:
        announcer = lab["A"].announcer
        load, may_load = announcer._keeper._load, threading.Event()

        def slow(channel: bytes) -> Any:
            assert may_load.wait(10)
            return load(channel)

        announcer._keeper._load = slow  # type: ignore[method-assign]
        await lab.channel("lab", {"A": "all"})
        await lab.store("A", b"early", tell=None)
        assert announcer._pending
        may_load.set()
        await lab.announced("A")
        assert not announcer._pending


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
