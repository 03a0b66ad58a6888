"""What nodes say to one another about who has what: announcement logs, look-ups, watches."""

from __future__ import annotations

from typing import Final

import msgspec

from kachery_p2p.protocol.channels.member_urls import verify_urls
from kachery_p2p.protocol.gossip.keys import ContentKind
from kachery_p2p.protocol.limits import MAX_HELLO_URLS, MAX_HOLDERS, MAX_QUERY_KEYS
from kachery_p2p.protocol.method import Method

from .announcements import Batch

WHO_HAS = "who-has"
GOSSIP_DIGEST = "gossip.digest"
GOSSIP_BATCH = "gossip.batch"
WATCH = "watch"
APPEARED = "appeared"


class WhoHas(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who holds these blinded keys, all of content of one kind. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    kind: ContentKind
    keys: list[bytes]

    def __post_init__(self) -> None:
        if len(self.keys) > MAX_QUERY_KEYS:
            raise ValueError(f"more than {MAX_QUERY_KEYS} keys")


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
    that "nobody has it" is never said when "nobody may give it" is meant.
    """

    nodes: list[NodeInfo]
    holders: list[list[int]]
    unwilling: list[bytes]

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
    """How far a proxy knows the announcement logs of a channel, for the origins whose ids lie in
    [low, high]. To a node that is no proxy it names that node alone. The receiver answers with the
    ``gossip.batch`` notes that are missing."""

    channel: bytes
    low: bytes
    high: bytes
    origins: list[OriginState]


class Watch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From now on (or, with ``on`` false, no longer) tell me when somebody who provides one of these
    keys comes online, or begins to provide it. At most ``MAX_QUERY_KEYS``."""

    channel: bytes
    kind: ContentKind
    keys: list[bytes]
    on: bool

    def __post_init__(self) -> None:
        if len(self.keys) > MAX_QUERY_KEYS:
            raise ValueError(f"more than {MAX_QUERY_KEYS} keys")


class Appeared(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody who provides these keys is there now: it is worth asking who."""

    channel: bytes
    keys: list[bytes]


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
        "both ways: a signed piece of an origin's announcement log",
        "member",
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
