"""What another node says of a log, beside what is held: does it fit, and if not, who is to blame?

A head that does not fit is proof against the feed's owner only together with the evidence of
:mod:`kachery_p2p.protocol.feeds.fork`, which is kept. Without it, it is a lie of the node that said it.
"""

from __future__ import annotations

import logging

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    FeedForked,
    ForgedFeed,
    NotFound,
    ProtocolViolation,
)
from kachery_p2p.protocol.feeds.feed import Head, check_head
from kachery_p2p.protocol.feeds.fork import Fork, make_fork
from kachery_p2p.protocol.feeds.messages import FEED_EVIDENCE, FeedEvidence, FeedLeaf
from kachery_p2p.storage.feeds.log import Log

from .feeds import Feeds

log = logging.getLogger(__name__)


async def compare_head(feeds: Feeds, head: Head, source: str) -> None:
    """A head without messages: does it fit what is here?

    Raises:
        ForgedFeed: the feed's key did not sign it.
        FeedForked: the owner signed two histories; the proof is kept.
    """
    store = feeds.store
    await feeds.note_head(head, source)

    def work() -> Fork | None:
        if store.info(head.feed, head.subfeed) is not None:
            return store.fork_with(head, source)
        check_head(head, source)
        return None

    fork = await feeds.context.workers.disk(work)
    if fork is not None and await feeds.record_fork(fork, source):
        raise FeedForked(feed=head.feed.hex())


async def seek_fork(feeds: Feeds, link: Link, channel: bytes, head: Head, source: str) -> None:
    """Messages under ``head`` do not continue what is here: ask their sender for the proof.

    Returns if it gives none: then it is the sender's doing, and not the owner's.

    Raises:
        FeedForked: the owner signed two histories; the proof is kept.
        NotFound: it has decided since which of them counts; what does not is here no more.
        TransportError: the link was lost before that was clear.
    """
    where: Log = (head.feed, head.subfeed)
    info = await feeds.info(where)
    if info is None or info.head is None or info.head.size > head.size:
        return
    ask = FeedEvidence(channel, *where, info.head.size - 1)
    try:
        answer = codec.convert(FeedLeaf, await link.request(FEED_EVIDENCE, codec.plain(ask)))
        fork = make_fork(info.head, answer.head, answer.leaf, answer.proof)
        forked = await feeds.record_fork(fork, source)
    except (ForgedFeed, ProtocolViolation, BadInput, FeedForked) as error:
        # FeedForked, too: so far it is only what the other node says.
        log.info("%s proves no fork: %s", source, error)
        return
    if forked:
        raise FeedForked(feed=head.feed.hex())
    raise NotFound(what="the feed", detail="its owner decided for another history; it is read anew")
