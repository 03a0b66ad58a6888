"""Appending to the feeds whose keys lie here.

A node that was restored from a backup must not sign a second history. So before its first append to a
log in this run it asks those who hold the log how far they know it, and takes back what it lacks; who
is not connected cannot be asked, and is not waited for.
"""

from __future__ import annotations

import asyncio

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import FeedBehind, FeedForked, KacheryError
from kachery_p2p.protocol.feeds.messages import FeedNumbers
from kachery_p2p.protocol.limits import LOOKUP_SECONDS
from kachery_p2p.storage.feeds.log import Log

from .feeds import Feeds
from .follower import Follower


class OwnFeeds:
    def __init__(self, feeds: Feeds, discovery: Discovery) -> None:
        self._feeds = feeds
        self._discovery = discovery
        self._fresh: set[bytes] = set()
        """Feeds that were made in this run: nobody can know more of them."""
        self._asked: dict[Log, asyncio.Task[None]] = {}
        discovery.network.on_shared.append(self._on_shared)

    def _on_shared(self, link: Link, channel: bytes) -> None:
        """Somebody has come who may know more than those who were asked."""
        for where, task in list(self._asked.items()):
            if task.done():
                del self._asked[where]

    async def create(self, name: str | None, *, replace: bool = False) -> bytes:
        """As :meth:`.feeds.Feeds.create`."""
        feed = await self._feeds.create(name, replace=replace)
        self._fresh.add(feed)
        return feed

    async def append(
        self,
        where: Log,
        name: str | None,
        texts: list[bytes],
        *,
        author: bytes | None = None,
        submission: bytes | None = None,
    ) -> FeedNumbers:
        """As :meth:`.feeds.Feeds.append`."""
        if not self._is_confirmed(where):
            task = self._asked.get(where)
            if task is None:
                asking = self._ask(where)
                task = self._asked[where] = self._discovery.network.spawn(
                    asking, name="confirm feed"
                )
            try:
                await asyncio.shield(task)
            except KacheryError:
                self._asked.pop(where, None)  # it may be decided by the next time
                raise
        try:
            return await self._feeds.append(
                where, name, texts, author=author, submission=submission
            )
        except FeedBehind:
            self._asked.pop(where, None)  # the rest is not here yet: the next append asks again
            raise

    def promise(
        self, where: Log, name: str | None, texts: list[bytes]
    ) -> asyncio.Future[FeedNumbers] | None:
        """As :meth:`.feeds.Feeds.promise`."""
        return self._feeds.promise(where, name, texts) if self._is_confirmed(where) else None

    def _is_confirmed(self, where: Log) -> bool:
        if where[0] in self._fresh:
            return True
        task = self._asked.get(where)
        return task is not None and task.done() and not task.cancelled() and not task.exception()

    async def _ask(self, where: Log) -> None:
        if not await self._feeds.is_own(where[0]):
            return
        await self.look(where, LOOKUP_SECONDS)
        info = await self._feeds.info(where)
        if info is not None and info.fork is not None:
            raise FeedForked(feed=where[0].hex())

    async def look(self, where: Log, seconds: float) -> None:
        """Hear from those who hold a log how far they know it, and whether it is forked."""
        follower = Follower(self._feeds, self._discovery, where, channel=None, position=0)
        try:
            await follower.settle(seconds)
        finally:
            await follower.close()
