"""Which feeds a node offers, and on which channels they may go out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kachery_p2p.node.gossip.ordered_scan import Remake
from kachery_p2p.protocol.feeds.keys import (
    FEED_CONTEXT,
    FEED_OWNER_CONTEXT,
    feed_owner_key,
    subfeed_key,
)
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore


class FeedOffers:
    """The feeds that a node can offer, as :class:`~kachery_p2p.node.gossip.comparison.Offers`."""

    kind: ContentKind = "feeds"
    contexts = frozenset({FEED_CONTEXT, FEED_OWNER_CONTEXT})
    many: Mapping[bytes, Remake] = {}

    def __init__(self, store: FeedStore) -> None:
        self._store = store

    def scan(self) -> Iterator[ContentKey]:
        for row in self._store.feeds():
            if row.writable:
                yield feed_owner_key(row.feed)
        for feed, subfeed, info in self._store.logs():
            if info.head is not None:
                yield subfeed_key(feed, subfeed)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        for content in contents:
            feed, subfeed = content.identifier[:32], content.identifier[32:]
            if may_leave(self._store, (feed, subfeed), channel):
                yield content


def may_leave(store: FeedStore, log: Log, channel: bytes) -> bool:
    """Whether a log may go out on a channel: one's own, or one that was fetched there.

    Reads the disk: for a worker thread.
    """
    if store.key(log[0]) is not None:
        return True
    info = store.info(*log)
    return info is not None and channel.hex() in info.channels
