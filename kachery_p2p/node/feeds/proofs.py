"""Proofs of single messages for whoever is shown them: from the log that is held here, or, of messages
that are not, from somebody who holds them."""

from __future__ import annotations

import asyncio

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ForgedFeed
from kachery_p2p.protocol.feeds.feed import ALGORITHM, Head, Slice, check_head, leaf_hashes
from kachery_p2p.protocol.feeds.messages import FEED_EVIDENCE, FeedEvidence, FeedLeaf
from kachery_p2p.protocol.limits import PROOFS_AT_ONCE
from kachery_p2p.protocol.tree import ProofError, verify_range
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore

Proofs = list[tuple[Head, list[bytes]]]
"""For each message a head, and the path to its root. The log may grow meanwhile, so that one message is
proven under another head than the next."""


def held_proofs(store: FeedStore, where: Log, slice: Slice) -> Proofs:
    """Of messages that are held here; for a worker thread. Raises BadInput, UnknownFeed."""
    found = (store.leaf_proof(*where, index) for index in range(slice.start, slice.stop))
    return [(proof.head, proof.proof) for proof in found]


async def asked_proofs(link: Link, channel: bytes, where: Log, slice: Slice, source: str) -> Proofs:
    """Of messages that ``source``, at the other end of the link, holds; all are checked.

    Raises:
        ForgedFeed: what it says does not prove them; others: what it answered.
    """
    leaves = leaf_hashes(slice)
    at_once = asyncio.Semaphore(PROOFS_AT_ONCE)

    async def ask(index: int) -> FeedLeaf:
        async with at_once:
            params = FeedEvidence(channel, *where, index)
            answer = await link.request(FEED_EVIDENCE, codec.plain(params))
            return codec.convert(FeedLeaf, answer)

    wanted = range(slice.start, slice.stop)
    found = await asyncio.gather(*map(ask, wanted))
    checked: set[Head] = set()
    for index, leaf, answer in zip(wanted, leaves, found, strict=True):
        head = answer.head
        if (head.feed, head.subfeed) != where:
            raise _forged(where, slice, source)
        if head not in checked:
            check_head(head, source)
            checked.add(head)
        try:
            verify_range(ALGORITHM, head.root, head.size, index, [leaf], answer.proof)
        except ProofError:
            raise _forged(where, slice, source) from None
    return [(answer.head, answer.proof) for answer in found]


def _forged(where: Log, slice: Slice, source: str) -> ForgedFeed:
    what = f"The proofs of messages {slice.start}-{slice.stop} of feed {where[0].hex()}"
    return ForgedFeed(what=what, source=source, reason="they do not lead to the signed root")
