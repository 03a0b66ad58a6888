"""What a peer may say in its hello: what it says of itself is passed on to others, who must be able to
take it, and dates mean nothing between clocks that disagree.
"""

from __future__ import annotations

import math

from kachery_p2p.protocol.errors import ClockSkew, KacheryError, ProtocolViolation
from kachery_p2p.protocol.limits import MAX_CLOCK_SKEW, MAX_HELLO_URLS, MAX_LABEL, MAX_URL
from kachery_p2p.protocol.links.frames import Hello


def flaw(hello: Hello, peer: str, now: float) -> KacheryError | None:
    """Why a link with who says this is to be closed, or None. ``peer``: its name if it gives none."""
    if not math.isfinite(hello.now) or not _fits(hello):
        return ProtocolViolation(reason="a hello with absurd values")
    skew = hello.now - now
    if not abs(skew) <= MAX_CLOCK_SKEW:
        name = hello.label[:40] or peer
        return ClockSkew(peer=name, seconds=round(abs(skew)), limit=MAX_CLOCK_SKEW)
    return None


def _fits(hello: Hello) -> bool:
    return (
        max(len(hello.label), len(hello.software)) <= MAX_LABEL
        and len(hello.urls) <= MAX_HELLO_URLS
        and all(len(url) <= MAX_URL for url in hello.urls)
    )
