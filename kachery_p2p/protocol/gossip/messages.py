"""What nodes say to one another about who has what: announcement logs, look-ups, watches."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from kachery_p2p.protocol.channels.member_urls import verify_urls
from kachery_p2p.protocol.gossip.keys import ContentKind
from kachery_p2p.protocol.limits import (
    BLINDED_KEY_BYTES,
    LOOKUP_HOLD_SECONDS,
    MAX_DIGEST_ORIGINS,
    MAX_HELLO_URLS,
    MAX_HOLDERS,
    MAX_QUERY_KEYS,
)
from kachery_p2p.protocol.method import Method

from .announcements import Batch

WHO_HAS = "who-has"
GOSSIP_DIGEST = "gossip.digest"
GOSSIP_BATCH = "gossip.batch"
GOSSIP_HEARD = "gossip.heard"
GOSSIP_PULL = "gossip.pull"
WATCH = "watch"
APPEARED = "appeared"


Keys = Annotated[
    list[Annotated[bytes, Meta(min_length=BLINDED_KEY_BYTES, max_length=BLINDED_KEY_BYTES)]],
    Meta(max_length=MAX_QUERY_KEYS),
]
"""Blinded keys: each counts where it is kept, so none is longer than it must be."""


class WhoHas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds these blinded keys, all of content of one kind. At most ``MAX_QUERY_KEYS``.

    ``secret_version`` is that of the secret under which the keys were made. ``hold``: if no holder is
    online and it is not known yet whether there is one, answer when that changes, or after so many
    milliseconds.
    """

    channel: bytes
    kind: ContentKind
    keys: Keys
    secret_version: int
    hold: Annotated[int, Meta(ge=0, le=int(LOOKUP_HOLD_SECONDS * 1000))]


class NodeInfo(msgspec.Struct, frozen=True):
    """A member as a proxy knows it. ``online``: linked to that proxy now. ``signature``: the member's
    over ``urls``, which are worth nothing without it (see :mod:`.channels.member_urls`)."""

    node: bytes
    label: str
    urls: list[str]
    online: bool
    signature: bytes

    def checked_urls(self) -> tuple[str, ...]:
        """The addresses that the member itself has signed."""
        urls = self.urls[:MAX_HELLO_URLS]
        return tuple(urls) if verify_urls(self.node, urls, self.signature) else ()


class Holders(msgspec.Struct, frozen=True):
    """The answer to ``who-has``: per key, indexes into ``nodes``; at most ``MAX_HOLDERS`` each.

    ``unwilling`` names members that are online and have switched off providing such content, so
    that "nobody has it" is never said when "nobody may give it" is meant. ``unknown`` names members
    that may have any of it and have not told this proxy everything yet: of keys without holders it is
    not known yet whether there are any. ``silent``: the same, but they have not said a word for so
    long that they are not waited for. ``unwilling``, ``unknown`` and ``silent`` are told only if some
    key has no holder that is online, and at most ``MAX_HOLDERS`` each.
    """

    nodes: list[NodeInfo]
    holders: list[list[int]]
    unwilling: list[bytes]
    unknown: list[bytes]
    silent: list[bytes]

    def of(self, index: int) -> list[NodeInfo]:
        """The holders of the ``index``-th key asked; what points nowhere is left out."""
        if index >= len(self.holders):
            return []
        places = self.holders[index][:MAX_HOLDERS]
        return [self.nodes[place] for place in places if 0 <= place < len(self.nodes)]


class OriginState(msgspec.Struct, frozen=True, array_like=True):
    origin: bytes
    epoch: int
    seq: int


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far the sender knows the announcement logs of a channel, for the origins whose ids lie in
    [low, high]: a proxy of all, anybody else of its own. To a node that is no proxy a proxy names that
    node alone. ``ask``: tell me yours. Who keeps an index pulls what it lacks."""

    channel: bytes
    low: bytes
    high: bytes
    origins: list[OriginState]
    ask: bool


class Pull(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``gossip.pull``: the batches of these logs that come after what is named here; an epoch of -1
    for a log that is not known at all."""

    channel: bytes
    origins: Annotated[list[OriginState], Meta(max_length=MAX_DIGEST_ORIGINS)]


class Heard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``gossip.heard``: so many more ``gossip.batch`` notes of yours have been dealt with."""

    channel: bytes
    count: int


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From now on (or, with ``on`` false, no longer) tell me when somebody who provides one of these
    keys comes online, or begins to provide it. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    kind: ContentKind
    keys: Keys
    on: bool


class Appeared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who provides these keys is there now: it is worth asking who."""

    channel: bytes
    keys: Keys


METHODS: Final = (
    Method(
        GOSSIP_DIGEST,
        "note",
        Digest,
        "both ways, on linking: how far I know each origin's log",
        "member",
    ),
    Method(
        GOSSIP_BATCH,
        "note",
        Batch,
        "both ways: a new signed piece of an announcement log",
        "member",
    ),
    Method(GOSSIP_HEARD, "note", Heard, "both ways: I have so many more of your batches", "member"),
    Method(
        GOSSIP_PULL, "stream", Pull, "proxy -> member: send the pieces of logs that I lack", "proxy"
    ),
    Method(WHO_HAS, "request", WhoHas, "any member -> proxy", "request-<kind>"),
    Method(
        WATCH,
        "note",
        Watch,
        "any member -> proxy: tell me who comes to have these keys",
        "request-<kind>",
    ),
    Method(
        APPEARED, "note", Appeared, "proxy -> member: somebody has, or who has it is back", "proxy"
    ),
)
