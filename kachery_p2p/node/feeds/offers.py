"""Which feeds a node offers, and on which channels they may go out."""

from __future__ import annotations

from collections.abc import Iterator

from kachery_p2p.protocol.gossip import keys as things
from kachery_p2p.protocol.gossip.blinding import FEED_CONTEXT, FEED_OWNER_CONTEXT
from kachery_p2p.protocol.gossip.keys import Thing, ThingKind
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore


class FeedOffers:
    """The feeds that a node can offer, as :class:`~kachery_p2p.node.gossip.announcer.Offers`."""

    kind: ThingKind = "feeds"
    contexts = frozenset({FEED_CONTEXT, FEED_OWNER_CONTEXT})

    def __init__(self, store: FeedStore) -> None:
        self._store = store

    def scan(self) -> Iterator[Thing]:
        for row in self._store.feeds():
            if row.writable:
                yield things.feed_owner(row.feed)
        for feed, subfeed, info in self._store.logs():
            if info.head is not None:
                yield things.subfeed(feed, subfeed)

    def may_leave(self, thing: Thing, channel: bytes) -> bool:
        feed, subfeed = thing.identifier[:32], thing.identifier[32:]
        return may_leave(self._store, (feed, subfeed), channel)


def may_leave(store: FeedStore, log: Log, channel: bytes) -> bool:
    """Whether a log may go out on a channel: one's own, or one that was fetched there.

    Reads the disk: for a worker thread.
    """
    if store.key(log[0]) is not None:
        return True
    info = store.info(*log)
    return info is not None and channel.hex() in info.channels
