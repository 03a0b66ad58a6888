"""Feeds that are kept for other nodes: each of their logs is followed for good, from its beginning on,
and so is served like any other that is held here.

Invariant: what a channel's offer allows is not passed for long: a log whose feed has outgrown it is
followed no longer, until there is room again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.protocol.errors import FeedDeleted, Stalled
from kachery_p2p.protocol.keepers.messages import title
from kachery_p2p.protocol.limits import STALL_SECONDS
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.inventory.kept import Kept

from .offering import KeepOffers

Stands = Callable[[int], Awaitable[None]]
"""Is told how many bytes of a feed are here."""


class KeptFeeds:
    def __init__(self, feeds: Feeds, reader: FeedReader, offers: KeepOffers) -> None:
        self._feeds = feeds
        self._reader = reader
        self.offers = offers
        self._state = feeds.context.state
        self._disk = feeds.context.workers.disk
        self._changing = asyncio.Lock()
        """So that a sweep does not follow what is let go meanwhile."""
        self._sizes: dict[bytes, tuple[int, int]] = {}
        """Of each kept feed, how many messages it had when it was measured, and their bytes."""

    async def take(self, kept: Kept, logs: Sequence[tuple[bytes, int]], stands: Stands) -> Kept:
        """Follow these logs from now on, and wait until they are here, up to the sizes given.

        Raises:
            Stalled: nothing came for ``STALL_SECONDS``; FeedDeleted: it was, here; others: what
            ``stands`` raises, which is told how many bytes the feed has by now.
        """
        feed, channel = kept.content, bytes.fromhex(kept.channel)
        wheres = [(feed, subfeed) for subfeed, _ in logs]
        if not await self._feeds.is_own(feed):
            fresh = not await self._disk(self._feeds.store.logs, feed)
            old = await self._disk(self._state.is_kept, *kept.key)
            pending = kept._replace(whole=old is not None and old.whole)
            await self._disk(self._state.keep_logs, pending, [log[1] for log in wheres], fresh)
            for where in wheres:
                await self._reader.hold(where, channel)
            await self._all_here(wheres, [size for _, size in logs], stands)
        size = await self._disk(self._feeds.store.content_bytes, feed)
        await stands(size)
        whole = kept._replace(size=size, number=len(await self._disk(self._logs_of, kept)) or 1)
        await self._disk(self._state.keep_logs, whole, ())
        return whole

    def _logs_of(self, kept: Kept) -> list[Log]:
        return [(feed, subfeed) for _, feed, subfeed in self._state.kept_logs(kept.key)]

    async def _all_here(self, wheres: Sequence[Log], sizes: Sequence[int], stands: Stands) -> None:
        have = -1
        with self._feeds.listening(*wheres) as bell:
            while True:
                bell.clear()
                if bell.deleted:
                    raise FeedDeleted(feed=wheres[0][0].hex())
                infos = [await self._feeds.info(where) for where in wheres]
                held = [0 if each is None or each.base else each.size for each in infos]
                if all(one >= wanted for one, wanted in zip(held, sizes, strict=True)):
                    return
                if sum(held) > have:
                    have = sum(held)
                    await stands(await self._disk(self._feeds.store.content_bytes, wheres[0][0]))
                try:
                    async with asyncio.timeout(STALL_SECONDS):
                        await bell.wait()
                except TimeoutError as error:
                    what = title(wheres[0][0])
                    raise Stalled(
                        what=what, seconds=STALL_SECONDS, sources="its holders"
                    ) from error

    async def let_go(self, kept: Kept) -> None:
        """Keep a feed no longer; it goes if it came only to be kept."""
        async with self._changing:
            logs = await self._disk(self._logs_of, kept)
            await self._disk(self._state.let_go, kept)
            still = set(await self._disk(self._all_logs))
            for feed, subfeed in logs:
                if (kept.channel, feed, subfeed) not in still:
                    await self._reader.release((feed, subfeed), bytes.fromhex(kept.channel))

    def _all_logs(self) -> list[tuple[str, bytes, bytes]]:
        return self._state.kept_logs()

    async def sweep(self) -> None:
        """Follow what is to be followed. To be called every few seconds."""
        async with self._changing:
            rows = await self._disk(self._all_logs)
            if not rows:
                return
            await self._measure()
            for channel, feed, subfeed in rows:
                where, on = (feed, subfeed), bytes.fromhex(channel)
                if on in self._feeds.context.book and not await self._is_over(channel):
                    await self._reader.hold(where, on)
                else:
                    await self._reader.release(where, on)

    async def delete_unneeded(self) -> None:
        """Delete the feeds that came only to be kept, and are so no longer."""
        read = {feed for (feed, _), readers in self._reader.followed().items() if readers}
        for feed in await self._disk(self._state.unneeded_feeds):
            if feed in read:
                continue  # by somebody here: it goes when they have done
            if not await self._feeds.is_own(feed):
                await self._reader.forget(feed)
                await self._feeds.delete(feed)
            await self._disk(self._state.not_only_kept, [feed.hex()])

    async def _is_over(self, channel: str) -> bool:
        limit = self.offers.on(bytes.fromhex(channel)).limit
        if limit is None:
            return False
        used, _ = await self._disk(self._state.kept_sums, channel, "")
        return used > limit

    async def _measure(self) -> None:
        """Feeds grow."""

        def work() -> None:
            store = self._feeds.store
            for kept in self._state.kept_feeds():
                messages = sum(info.size for _, _, info in store.logs(kept.content))
                before, size = self._sizes.get(kept.content, (-1, 0))
                if messages != before:
                    size = store.content_bytes(kept.content)
                    self._sizes[kept.content] = messages, size
                if kept.whole and size != kept.size:
                    self._state.keep_logs(kept._replace(size=size), ())

        await self._disk(work)
