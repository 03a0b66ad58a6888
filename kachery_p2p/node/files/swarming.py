"""What a download that takes a while does beside fetching: it lets others have what is here of it, and
looks for others who do.

Non-goals: short downloads. They would be over before anybody heard of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kachery_p2p.protocol.limits import SWARM_AFTER_SECONDS

from .content import Content
from .finder import Finder


class Swarming:
    """Of one download. ``offer`` is called with a channel when others there can have what is here, and
    with None when they no longer can; ``appeared`` when the finder has found somebody else."""

    def __init__(
        self,
        content: Content,
        finder: Finder,
        offer: Callable[[str, bytes | None], None],
        appeared: Callable[[], None],
    ) -> None:
        self._content = content
        self._finder = finder
        self._offer = offer
        self._appeared = appeared
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Somebody wants all of it; does nothing the second time, or if parts cannot be verified."""
        if self._task is None and self._content.has_proofs:
            self._task = asyncio.create_task(self._swarm(), name=f"swarm {self._content.sha1[:8]}")

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _swarm(self) -> None:
        await asyncio.sleep(SWARM_AFTER_SECONDS)
        channel = self._content.channel
        if channel is not None:
            self._offer(self._content.sha1, channel)
        try:
            await self._finder.follow(self._appeared)
        finally:
            if channel is not None:
                self._offer(self._content.sha1, None)
