"""Who has a file that is being fetched: asked when it begins, when nobody is left, and, of a download
that takes a while, whenever somebody who has it or a part of it appears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace

from kachery_p2p.node.gossip.lookup import Found, Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.files.keys import file_key, part_key
from kachery_p2p.protocol.limits import SWARM_AFTER_SECONDS

from .content import Content

_PAUSE_SECONDS = 0.2
"""Between two look-ups, however many appear."""


class Finder:
    """Of one download. ``channel``: where it is looked for; None: everywhere."""

    def __init__(self, lookup: Lookup, watches: Watches, sha1: str, channel: bytes | None) -> None:
        self._thing = file_key(sha1)
        self._part = part_key(sha1)
        self._lookup = lookup
        self._watches = watches
        self._channel = channel
        self.found = Found()
        """Who has it, as far as is known."""

    async def look(self, *, parts: bool) -> Found:
        """Ask, and wait for those who may yet say that they have it. ``parts``: if nobody has all of
        it, those who have a part will do."""
        self.found = await self._lookup.find(self._thing, self._channel)
        if parts and not self.found.holders:
            await self._add_parts()
        return self.found

    async def again(self) -> Found:
        """Ask again, those who have a part as well; waits for nobody. If nobody has it now, who had it
        before may yet come back."""
        with contextlib.suppress(KacheryError):
            found = await self._lookup.find(self._thing, self._channel, patience=0)
            if found.holders:
                self.found = found
        await self._add_parts()
        return self.found

    async def _add_parts(self) -> None:
        [parts] = await self._lookup.find_many([self._part], self._channel)
        known = {(holder.node, holder.channel) for holder in self.found.holders}
        self.found.holders += [
            replace(holder, partial=True)
            for holder in parts
            if (holder.node, holder.channel) not in known
        ]

    def not_found(self) -> KacheryError:
        """The error that says why nobody was found."""
        return self._lookup.not_found(self._thing, self.found)

    async def follow(self, found: Callable[[], None]) -> None:
        """See who has it now, and again whenever somebody appears, and call ``found``; until
        cancelled."""
        appeared = asyncio.Event()
        appeared.set()
        ends = [self._watches.add(each, appeared.set) for each in (self._thing, self._part)]
        try:
            while True:
                await appeared.wait()
                appeared.clear()
                await self.again()
                found()
                await asyncio.sleep(_PAUSE_SECONDS)
        finally:
            for end in ends:
                end()


class Swarming:
    """What a download that takes a while does beside fetching: it lets others have what is here of it,
    and looks for others who do. Of a short one nobody would hear before it is over.

    ``offer`` is called with a channel when others there can have what is here, and
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
