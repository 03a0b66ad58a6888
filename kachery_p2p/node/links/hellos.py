"""Hellos: what this node says of itself, and what peers say; why a link with who says something absurd
is closed.

A peer says which channels it is on in tags (:mod:`kachery_p2p.protocol.channels.membership`): of one
that this node does not know nothing is learned. What it says is its own word, and gives it no right.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Set

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.channels.member_urls import verify_urls
from kachery_p2p.protocol.channels.membership import GUEST_VERSION, ChannelBook
from kachery_p2p.protocol.errors import ClockSkew, KacheryError, ProtocolViolation
from kachery_p2p.protocol.limits import MAX_CLOCK_SKEW, MAX_HELLO_URLS, MAX_LABEL, MAX_URL
from kachery_p2p.protocol.links.frames import Hello

from .link import Link

_LOOK_SECONDS = 0.02

Channels = dict[bytes, tuple[int, list[str]]]
"""By tag: the version of the channel's document, and the wanted roles."""


def own_hello(context: Context, channels: Channels) -> Hello:
    """``channels``: by tag, see :mod:`kachery_p2p.protocol.channels.membership`."""
    urls, signature = context.signed_urls()
    return Hello(
        software=context.software,
        now=context.clock(),
        label=context.label,
        urls=urls,
        channels=channels,
        signature=signature,
    )


def flaw(hello: Hello, peer: str, now: float) -> KacheryError | None:
    """Why a link with the node ``peer`` (64 hex digits), which says this, is to be closed, or None.

    What a node says of itself is passed on to others, who must be able to take it, and to check it;
    and dates mean nothing between clocks that disagree.
    """
    if not math.isfinite(hello.now) or not _fits(hello):
        return ProtocolViolation(reason="a hello with absurd values")
    if not verify_urls(bytes.fromhex(peer), hello.urls, hello.signature):
        return ProtocolViolation(reason="a hello with addresses that its node has not signed")
    skew = hello.now - now
    if not abs(skew) <= MAX_CLOCK_SKEW:
        name = hello.label[:40] or peer[:8]
        return ClockSkew(peer=name, seconds=round(abs(skew)), limit=MAX_CLOCK_SKEW)
    return None


def _fits(hello: Hello) -> bool:
    return (
        max(len(hello.label), len(hello.software)) <= MAX_LABEL
        and len(hello.urls) <= MAX_HELLO_URLS
        and all(len(url) <= MAX_URL for url in hello.urls)
    )


class Sayings:
    """What the peer of each link says of its channels, with versions and wanted roles."""

    def __init__(self, book: ChannelBook) -> None:
        self._book = book
        self._channels: dict[Link, Channels] = {}

    def hear(self, link: Link, channels: Channels) -> None:
        """This counts from now on, instead of what it said before."""
        self._channels[link] = channels

    def forget(self, link: Link) -> None:
        self._channels.pop(link, None)

    def tags(self, link: Link) -> Set[bytes]:
        """Of all its channels, those included that this node does not know."""
        return self._channels.get(link, {}).keys()

    def of(self, link: Link) -> list[tuple[bytes, int, list[str]]]:
        """(channel, document version, wanted roles) of the peer's channels that we know too."""
        tags = self._book.tags(link.session.handshake_hash, link.peer)
        return [
            (tags[tag], version, wanted)
            for tag, (version, wanted) in self._channels.get(link, {}).items()
            if tag in tags
        ]

    def switched_off(self, link: Link, channel: bytes, role: str) -> bool:
        """Whether the peer's own user has said no to a role on a channel."""
        for known, _, wanted in self.of(link):
            if known == channel:
                return role not in wanted
        return False

    def version(self, link: Link, channel: bytes) -> int:
        """Which version of a channel's document the peer says it has; 0 if it has said none."""
        return max((v for known, v, _ in self.of(link) if known == channel), default=0)

    def is_guest(self, link: Link, channel: bytes | None = None) -> bool:
        """Whether it says that it holds an invitation, or a pass, to this channel, or to any."""
        return any(v == GUEST_VERSION and channel in (None, c) for c, v, _ in self.of(link))


async def settled(
    link: Link, *, shares: Callable[[], bool], hope: Callable[[], bool], seconds: float
) -> bool:
    """Wait until the link ``shares`` a channel, there is no ``hope`` that it will, or the time is up.
    False: it is open, and shares none.

    Two nodes may know different versions of a document when they meet. The newer one is pulled within a
    moment, and may make members of both.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while link.closed_by is None and not shares():
        if not hope() or loop.time() >= deadline:
            return False
        await asyncio.sleep(_LOOK_SECONDS)
    return True
