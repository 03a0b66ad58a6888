"""The parameters of the local calls about feeds; :mod:`.feed_calls` says what each is for."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.feeds.access import AccessRules
from kachery_p2p.protocol.feeds.feed import FeedId, Place, SubfeedHash
from kachery_p2p.protocol.limits import (
    MAX_CALL_SECONDS,
    MAX_FEED_MESSAGES,
    MAX_FEED_WATCHES,
    MAX_SUBFEED_NAME,
)

_Name = Annotated[str, Meta(max_length=MAX_SUBFEED_NAME)]
_Seconds = Annotated[float, Meta(ge=0, le=MAX_CALL_SECONDS)]
_Most = Annotated[int, Meta(ge=0, le=MAX_FEED_MESSAGES)]
_Count = Annotated[int, Meta(ge=1, le=MAX_FEED_MESSAGES)]


class Create(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=MAX_SUBFEED_NAME)] | None = None
    replace: bool = False


class Feed(msgspec.Struct, frozen=True):
    feed: FeedId


class OneLog(msgspec.Struct, frozen=True):
    feed: FeedId
    subfeed: SubfeedHash


class Append(msgspec.Struct, frozen=True):
    feed: FeedId
    subfeed: SubfeedHash
    name: _Name
    data: bytes
    count: _Count


class Submit(Append, frozen=True, kw_only=True):
    submission: Annotated[bytes, Meta(min_length=16, max_length=16)]
    timeout: _Seconds
    channel: str | None = None


class Stream(msgspec.Struct, frozen=True):
    feed: FeedId
    subfeed: SubfeedHash
    position: Place
    timeout: _Seconds
    wait: _Seconds = 0.0
    channel: str | None = None
    name: _Name | None = None


class Read(Stream, frozen=True):
    most: _Most = 0
    proofs: bool = False


class Watch(msgspec.Struct, frozen=True):
    watches: Annotated[
        list[tuple[FeedId, SubfeedHash, Place]], Meta(min_length=1, max_length=MAX_FEED_WATCHES)
    ]
    timeout: _Seconds
    most: _Most = 0
    wait: _Seconds = 0.0
    channel: str | None = None


class Rules(msgspec.Struct, frozen=True):
    feed: FeedId
    subfeed: SubfeedHash
    rules: AccessRules


class Show(msgspec.Struct, frozen=True):
    feed: FeedId
    timeout: _Seconds
    subfeed: SubfeedHash | None = None
    channel: str | None = None
