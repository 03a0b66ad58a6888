"""How a feed or a subfeed is named on the command line."""

from __future__ import annotations

import contextlib
import re
from typing import Final

from kachery_p2p.client import sync
from kachery_p2p.client.feeds.feeds import Feed
from kachery_p2p.client.feeds.snapshots import is_snapshot_uri, parse_snapshot_uri
from kachery_p2p.client.feeds.subfeeds import Subfeed
from kachery_p2p.protocol.errors import BadInput, UnknownFeed
from kachery_p2p.protocol.feeds.feed import feed_uri, parse_feed_uri

FEED: Final = "URI|NAME"
SUBFEED: Final = "URI|NAME/SUBFEED"

_ID: Final = re.compile(r"[0-9a-fA-F]{64}(/.*)?", re.DOTALL)


def parse_target(text: str) -> tuple[str, str | None]:
    """What names the feed (a URI or a name), and the subfeed's name if there is one.

    Args:
        text: a ``feed://`` or ``sha1://`` URI, a feed id, or a feed's own name; the latter two
            optionally with ``/`` and the name of a subfeed.

    Raises:
        BadUri: it is a URI of another kind, or a wrong one.
    """
    if is_snapshot_uri(text):
        return parse_snapshot_uri(text)
    if "://" not in text and not _ID.fullmatch(text):
        name, _, rest = text.partition("/")
        return name, rest or None
    found, subfeed = parse_feed_uri(text if "://" in text else f"feed://{text}")
    return feed_uri(found), subfeed


def open_target(
    target: str, *, timeout: float | None = None, channel: str | None = None
) -> tuple[Feed, str | None]:
    """The feed that is named on the command line, and the subfeed's name if there is one. Raises as
    :func:`load_feed`."""

    def opened(text: str) -> Feed:
        return sync.load_feed(text, timeout_sec=timeout, channel=channel)

    text, name = parse_target(target)
    try:
        return opened(text), name
    except UnknownFeed:
        # A feed's own name may have slashes in it, and so may a subfeed's.
        ends = [at for at, letter in enumerate(target) if letter == "/" and at > len(text)]
        for end in [*ends, len(target)]:
            with contextlib.suppress(UnknownFeed):
                return opened(target[:end]), target[end + 1 :] or None
        raise


def open_subfeed(
    target: str, *, timeout: float | None = None, channel: str | None = None
) -> Subfeed:
    """The subfeed that is named on the command line. Raises as :func:`load_feed`."""
    reason = "it names no subfeed; add its name, as in myfeed/primes or feed://31ab.../primes"
    if parse_target(target)[1] is None:
        raise BadInput(what=target, reason=reason)
    feed, name = open_target(target, timeout=timeout, channel=channel)
    if name is None:
        raise BadInput(what=target, reason=reason)
    return feed.load_subfeed(name)
