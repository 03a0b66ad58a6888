"""What an owner says after a fork: which of the histories that its key signed counts.

A decision is a head of the history that counts, signed anew with a time after that of every head that
was seen of the others, and a number. Of what the key signed earlier, only what leads to that head
counts; of what it signed later, only what continues it. Of two decisions the one with the higher number
counts, and of two with the same number the one with the greater root, so that all come to agree.

Invariant: who has not got the feed's key cannot decide anything. Who has a copy of it can: against that
only a new feed helps.

Non-goals: what becomes of messages that no longer count (:mod:`kachery_p2p.storage.feeds.forks`).
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ForgedFeed
from kachery_p2p.protocol.identity import SIGNATURE_BYTES, NodeKey, verify
from kachery_p2p.protocol.limits import MAX_FEED_DECISIONS

from .feed import MAX_MILLIS, Head, check_head, sign_head
from .fork import Fork

CONTEXT: Final = b"feed decision"


class Decision(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Worth nothing before :func:`check_decision`."""

    number: Annotated[int, Meta(ge=1, le=MAX_FEED_DECISIONS)]
    head: Head
    sig: Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]

    def replaces(self, other: Decision | None) -> bool:
        """Whether this one counts and not the other."""
        if other is None:
            return True
        return (self.number, self.head.root) > (other.number, other.head.root)

    def is_after(self, head: Head) -> bool:
        """Whether a head was signed before this, so that it counts only if it leads to it."""
        return head.timestamp < self.head.timestamp

    def settles(self, fork: Fork) -> bool:
        """Whether it is clear since then which of two histories counts."""
        return self.is_after(fork.first) or self.is_after(fork.second)


def sign_decision(
    key: NodeKey,
    subfeed: bytes,
    *,
    size: int,
    root: bytes,
    fork: Fork,
    now_ms: int,
    last: Decision | None,
) -> Decision:
    """Decide for the history whose first ``size`` messages have that root.

    Args:
        fork: what is decided.
        now_ms: the time; a later one is taken if a head of the fork has it.
        last: the decision before this one.

    Raises:
        BadInput: a value out of range; no later decision is possible.
    """
    number = 1 if last is None else last.number + 1
    seen = max(fork.first.timestamp, fork.second.timestamp, last.head.timestamp if last else 0)
    if number > MAX_FEED_DECISIONS or seen >= MAX_MILLIS:
        raise BadInput(what="fork", reason="no later decision is possible; make a new feed")
    head = sign_head(key, subfeed, size, root, max(now_ms, seen + 1))
    unsigned = Decision(number, head, bytes(SIGNATURE_BYTES))
    return replace(unsigned, sig=key.sign(CONTEXT, _signed_bytes(unsigned)))


def check_decision(decision: Decision, source: str = "another node") -> None:
    """That the owner of the feed decided so.

    Raises:
        ForgedFeed: it did not; names ``source``.
    """
    check_head(decision.head, source)
    if not verify(decision.head.feed, CONTEXT, _signed_bytes(decision), decision.sig):
        what = f"A decision on feed {decision.head.feed.hex()}"
        raise ForgedFeed(what=what, source=source, reason="the feed's key did not sign it")


def _signed_bytes(decision: Decision) -> bytes:
    return codec.pack([decision.number, codec.plain(decision.head)])
