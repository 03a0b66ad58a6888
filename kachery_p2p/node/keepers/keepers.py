"""The parts of keeping, put together: what this node offers, keeps, and has others keep."""

from __future__ import annotations

from kachery_p2p.node.feeds.feeds import Feeds
from kachery_p2p.node.feeds.reader import FeedReader
from kachery_p2p.node.files.batch_loader import BatchLoader
from kachery_p2p.node.files.copy_locks import CopyLocks
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.node.gossip.discovery import Discovery

from .copies import Copies
from .keeper import Keeper
from .kept_feeds import KeptFeeds
from .offering import KeepOffers
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
    ) -> None:
        kept_feeds = KeptFeeds(feeds, reader, offers)
        taker = Taker(feeds.context, keeping, downloader, loader, kept_feeds)
        self.offers = offers
        self.keeper = Keeper(discovery.network, offers, keeping, kept_feeds, taker)
        self.pusher = Pusher(discovery, keeping, feeds.store)
        self.copies = Copies(discovery, locks)
