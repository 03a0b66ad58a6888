"""Hellos: what this node says of itself, and why a link with who says something absurd is closed."""

from __future__ import annotations

import math

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.channels.member_urls import verify_urls
from kachery_p2p.protocol.errors import ClockSkew, KacheryError, ProtocolViolation
from kachery_p2p.protocol.limits import MAX_CLOCK_SKEW, MAX_HELLO_URLS, MAX_LABEL, MAX_URL
from kachery_p2p.protocol.links.frames import Hello


def own_hello(context: Context, channels: dict[bytes, tuple[int, list[str]]]) -> Hello:
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
