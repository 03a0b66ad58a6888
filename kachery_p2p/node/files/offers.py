"""The files that a node can offer: what lies in its storage, and in its origins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kachery_p2p.node.context import Context
from kachery_p2p.node.gossip.ordered_scan import Remake
from kachery_p2p.protocol.files.keys import FILE_CONTEXT, file_key
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.storage.paths import scan


class BlobOffers:
    """As :class:`~kachery_p2p.node.gossip.comparison.Offers`."""

    kind: ContentKind = "files"
    contexts = frozenset({FILE_CONTEXT})
    many: Mapping[bytes, Remake] = {FILE_CONTEXT: lambda identifier: file_key(identifier.hex())}

    def __init__(self, context: Context) -> None:
        self._context = context

    def scan(self) -> Iterator[ContentKey]:
        store = self._context.store
        for entry in scan(store.root):
            if entry.kind != "link" or store.find(entry.sha1) is not None:
                yield file_key(entry.sha1)
        if self._context.elsewhere is not None:
            for sha1 in self._context.elsewhere.scan():
                yield file_key(sha1)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        of = {content.identifier.hex(): content for content in contents}
        return [of[sha1] for sha1 in self._context.bindings.leaving(list(of), channel.hex())]
