"""For whom a node keeps things on a channel, and how much: values, and what follows from them; and
under which content keys a keeper is announced and looked up.

There is a key for whoever it may be, and one for each node that it keeps for. Who looks up the latter
must know the node: a proxy does not learn for whom somebody keeps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, Self

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.identity import check_node_id
from kachery_p2p.protocol.limits import MAX_FILE, MAX_KEEP_FOR, MAX_KEPT_EACH

KEEPER_CONTEXT: Final = b"kachery-keeper"
"""Personalisation of these keys; the identifier is the node's id, 32 bytes, or empty."""


def keeper_key(node: str | None) -> ContentKey:
    """Somebody who keeps for a node (64 hex digits), or (None) for every member."""
    identifier = b"" if node is None else bytes.fromhex(check_node_id(node))
    return ContentKey("files", KEEPER_CONTEXT, identifier, "a keeper")


def later(one: float | None, other: float | None) -> float | None:
    """The later of two times at which something ends; None: it does not."""
    return None if one is None or other is None else max(one, other)


class KeepOffer(NamedTuple):
    """``nodes``: ids in hex; None: every member. ``limit``: bytes on this channel; None: as much as the
    storage holds."""

    nodes: frozenset[str] | None = frozenset()
    limit: int | None = None

    @classmethod
    def made(cls, nodes: Iterable[str] | None, limit: int | None) -> Self:
        """A checked one. Raises BadInput."""
        checked = None if nodes is None else frozenset(check_node_id(each) for each in nodes)
        if checked is not None and len(checked) > MAX_KEEP_FOR:
            raise BadInput(what="keep-for", reason=f"it names more than {MAX_KEEP_FOR} nodes")
        if limit is not None and not 0 < limit <= MAX_FILE:
            raise BadInput(what="keep-limit", reason=f"it is between 1 and {MAX_FILE} bytes")
        return cls(checked, limit)

    def is_for(self, node: str) -> bool:
        """Whether something is kept for that node."""
        return self.nodes is None or node in self.nodes

    def why_not(self, node: str, size: int, used: int, things: int) -> str:
        """Why it does not keep so many bytes more for a node, as a sentence without its full stop;
        empty if it does. ``used``: what it keeps on the channel by now, for all; ``things``: how many
        for that node."""
        if not self.is_for(node):
            return "it does not keep anything for this node; its user offers that (--keep-for)"
        if self.limit is not None and used + size > self.limit:
            return (
                f"{size} bytes more would pass the {self.limit} bytes that it keeps on this channel, "
                f"of which {used} are used"
            )
        if things >= MAX_KEPT_EACH:
            return f"it keeps {things} things for this node already; drop some, or push a folder"
        return ""
