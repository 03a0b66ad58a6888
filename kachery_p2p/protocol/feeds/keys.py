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

FEED_APPEND_CONTEXT: Final = b"kachery-append"
"""Personalisation of the marks of passes with which visitors may append; the identifier is that of the
subfeed. Nothing is announced under these keys."""

_FEED_BYTES: Final = 32
_SUBFEED_BYTES: Final = 20


def subfeed_key(feed: bytes, subfeed: bytes) -> ContentKey:
    """A subfeed's log, whoever holds it: by the feed's id, 32 bytes, and the subfeed's hash, 20 bytes.

    Raises:
        BadInput: one of them has another length.
    """
    return _subfeed_key(FEED_CONTEXT, feed, subfeed)


def append_key(feed: bytes, subfeed: bytes) -> ContentKey:
    """The right of a visitor to append to a subfeed, as :func:`subfeed_key` names it."""
    return _subfeed_key(FEED_APPEND_CONTEXT, feed, subfeed)


def feed_owner_key(feed: bytes) -> ContentKey:
    """The node that has a feed's key, and so every subfeed there is: by the feed's id, 32 bytes.

    Raises:
        BadInput: it has another length.
    """
    return ContentKey("feeds", FEED_OWNER_CONTEXT, _checked(feed), feed_uri(feed))


def _subfeed_key(context: bytes, feed: bytes, subfeed: bytes) -> ContentKey:
    if len(subfeed) != _SUBFEED_BYTES:
        raise BadInput(what="subfeed hash", reason=f"it is {_SUBFEED_BYTES} bytes")
    title = feed_uri(_checked(feed), f"~{subfeed.hex()}")
    return ContentKey("feeds", context, feed + subfeed, title)


def _checked(feed: bytes) -> bytes:
    if len(feed) != _FEED_BYTES:
        raise BadInput(what="feed id", reason=f"it is {_FEED_BYTES} bytes")
    return feed
