"""For whom this node keeps things, on each channel: as its user said, remembered, and announced.

Non-goals: what is kept, see :mod:`.keeper`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from kachery_p2p.node.context import Context
from kachery_p2p.node.gossip.ordered_scan import Remake
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind
from kachery_p2p.protocol.keepers.messages import FEED_BYTES
from kachery_p2p.protocol.keepers.offer import KEEPER_CONTEXT, KeepOffer, keeper_key
from kachery_p2p.storage.inventory.kept import Kept

_NOTHING = KeepOffer()


class KeepOffers:
    """What is offered on which channel; as :class:`~kachery_p2p.node.gossip.comparison.Offers` too.
    ``provide`` and ``withdraw`` announce."""

    kind: ContentKind = "files"
    contexts = frozenset({KEEPER_CONTEXT})
    many: Mapping[bytes, Remake] = {}

    def __init__(self, context: Context) -> None:
        self._state = context.state
        self._book = context.book
        self._disk = context.workers.disk
        self._offers: dict[bytes, KeepOffer] = {}

    def load(self) -> None:
        """Take back what was said before the last start. The channels are known by now."""
        self._offers = {
            channel: offer for channel in self._book if (offer := self._read(channel)) != _NOTHING
        }

    def on(self, channel: bytes) -> KeepOffer:
        """What is offered on a channel."""
        return self._offers.get(channel, _NOTHING)

    async def set(
        self,
        channel: bytes,
        offer: KeepOffer,
        *,
        provide: Callable[[ContentKey], None],
        withdraw: Callable[[ContentKey], None],
    ) -> None:
        """Offer this from now on, and after restarts. What is kept stays kept."""
        before = set(self.scan())
        text = None if offer == _NOTHING else json.dumps(_plain(offer))
        await self._disk(self._state.set_meta, _key(channel), text)
        self._offers = {each: old for each, old in self._offers.items() if each != channel}
        if offer != _NOTHING:
            self._offers[channel] = offer
        after = set(self.scan())
        for content in sorted(after | before):  # those of this channel may be others' elsewhere
            (provide if content in after else withdraw)(content)

    def count(self, kept: Kept) -> str:
        """Have something count as this says, if that fits with all that counts; else why it does not.
        What is kept already stays as it is. Two that fit one by one and not together are never both
        counted. Reads and writes the disk."""
        channel = bytes.fromhex(kept.channel)
        with self._state.transaction():
            old = self._state.is_kept(*kept.key)
            used, things = self._state.kept_sums(kept.channel, kept.node)
            if old is not None:
                used, things = used - old.size, things - 1
            reason = self.on(channel).why_not(kept.node, kept.size, used, things)
            if reason or (old is not None and old.whole):
                return reason
            if old is not None or len(kept.content) == FEED_BYTES:
                self._state.count_in(kept)
            else:
                self._state.keep(kept._replace(until=None), [], [])
        return ""

    async def forget(self, channel: bytes) -> None:
        """The channel was left, unless this node is on it again."""
        if channel not in self._book:
            self._offers = {each: old for each, old in self._offers.items() if each != channel}
            await self._disk(self._state.set_meta, _key(channel), None)

    def _read(self, channel: bytes) -> KeepOffer:
        text = self._state.get_meta(_key(channel))
        if text is None:
            return _NOTHING
        value = json.loads(text)
        return KeepOffer.made(value["nodes"], value["limit"])

    # --- announced -------------------------------------------------------------------------------

    def scan(self) -> Iterator[ContentKey]:
        """The keys under which this node is found as a keeper."""
        offers = self._offers.values()
        if any(offer.nodes is None for offer in offers):
            yield keeper_key(None)
        for node in sorted({node for offer in offers for node in offer.nodes or ()}):
            yield keeper_key(node)

    def leaving(self, contents: Sequence[ContentKey], channel: bytes) -> Iterable[ContentKey]:
        """Those that are offered on this channel."""
        offer = self._offers.get(channel, _NOTHING)
        said = {keeper_key(None)} if offer.nodes is None else map(keeper_key, offer.nodes)
        return set(said) & set(contents)


def told(offer: KeepOffer) -> dict[str, Any]:
    """An offer as calls answer with it: ``keep_for`` is "all", or a list of node ids."""
    nodes = "all" if offer.nodes is None else sorted(offer.nodes)
    return {"keep_for": nodes, "keep_limit": offer.limit}


def _plain(offer: KeepOffer) -> dict[str, Any]:
    return {"nodes": None if offer.nodes is None else sorted(offer.nodes), "limit": offer.limit}


def _key(channel: bytes) -> str:
    return f"keep:{channel.hex()}"
