"""What nodes say to one another about keeping. A data frame of ``keep.put`` has a :class:`KeepState` as
meta and no body.

A ``content`` is the SHA-1 of a file or of a directory's listing, 20 bytes, or the id of a feed, 32.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.limits import (
    KEPT_PAGE,
    LAST_SECOND,
    MAX_FILE,
    MAX_KEEP_SECONDS,
    MAX_KEPT_LABEL,
    MAX_KEPT_SUBFEEDS,
    MAX_PINS,
)
from kachery_p2p.protocol.method import Method

KEEP_PUT = "keep.put"
KEEP_LIST = "keep.list"
KEEP_DROP = "keep.drop"
KEEP_LOCK = "keep.lock"

SHA1_BYTES: Final = 20
"""Of a content that is a file."""
FEED_BYTES: Final = 32
"""Of a content that is a feed."""

_Content = Annotated[bytes, Meta(min_length=SHA1_BYTES, max_length=FEED_BYTES)]
_Sha1 = Annotated[bytes, Meta(min_length=SHA1_BYTES, max_length=SHA1_BYTES)]
_Size = Annotated[int, Meta(ge=0, le=MAX_FILE)]
_Label = Annotated[str, Meta(max_length=MAX_KEPT_LABEL)]
_Time = Annotated[float, Meta(ge=0, le=LAST_SECOND)]


class KeepPut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fetch this, with all in it, and keep it for me. ``size`` bytes and ``count`` contents is all of
    it, manifests included: a keeper takes no more. ``seconds``: for how long, None for good; what is
    kept for longer already stays so. ``logs``: of a feed, its subfeeds with the size of each."""

    channel: bytes
    content: _Content
    manifest: _Sha1 | None
    size: _Size
    count: Annotated[int, Meta(ge=1, le=MAX_PINS)]
    seconds: Annotated[float, Meta(gt=0, le=MAX_KEEP_SECONDS)] | None
    label: _Label
    logs: Annotated[list[tuple[_Sha1, int]], Meta(max_length=MAX_KEPT_SUBFEEDS)]


class KeepState(msgspec.Struct, frozen=True):
    """How far it is: ``done`` bytes. ``kept``: all of it is on the keeper's disk, and so is that it is
    kept; nothing follows. ``until``: Unix time, None for good."""

    done: _Size
    kept: bool
    until: _Time | None


class KeepList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What do you keep for me? From the one after ``after`` on; empty for the first."""

    channel: bytes
    after: Annotated[bytes, Meta(max_length=FEED_BYTES)]


class KeptThing(msgspec.Struct, frozen=True, array_like=True):
    """``whole``: it is kept, and not only begun. Times are Unix times in seconds.

    Raises:
        ValueError: the content is neither a file nor a feed.
    """

    content: _Content
    label: _Label
    size: _Size
    count: Annotated[int, Meta(ge=0, le=MAX_PINS)]
    since: _Time
    until: _Time | None
    whole: bool

    def __post_init__(self) -> None:
        if len(self.content) not in (SHA1_BYTES, FEED_BYTES):
            raise ValueError("neither a file nor a feed")


class KeptPage(msgspec.Struct, frozen=True):
    """The answer: in the order of the contents."""

    kept: Annotated[list[KeptThing], Meta(max_length=KEPT_PAGE)]
    more: bool


class KeepDrop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keep this for me no longer."""

    channel: bytes
    content: _Content


class Dropped(msgspec.Struct, frozen=True):
    """The answer: whether it was kept."""

    dropped: bool


class KeepLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """I am about to delete my copy of this file: do not delete yours for ``COPY_LOCK_SECONDS``."""

    channel: bytes
    sha1: _Sha1


class LockedCopy(msgspec.Struct, frozen=True):
    """The answer. ``stays``: it was stored there or is pinned, and what was only fetched may go to make
    room when the lock is over. ``until``: when it goes by itself, as a Unix time; None: it does not."""

    size: _Size
    stays: bool
    until: _Time | None


METHODS: Final = (
    Method(
        KEEP_PUT,
        "stream",
        KeepPut,
        "any member -> keeper (end to end): fetch this and keep it",
        "provide-files, or provide-feeds",
    ),
    Method(
        KEEP_LIST,
        "request",
        KeepList,
        "any member -> keeper (end to end): what do you keep for me",
        "member",
    ),
    Method(
        KEEP_DROP,
        "request",
        KeepDrop,
        "any member -> keeper (end to end): keep it no longer",
        "member",
    ),
    Method(
        KEEP_LOCK,
        "request",
        KeepLock,
        "any member -> holder (end to end): I delete my copy, keep yours",
        "request-files",
    ),
)


def title(content: bytes) -> str:
    """What is kept, as users write it."""
    return f"{'feed' if len(content) == FEED_BYTES else 'sha1'}://{content.hex()}"
