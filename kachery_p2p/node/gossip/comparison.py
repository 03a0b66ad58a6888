"""What is here, compared with one announcement log: what is new, and what has gone.

Contents are announced in the order of their blinded keys, once all of their kinds were seen. What has
gone is known when all kinds have been seen.

Non-goals: what comes or goes meanwhile, which is announced as it comes.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.gossip.announcements import PROVIDE, AnnouncementLog, Change
from kachery_p2p.protocol.gossip.blinding import blinding
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind

from .ordered_scan import OrderedScan, Page, Remake

_SLICE = 1_000
"""Contents dealt with in one visit to a worker thread."""


class Offers(Protocol):
    """What a room of the node has. Both methods read the disk: they are called in worker threads."""

    @property
    def kind(self) -> ContentKind: ...

    @property
    def contexts(self) -> frozenset[bytes]:
        """The contexts of its content (:mod:`kachery_p2p.protocol.gossip.blinding`)."""

    @property
    def many(self) -> Mapping[bytes, Remake]:
        """Those of the contexts in which there may be very many, and how a content is made again from
        its identifier; all of one context are of one length."""

    def scan(self) -> Iterator[ContentKey | Page]:
        """Everything that is here; of those of ``many`` a page at a time, about as much as is dealt
        with in one visit to a worker thread, or less."""

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        """Those that may go out on a channel at all: what was fetched on another may not."""


def all_leaving(
    offers: Mapping[bytes, Offers], contents: Iterable[ContentKey], channel: bytes
) -> set[ContentKey]:
    """Those that may go out on a channel; ``offers``: by the contexts of what they have."""
    of: dict[bytes, list[ContentKey]] = {}
    for content in contents:
        of.setdefault(content.context, []).append(content)
    return {
        content
        for context, those in of.items()
        for content in offers[context].leaving(those, channel)
    }


class Comparison:
    """``where``: a channel, and its secret. ``go_on`` says whether it is still worth the trouble, and
    ``change`` appends to the log; it returns False if the log has been replaced."""

    def __init__(
        self,
        workers: Workers,
        offers: Sequence[Offers],
        where: tuple[bytes, bytes],
        own: AnnouncementLog,
        *,
        go_on: Callable[[], bool],
        change: Callable[[list[Change]], Awaitable[bool]],
    ) -> None:
        self.gone = own.keys()
        """Keys in the log of what was not seen so far."""
        self._disk = workers.disk
        self._offers = offers
        self._by_context = {context: each for each in offers for context in each.contexts}
        self._channel, self._secret = where
        self._own = own
        self._go_on = go_on
        self._change = change

    async def announce(self, kinds: frozenset[ContentKind]) -> bool:
        """Announce what is here of these kinds and was not; whether it came to an end."""
        fresh = await self._scan(kinds)
        if fresh is None:
            return False
        ordered = iter(fresh)
        while True:
            more, changes = await self._disk(self._allowed, ordered)
            if not more:
                return True
            if not self._go_on() or not await self._change(changes):
                return False

    async def _scan(self, kinds: frozenset[ContentKind]) -> OrderedScan | None:
        fresh = OrderedScan({c: make for each in self._offers for c, make in each.many.items()})
        found = itertools.chain.from_iterable(
            offer.scan() for offer in self._offers if offer.kind in kinds
        )
        while await self._disk(self._some, found, fresh):
            if not self._go_on():
                return None
        return fresh

    def _some(self, found: Iterator[ContentKey | Page], fresh: OrderedScan) -> bool:
        seen = 0
        for each in found:
            if isinstance(each, Page):
                seen += len(each.identifiers)
                fresh.add_many(each.context, self._unsaid(each))
            else:
                seen += 1
                key = each.blinded(self._secret)
                if self._is_unsaid(key):
                    fresh.add(key, each)
            if seen >= _SLICE:
                return True
        return seen > 0

    def _unsaid(self, page: Page) -> Iterator[tuple[bytes, bytes]]:
        blinded = blinding(self._secret, page.context)
        for identifier in page.identifiers:
            key = blinded(identifier)
            if self._is_unsaid(key):
                yield key, identifier

    def _is_unsaid(self, key: bytes) -> bool:
        """It is here; whether the log does not say so."""
        if key in self._own:
            self.gone.discard(key)
            return False
        return True

    def _allowed(self, ordered: Iterator[tuple[bytes, ContentKey]]) -> tuple[bool, list[Change]]:
        here = list(itertools.islice(ordered, _SLICE))
        leaving = all_leaving(self._by_context, (content for _, content in here), self._channel)
        changes = [(PROVIDE, key) for key, content in here if content in leaving]
        return bool(here), changes
