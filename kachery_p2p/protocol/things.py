"""What nodes announce and look for: files, feeds, and whatever comes later, in one form.

A :class:`Thing` says which roles it takes (``kind``), what it is called for people, and under which
blinded key it goes (:mod:`.blinding`) on a channel with a given secret.
"""

from __future__ import annotations

from hashlib import sha1 as _sha1
from typing import Final, Literal, NamedTuple

from .blinding import FEED_CONTEXT, FEED_OWNER_CONTEXT, FILE_CONTEXT, blinded_key
from .feed import feed_uri

ThingKind = Literal["files", "feeds"]
KINDS: Final[tuple[ThingKind, ...]] = ("files", "feeds")

NAME_BYTES: Final = 20


class Thing(NamedTuple):
    """``context`` and ``identifier`` are what is blinded; ``title`` is for people."""

    kind: ThingKind
    context: bytes
    identifier: bytes
    title: str

    @property
    def name(self) -> bytes:
        """20 bytes by which a node's own notes tell it from its other things."""
        if len(self.identifier) == NAME_BYTES:
            return self.identifier
        return _sha1(self.context + self.identifier).digest()

    def key(self, secret: bytes) -> bytes:
        """The 16-byte blinded key under a channel's secret."""
        return blinded_key(secret, self.context, self.identifier)


def file(sha1: str) -> Thing:
    """A file, by its hash in hex."""
    return Thing("files", FILE_CONTEXT, bytes.fromhex(sha1), f"sha1://{sha1}")


def subfeed(feed: bytes, subfeed: bytes) -> Thing:
    """A subfeed's log, whoever holds it."""
    title = feed_uri(feed, f"~{subfeed.hex()}")
    return Thing("feeds", FEED_CONTEXT, feed + subfeed, title)


def feed_owner(feed: bytes) -> Thing:
    """The node that has a feed's key, and so every subfeed there is."""
    return Thing("feeds", FEED_OWNER_CONTEXT, feed, feed_uri(feed))


def request_role(kind: ThingKind) -> str:
    """The role by which one may look for things of a kind."""
    return f"request-{kind}"


def provide_role(kind: ThingKind) -> str:
    """The role by which one may offer them."""
    return f"provide-{kind}"
