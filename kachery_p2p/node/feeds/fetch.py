"""Messages of a log for one caller alone: fetched from a holder, proven, and not kept."""

from __future__ import annotations

import asyncio

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ForgedFeed, NotFound, ProtocolViolation, Unreachable
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import (
    ALGORITHM,
    Head,
    Slice,
    check_head,
    leaf_hashes,
    unpack_texts,
)
from kachery_p2p.protocol.feeds.frontier import Frontier
from kachery_p2p.protocol.feeds.keys import subfeed_key
from kachery_p2p.protocol.feeds.messages import FEED_FOLLOW, FeedFollow, FeedPart
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import FEED_SILENCE_SECONDS, MAX_FEED_MESSAGES, STALL_SECONDS
from kachery_p2p.protocol.tree import ProofError
from kachery_p2p.storage.feeds.intake import OLDER_THAN_THE_DECISION
from kachery_p2p.storage.feeds.log import Log


async def fetch_messages(
    link: Link,
    holder: Holder,
    where: Log,
    start: int,
    most: int,
    *,
    decision: Decision | None,
    workers: Workers,
) -> Slice:
    """Some messages from ``start`` on, at most ``most``.

    Args:
        link: to the holder.
        decision: what the owner decided after a fork, as far as it is known here.

    Raises:
        NotFound, Unreachable: the holder has not got them, or says nothing; others: what it answered.
        ForgedFeed, ProtocolViolation: what came is not what the owner signed, or was asked for.
    """
    feed, subfeed = where
    stop = min(start + most, MAX_FEED_MESSAGES)
    params = FeedFollow(holder.channel, feed, subfeed, start, stop, False)
    stream = link.open(FEED_FOLLOW, codec.plain(params))
    head: Head | None = None
    patience, loop = FEED_SILENCE_SECONDS, asyncio.get_running_loop()
    deadline, said = loop.time() + patience, False
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                item = await stream.receive()
            if item is None:
                raise NotFound(
                    what=subfeed_key(*where).title,
                    detail=f"{holder.name} has not got message {start}",
                )
            if not said:  # more words do not give it more time
                said, patience = True, STALL_SECONDS
                deadline = loop.time() + patience
            meta, body, _ = item
            part = codec.convert(FeedPart, meta)
            head = part.head or head
            if not part.runs or head is None:
                continue
            if decision is not None and decision.is_after(head):
                title = subfeed_key(*where).title
                raise NotFound(what=title, detail=OLDER_THAN_THE_DECISION)
            data = await stream.open_body(body)
            return await workers.disk(_proven, where, start, stop, part, head, data, holder.name)
    except TimeoutError:
        reason = f"no messages in {patience:g} s" if said else f"silent for {patience:g} s"
        raise Unreachable(what=holder.name, reason=reason) from None
    finally:
        stream.end()


def _proven(
    where: Log, start: int, stop: int, part: FeedPart, head: Head, data: bytes, source: str
) -> Slice:
    """The messages, if they are what the owner signed, with nothing to compare them to here."""
    texts = unpack_texts(data, sum(run.count for run in part.runs))
    slice = Slice(part.start, part.runs, texts)
    asked = (head.feed, head.subfeed) == where
    if not asked or slice.start != start or slice.stop > stop:
        raise ProtocolViolation(reason="messages that were not asked for")
    check_head(head, source)
    try:
        frontier = Frontier(ALGORITHM, slice.start, part.peaks)
        frontier.extend(leaf_hashes(slice))
        fits = frontier.root_within(head.size, part.right) == head.root
    except (ProofError, ValueError):
        fits = False
    if not fits:
        what = f"Messages {slice.start}-{slice.stop} of feed {head.feed.hex()}"
        raise ForgedFeed(what=what, source=source, reason="they do not lead to the signed root")
    return slice
