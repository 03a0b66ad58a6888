"""The files that a node can offer: what lies in its storage."""

from __future__ import annotations

from collections.abc import Iterator

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.gossip import keys as things
from kachery_p2p.protocol.gossip.blinding import FILE_CONTEXT
from kachery_p2p.protocol.gossip.keys import Thing, ThingKind
from kachery_p2p.storage.paths import scan


class BlobOffers:
    """As :class:`~kachery_p2p.node.gossip.announcer.Offers`."""

    kind: ThingKind = "files"
    contexts = frozenset({FILE_CONTEXT})

    def __init__(self, context: Context) -> None:
        self._context = context

    def scan(self) -> Iterator[Thing]:
        store = self._context.store
        for entry in scan(store.root):
            if entry.kind != "link" or store.find(entry.sha1) is not None:
                yield things.file(entry.sha1)

    def may_leave(self, thing: Thing, channel: bytes) -> bool:
        return self._context.may_leave(thing.identifier.hex(), channel)
