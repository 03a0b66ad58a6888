"""The files that a node can offer: what lies in its storage, in its origins, and what it is
fetching."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from kachery_p2p.node.context import Context
from kachery_p2p.node.gossip.announcer import Announcer
from kachery_p2p.node.gossip.ordered_scan import Page, Remake
from kachery_p2p.protocol.files.keys import FILE_CONTEXT, PART_CONTEXT, file_key_of, part_key
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.storage.paths import names

_PAGE: Final = 500
"""Files in a page of a scan."""


class BlobOffers:
    """As :class:`~kachery_p2p.node.gossip.comparison.Offers`."""

    kind: ContentKind = "files"
    contexts = frozenset({FILE_CONTEXT})
    many: Mapping[bytes, Remake] = {FILE_CONTEXT: file_key_of}

    def __init__(self, context: Context) -> None:
        self._context = context

    def scan(self) -> Iterator[Page]:
        found = self._here()
        while some := list(itertools.islice(found, _PAGE)):
            yield Page(FILE_CONTEXT, [bytes.fromhex(sha1) for sha1 in some])

    def _here(self) -> Iterator[str]:
        store = self._context.store
        for sha1, kind in names(store.root):
            if kind != "link" or store.find(sha1) is not None:
                yield sha1
        if self._context.elsewhere is not None:
            yield from self._context.elsewhere.scan()

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        of = {content.identifier.hex(): content for content in contents}
        return [of[sha1] for sha1 in self._context.bindings.leaving(list(of), channel.hex())]


class PartOffers:
    """As :class:`~kachery_p2p.node.gossip.comparison.Offers`: files of which a part is here, because
    they are being fetched now."""

    kind: ContentKind = "files"
    contexts = frozenset({PART_CONTEXT})
    many: Mapping[bytes, Remake] = {}

    def __init__(self, context: Context) -> None:
        self._context = context
        self._channels: dict[str, bytes] = {}
        """Where each comes from. Replaced as a whole: worker threads read it."""

    def offer(self, announcer: Announcer, sha1: str, channel: bytes | None) -> None:
        """A part of it is here, from this channel; None: no more, or all of it is."""
        others = {name: each for name, each in self._channels.items() if name != sha1}
        if channel is None:
            self._channels = others
            announcer.withdraw(part_key(sha1))
        else:
            self._channels = others | {sha1: channel}
            announcer.provide(part_key(sha1), channel)

    def scan(self) -> Iterator[ContentKey]:
        for sha1 in self._channels:
            yield part_key(sha1)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        channels = self._channels
        of = {content.identifier.hex(): content for content in contents}
        there = [sha1 for sha1 in of if channels.get(sha1) == channel]
        unshared = self._context.state.unshared(there, channel.hex())
        return [of[sha1] for sha1 in there if sha1 not in unshared]
