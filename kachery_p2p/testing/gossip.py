"""Waiting for what the nodes of a test tell one another by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from kachery_p2p.client.session.connection import connection
from kachery_p2p.local import places

_POLL_SECONDS = 0.01


async def until(condition: Callable[[], Awaitable[bool]], patience: float) -> bool:
    """Wait for a condition that another process brings about: nobody can set an event here.

    Returns:
        whether it came true within ``patience`` seconds.
    """
    try:
        async with asyncio.timeout(patience):
            while not await condition():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False
    return True


async def settled(channel: str, node: str, proxy: places.Target) -> bool:
    """Whether ``proxy`` knows all that ``node``, which must be the one that is talked to here, has to
    announce on a channel. Raises UnknownChannel, DaemonNotRunning."""
    own = await _announced(channel)
    with places.talking_to(proxy):
        known = await _announced(channel, node=node)
    return not own["pending"] and (own == known or own["seq"] == 0)


async def _announced(channel: str, **params: str) -> dict[str, Any]:
    told: dict[str, Any] = await (await connection()).call(
        "channel.announced", {"channel": channel, **params}
    )
    return told
