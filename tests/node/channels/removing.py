"""What the tests of removals share: members that do not read, and disks that are full."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.node.harness import Lab, laboratory

BIG = bytes(200_000)


async def never(*_: Any) -> None:
    await asyncio.Event().wait()


def is_out(lab: Lab, name: str, at: str) -> bool:
    """Nothing of a node is left at another one: no membership, link, or circuit."""
    node, gone = lab[at], lab.id(name)
    return (
        not node.network.is_member(lab.channels["lab"], gone)
        and all(link.peer != gone or link.closed_by for link in node.network.links)
        and all(gone not in ends for _, *ends in node.relay._circuits.values())
    )


async def remove(lab: Lab, name: str, owner: str = "A") -> Any:
    return await lab.call(owner, "channel.remove-node", channel="lab", node=lab.id(name))


@contextlib.asynccontextmanager
async def talking(*leaves: str) -> AsyncIterator[Lab]:
    """A laboratory in which B has a circuit through the proxy to A, and reads from it."""
    async with laboratory(*leaves) as lab:
        sha1, _ = await lab.store("A", BIG)
        await lab.load("B", sha1)
        assert len(lab["P"].relay) == 1
        yield lab
