"""What nodes say to one another about feeds.

``feed.follow`` sends :class:`FeedPart`, with the messages' texts as body where there are any; on
``feed.submit`` the submitter sends one :class:`FeedTexts` with the texts as body, and the owner answers
with :class:`FeedNumbers`.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import FeedId, Hash, Head, Place, Run, SubfeedHash
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.limits import (
    MAX_FEED_MESSAGES,
    MAX_PROOF_HASHES,
    MAX_SLICE_RUNS,
    MAX_SUBFEED_NAME,
)
from kachery_p2p.protocol.method import Method

FEED_FOLLOW = "feed.follow"
FEED_SUBMIT = "feed.submit"
FEED_EVIDENCE = "feed.evidence"


_Proof = Annotated[list[Hash], Meta(max_length=MAX_PROOF_HASHES)]


class FeedFollow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send the messages from ``position`` on, and go on as they come; up to ``stop`` if given.
    ``quiet``: send heads only."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    position: Place
    stop: Place | None
    quiet: bool


class FeedPart(msgspec.Struct, frozen=True, array_like=True):
    """Meta of one frame of ``feed.follow``.

    With messages: ``runs`` describes those that begin at ``start``; ``peaks`` is the frontier there,
    in a stream's first part with messages; ``right`` leads from their end to ``head``. Without:
    news of the log. ``head`` is left out while it is the one sent last, or there is none. ``decision``:
    what the owner decided after a fork, in a stream's first part, and when it is new.
    """

    owner: bool
    base: Place
    start: Place
    runs: Annotated[list[Run], Meta(max_length=MAX_SLICE_RUNS)]
    peaks: _Proof
    right: _Proof
    head: Head | None = None
    fork: Fork | None = None
    decision: Decision | None = None


class FeedSubmit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Append messages to a subfeed. ``submission`` is 16 bytes that name this submission: repeating
    it appends nothing and gives the same answer. ``name``: of the subfeed, as in its URI."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    name: Annotated[str, Meta(max_length=MAX_SUBFEED_NAME)]
    submission: Annotated[bytes, Meta(min_length=16, max_length=16)]


class FeedTexts(msgspec.Struct, frozen=True, array_like=True):
    """How many messages the body holds."""

    count: Annotated[int, Meta(ge=1, le=MAX_FEED_MESSAGES)]


class FeedNumbers(msgspec.Struct, frozen=True, array_like=True):
    """Where the messages stand now: ``count`` of them from number ``first``."""

    first: Place
    count: Annotated[int, Meta(ge=0, le=MAX_FEED_MESSAGES)]


class FeedEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Prove which message stands at ``index`` of the log under your head."""

    channel: bytes
    feed: FeedId
    subfeed: SubfeedHash
    index: Place


class FeedLeaf(msgspec.Struct, frozen=True):
    """The leaf's hash and its inclusion proof in the tree of ``head``."""

    head: Head
    leaf: Hash
    proof: _Proof


METHODS: Final = (
    Method(
        FEED_FOLLOW,
        "stream",
        FeedFollow,
        "any member -> holder (end to end): a log as it grows",
        "request-feeds",
    ),
    Method(
        FEED_SUBMIT,
        "stream",
        FeedSubmit,
        "any member -> owner (end to end): messages to append",
        "request-feeds",
    ),
    Method(
        FEED_EVIDENCE,
        "request",
        FeedEvidence,
        "any member -> holder (end to end): one leaf and its proof",
        "request-feeds",
    ),
)
