"""Proofs of single messages for whoever is shown them: from the log that is held here, or, of messages
that are not, from somebody who holds them."""

from __future__ import annotations

import asyncio

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput, ForgedFeed
from kachery_p2p.protocol.feeds.feed import ALGORITHM, Head, Slice, check_head, leaf_hashes
from kachery_p2p.protocol.feeds.messages import FEED_EVIDENCE, FeedEvidence, FeedLeaf
from kachery_p2p.protocol.limits import PROOFS_AT_ONCE
from kachery_p2p.protocol.tree import ProofError, verify_range
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore

Proofs = tuple[Head, list[list[bytes]]]
"""A head, and for each message the path to its root."""

_TRIES = 10
"""A log that grows meanwhile has proofs under another head."""


def held_proofs(store: FeedStore, where: Log, slice: Slice) -> Proofs:
    """Of messages that are held here; for a worker thread. Raises BadInput, UnknownFeed."""
    for _ in range(_TRIES):
        found = [store.leaf_proof(*where, index) for index in range(slice.start, slice.stop)]
        if len({proof.head.size for proof in found}) == 1:
            return found[0].head, [proof.proof for proof in found]
    raise _grows()


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

    found: dict[int, FeedLeaf] = {}
    wanted = range(slice.start, slice.stop)
    for _ in range(_TRIES):
        newest = max((leaf.head.size for leaf in found.values()), default=-1)
        stale = [i for i in wanted if i not in found or found[i].head.size != newest]
        if not stale:
            break
        found.update(zip(stale, await asyncio.gather(*map(ask, stale)), strict=True))
    else:
        raise _grows()
    head = found[slice.start].head
    if (head.feed, head.subfeed) != where:
        raise _forged(where, slice, source)
    check_head(head, source)
    for index, leaf in zip(wanted, leaves, strict=True):
        try:
            verify_range(ALGORITHM, head.root, head.size, index, [leaf], found[index].proof)
        except ProofError:
            raise _forged(where, slice, source) from None
    return head, [found[index].proof for index in wanted]


def _grows() -> BadInput:
    return BadInput(what="signed messages", reason="the subfeed grows too fast; ask for fewer")


def _forged(where: Log, slice: Slice, source: str) -> ForgedFeed:
    what = f"The proofs of messages {slice.start}-{slice.stop} of feed {where[0].hex()}"
    return ForgedFeed(what=what, source=source, reason="they do not lead to the signed root")
