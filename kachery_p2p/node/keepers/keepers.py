"""The parts of keeping, put together: what this node offers, keeps, and has others keep."""

from __future__ import annotations

from typing import Any

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.batches.loader import BatchLoader
from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import CopyLocks, Keeping
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.protocol.errors import KacheryError

from .copies import Copies
from .keeper import Keeper
from .kept_feeds import KeptFeeds
from .offering import KeepOffers, told
from .pusher import Pusher
from .taking import Taker


class Keepers:
    def __init__(
        self,
        discovery: Discovery,
        offers: KeepOffers,
        keeping: Keeping,
        locks: CopyLocks,
        downloader: Downloader,
        loader: BatchLoader,
        feeds: Feeds,
        reader: FeedReader,
        backing: Backing,
    ) -> None:
        kept_feeds = KeptFeeds(feeds, reader, offers)
        taker = Taker(feeds.context, keeping, downloader, loader, kept_feeds, discovery.lookup)
        self._context = feeds.context
        self._network = discovery.network
        self.offers = offers
        self.keeper = Keeper(discovery.network, offers, keeping, kept_feeds, taker)
        self.pusher = Pusher(discovery, keeping, feeds.store)
        self.copies = Copies(discovery, locks, backing)

    def on_change(self, channel: bytes) -> None:
        """A channel changed: end what comes from those who may push no longer; forget what was offered
        on one that was left."""
        self.keeper.cut()
        if channel not in self._context.book:
            self._network.supervisor.do("forgetting an offer", lambda: self.offers.forget(channel))

    async def told(self, channel: bytes) -> dict[str, Any]:
        """What this node offers to keep on a channel, and keeps by now: plain values."""
        state = self._context.state
        used, _ = await self._context.workers.disk(state.kept_sums, channel.hex(), "")
        return {**told(self.offers.on(channel)), "used": used}

    async def known(self, channel: bytes) -> set[str]:
        """The ids of those that keep for this node on a channel, as far as that is known at once."""
        try:
            return {each.node for each in await self.pusher.keepers(channel, patience=0)}
        except KacheryError:
            return set()
