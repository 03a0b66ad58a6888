"""A peer claims to know more of this node's own log than there is.

If that is true, a backup was restored here, and nobody listens until the log starts over in a higher
epoch. But claims are not signed, and a log that starts over is incomplete for everybody until all is
announced anew. So the first claim is followed at once, and each further one after twice as long as the
one before, ``OVERTAKE_MOST_SECONDS`` at most; one that leads far into the future never.

A backup is restored before a node is started, so that one claim is all that it takes. If there are
more, somebody else says things in this node's name: a copy of its state folder on another computer.

Non-goals: two copies whose logs go on in step, in one epoch and of one length each time. Neither is
behind then, and nobody is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.limits import OVERTAKE_FIRST_SECONDS, OVERTAKE_MOST_SECONDS

_MAX_EPOCH_JUMP = 1_000_000
"""A claim that is further ahead than this is a lie."""


class Overtaking:
    """``start_over`` begins a channel's log anew in at least the given epoch."""

    def __init__(
        self, network: Network, start_over: Callable[[bytes, int], Awaitable[None]]
    ) -> None:
        self._network = network
        self._start_over = start_over
        self._claims: dict[bytes, int] = {}
        self._pauses: dict[bytes, float] = {}
        self._not_before: dict[bytes, float] = {}
        self._overtaken: set[bytes] = set()

    def claimed(self, channel: bytes, epoch: int, claim: int) -> None:
        """Our log is in ``epoch``, and a peer says that it knows more of it, in epoch ``claim``."""
        if claim - epoch > _MAX_EPOCH_JUMP:
            self._network.context.warn(
                "a proxy claims an absurd epoch of this node's announcements"
            )
            return
        waiting = channel in self._claims
        self._claims[channel] = max(claim, self._claims.get(channel, claim))
        if not waiting:
            self._network.spawn(self._overtake(channel), name="renew announcements")

    async def _overtake(self, channel: bytes) -> None:
        loop = asyncio.get_running_loop()
        wait = self._not_before.get(channel, 0.0) - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        pause = self._pauses.get(channel, OVERTAKE_FIRST_SECONDS)
        self._pauses[channel] = min(OVERTAKE_MOST_SECONDS, 2 * pause)
        self._not_before[channel] = loop.time() + pause
        told = "this node's announcement log was behind its peers'; it starts anew"
        if channel in self._overtaken:
            told += (
                ". That happens again and again: its key is in use on another computer too (or a proxy "
                "is wrong), and what only one of them has is not found. Stop one, and give it a state "
                "folder of its own ('daemon start --state-dir')"
            )
        self._overtaken.add(channel)
        self._network.context.warn(told)
        await self._start_over(channel, self._claims.pop(channel) + 1)
