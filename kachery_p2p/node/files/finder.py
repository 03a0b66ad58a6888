"""Who has a file that is being fetched: asked when it begins, when nobody is left, and, of a download
that takes a while, whenever somebody who has it or a part of it appears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from kachery_p2p.node.gossip.lookup import Found, Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.protocol.errors import KacheryError, NotFound
from kachery_p2p.protocol.files.keys import file_key, part_key
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import SWARM_AFTER_SECONDS
from kachery_p2p.storage.files.origins import FREE

from .content import Content
from .sources import Near, Sources

_PAUSE_SECONDS = 0.2
"""Between two look-ups, however many appear."""


class Finder:
    """Of one download: ``near`` are the node's own origins, which come before other nodes, and
    ``sources`` knows who of them all was banned. ``channel``: where it is looked for; None is
    everywhere."""

    def __init__(
        self,
        lookup: Lookup,
        watches: Watches,
        near: Near,
        sources: Sources,
        sha1: str,
        channel: bytes | None,
    ) -> None:
        self.near_only = False
        """Only these are asked: so two nodes that stand for one origin do not wait for one another."""
        self.is_further = False
        """Other nodes were looked for, and not the node's own origins alone."""
        self._near = near
        self._sources = sources
        self._thing = file_key(sha1)
        self._part = part_key(sha1)
        self._lookup = lookup
        self._watches = watches
        self._channel = channel
        self.found = Found()
        """Who has it, as far as is known."""

    async def nearest(self, look: Callable[[], Awaitable[Found]]) -> Found:
        """The node's own origins that have it; else as :meth:`further`."""
        self.found = Found(holders=await self._near.holders())
        return self.found if self.found.holders else await self.further(look)

    async def further(self, look: Callable[[], Awaitable[Found]]) -> Found:
        """The nodes that have it, as ``look`` finds them, the first time. Raises the refusal, or what
        else is the matter, if there are none."""
        reason = self._sources.refusal or self._near.unasked
        if self.near_only or self.is_further:
            raise reason or NotFound(what=self._thing.title, detail="it is in no origin now")
        self.is_further = True
        found = await look()
        if not found.holders:
            raise reason or self._lookup.not_found(self._thing, found)
        return found

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
        if self.near_only:
            return self.found
        with contextlib.suppress(KacheryError):
            found = await self._lookup.find(self._thing, self._channel, patience=0)
            self.is_further = True
            if found.holders:
                self.found = found
        await self._add_parts()
        self._add(await self._near.holders())
        return self.found

    async def _add_parts(self) -> None:
        [parts] = await self._lookup.find_many([self._part], self._channel)
        self._add(replace(holder, partial=True) for holder in parts)

    def _add(self, holders: Iterable[Holder]) -> None:
        known = {(holder.node, holder.channel) for holder in self.found.holders}
        self.found.holders += [
            holder for holder in holders if (holder.node, holder.channel) not in known
        ]

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
        if channel == bytes.fromhex(FREE):
            channel = None  # what lies in an origin is offered as a whole
        if channel is not None:
            self._offer(self._content.sha1, channel)
        try:
            await self._finder.follow(self._appeared)
        finally:
            if channel is not None:
                self._offer(self._content.sha1, None)
