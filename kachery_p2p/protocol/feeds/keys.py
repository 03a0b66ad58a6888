"""Under which content keys feeds are announced and looked up: a log, and the node with a feed's key."""

from __future__ import annotations

from typing import Final

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.feeds.feed import feed_uri
from kachery_p2p.protocol.gossip.keys import ContentKey

FEED_CONTEXT: Final = b"kachery-feed"
"""Personalisation of subfeed keys; the identifier is the feed id and the subfeed's hash, 52 bytes."""

FEED_OWNER_CONTEXT: Final = b"kachery-owner"
"""Personalisation of the keys under which a feed's owner is found; the identifier is the feed id."""

_FEED_BYTES: Final = 32
_SUBFEED_BYTES: Final = 20


def subfeed_key(feed: bytes, subfeed: bytes) -> ContentKey:
    """A subfeed's log, whoever holds it: by the feed's id, 32 bytes, and the subfeed's hash, 20 bytes.

    Raises:
        BadInput: one of them has another length.
    """
    if len(subfeed) != _SUBFEED_BYTES:
        raise BadInput(what="subfeed hash", reason=f"it is {_SUBFEED_BYTES} bytes")
    title = feed_uri(_checked(feed), f"~{subfeed.hex()}")
    return ContentKey("feeds", FEED_CONTEXT, feed + subfeed, title)


def feed_owner_key(feed: bytes) -> ContentKey:
    """The node that has a feed's key, and so every subfeed there is: by the feed's id, 32 bytes.

    Raises:
        BadInput: it has another length.
    """
    return ContentKey("feeds", FEED_OWNER_CONTEXT, _checked(feed), feed_uri(feed))


def _checked(feed: bytes) -> bytes:
    if len(feed) != _FEED_BYTES:
        raise BadInput(what="feed id", reason=f"it is {_FEED_BYTES} bytes")
    return feed
