"""What the tests of invitations share: a lab, its lines, and who is a member."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from tests.node.harness import Lab, laboratory


@contextlib.asynccontextmanager
async def lab_of_one(*others: str) -> AsyncIterator[Lab]:
    """A alone on the channel ``lab`` with the proxy P; the others are on none."""
    async with laboratory("A", *others, channel=False) as lab:
        await lab.channel("lab", {"A": "all"})
        yield lab


async def invite(lab: Lab, name: str = "A", **options: Any) -> str:
    return str((await lab.call(name, "channel.invite", channel="lab", **options))["line"])


async def join(lab: Lab, name: str, line: str, roles: str = "all") -> Any:
    return await lab.call(name, "channel.join", document=line, roles=roles)


async def state_of(lab: Lab, name: str = "A") -> list[str]:
    rows = (await lab.call(name, "channel.invites", channel="lab"))["invitations"]
    return [row["state"] for row in rows]


async def removed(lab: Lab, node: str, **more: Any) -> Any:
    return await lab.call("A", "channel.remove-node", channel="lab", node=lab.id(node), **more)
