"""Messages that came from others: what must be true before a log grows by them.

A slice is taken in if the frontier that is held, extended by its leaves and by the right-hand proof,
leads to the root of a head that the feed's key signed. Nothing else is believed.

A head that excludes what is already held is no forgery but a fork, and is proven from the log itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from kachery_p2p.protocol.errors import BadInput, FeedForked, ForgedFeed, NotFound
from kachery_p2p.protocol.feeds.feed import ALGORITHM, Head, Slice, check_head, leaf_hashes
from kachery_p2p.protocol.feeds.fork import Fork, make_fork
from kachery_p2p.protocol.feeds.frontier import Frontier, left_peaks
from kachery_p2p.protocol.tree import ProofError, range_proof

from .log import Growth, OpenLog, drop_first, empty_log, grow, save_log, tree_nodes, write_growth
from .tiles import unknown_edges

OLDER_THAN_THE_DECISION: Final = "a holder has not heard yet which history its owner decided for"


@dataclass(frozen=True, slots=True)
class Incoming:
    """What somebody sent, for :meth:`.store.FeedStore.extend`. Its head is signed, no more is known.

    Args:
        feed, subfeed: which.
        slice: messages. The beginning of it may be held already. One without messages is good for a
            newer head, and for starting to hold a log at its end.
        right: the right-hand proof from ``slice.stop`` to ``head.size``.
        head: it becomes the log's if it brings messages, or if it is the newer one of two that prove
            what is held.
        channel: on which it was fetched. It is not noted for a feed of one's own.
        base_peaks: the peaks at ``slice.start``; needed if the log is empty and that is not 0, and
            looked at only if the log is empty.
        name: the subfeed's name for people, taken if it has none yet.
        source: who sent it, for errors.

    Raises:
        ForgedFeed: the head is of another log, or the feed's key did not sign it.
    """

    feed: bytes
    subfeed: bytes
    slice: Slice
    right: Sequence[bytes]
    head: Head
    channel: str
    base_peaks: Sequence[bytes] | None
    name: str | None
    source: str
    leaves: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        if (self.head.feed, self.head.subfeed) != (self.feed, self.subfeed):
            raise self.forged("its head is of another log")
        check_head(self.head, self.source)
        object.__setattr__(self, "leaves", leaf_hashes(self.slice))

    def forged(self, reason: str) -> ForgedFeed:
        """The error that says so."""
        what = f"A slice of feed {self.feed.hex()}"
        return ForgedFeed(what=what, source=self.source, reason=reason)


def follows(log: OpenLog, incoming: Incoming) -> bool:
    """Whether what came is proven to be what comes next in a log, up to a new head: no more needs to
    be looked at than is in memory. False says nothing."""
    info, slice, head = log.info, incoming.slice, incoming.head
    if info.fork is not None or info.head is None or info.head.size >= head.size:
        return False
    if info.decision is not None and info.decision.is_after(head):
        return False
    if slice.start != info.size or slice.stop != head.size:
        return False
    frontier = log.frontier.copy()
    frontier.extend(incoming.leaves)
    return frontier.root() == head.root


def take_in(db: sqlite3.Connection, log: OpenLog, incoming: Incoming) -> OpenLog | Fork:
    """Verify what came and write it, inside a transaction.

    Returns:
        The log after, to be kept once it is committed; or the proof that the head and what is held
        exclude one another, and then nothing was written.

    Raises:
        BadInput: messages are missing between what is held and the slice.
        ForgedFeed: the slice does not belong under the head.
        FeedForked: there is a fork already.
        NotFound: it may be of a history that the owner decided against.
    """
    decision = log.info.decision
    if decision is not None and decision.is_after(incoming.head):
        # Even if it is of the history that counts: nobody can tell.
        raise NotFound(what=f"Feed {log.feed.hex()}", detail=OLDER_THAN_THE_DECISION)
    if log.info.fork is not None:
        raise FeedForked(feed=log.feed.hex())
    fork = None if log.info.head is None else find_fork(db, log, incoming.head)
    if fork is not None and (decision is None or log.key or not decision.settles(fork)):
        return fork
    if fork is not None:
        log = empty_log(db, log)  # what is held is what does not count
    start = _begin(log, incoming) if log.info.head is None else log
    growth = _verify(db, start, incoming)
    write_growth(db, growth)
    info = growth.log.info
    info = info._replace(known=max(info.known, incoming.head.size), name=info.name or incoming.name)
    channel = incoming.channel
    if log.key is None and channel not in info.channels:
        db.execute("INSERT INTO channels VALUES (?, ?)", (log.number, channel))
        info = info._replace(channels=info.channels | {channel})
    grown = growth.log._replace(info=info)
    if info != log.info:
        save_log(db, grown)
    return grown


def find_fork(db: sqlite3.Connection, log: OpenLog, head: Head) -> Fork | None:
    """The proof that a head and what is held exclude one another, if that can be told from it.

    It can if the log's head is of the same size, or if the log goes at least as far as ``head``.
    The signature of ``head`` must have been checked.
    """
    info = log.info
    ours = info.head
    if ours is None:
        return None
    if head.size == ours.size:
        return None if head.root == ours.root else make_fork(ours, head)
    if not info.base < head.size <= info.size:
        return None
    if root_at(db, log, head.size) == head.root:
        return None
    nodes = tree_nodes(db, log)
    last = head.size - 1
    proof = range_proof(nodes, ours.size, last, last + 1)
    return make_fork(ours, head, nodes(0, last), proof)


def root_at(db: sqlite3.Connection, log: OpenLog, size: int) -> bytes:
    """The root that a log had when it was that long: ``base < size <= size`` of what is held."""
    return Frontier(ALGORITHM, size, left_peaks(tree_nodes(db, log), size)).root()


def _begin(log: OpenLog, incoming: Incoming) -> OpenLog:
    """An empty log as one that is held from where the slice begins."""
    base = incoming.slice.start
    if base and incoming.base_peaks is None:
        reason = f"it begins at {base} without peaks, and nothing before is held"
        raise BadInput(what="feed slice", reason=reason)
    try:
        frontier = Frontier(ALGORITHM, base, incoming.base_peaks or ())
    except ValueError as error:
        raise incoming.forged(str(error)) from None
    return log._replace(
        info=log.info._replace(base=base, size=base),
        peaks=frontier.peaks,
        frontier=frontier,
        edges=unknown_edges(base),
    )


def _verify(db: sqlite3.Connection, log: OpenLog, incoming: Incoming) -> Growth:
    """The log after the slice, with the better of the two heads; nothing is written."""
    info, slice, head = log.info, incoming.slice, incoming.head
    if not info.base <= slice.start <= info.size:
        held = f"messages {info.base} to {info.size} of the subfeed are held"
        raise BadInput(what="feed slice", reason=f"it begins at {slice.start}, but {held}")
    known = min(info.size, slice.stop) - slice.start
    if known:
        ours = tree_nodes(db, log).leaves(slice.start, slice.start + known)
        if ours != incoming.leaves[:known]:
            raise incoming.forged("it differs from messages that were verified before")
    if slice.stop < info.size:
        return Growth(log, [], [])
    growth = grow(log, drop_first(slice, known), incoming.leaves[known:])
    try:
        root = growth.log.frontier.root_within(head.size, incoming.right)
    except ProofError as error:
        raise incoming.forged(str(error)) from None
    if root != head.root:
        raise incoming.forged("the proof does not lead to the head's root")
    if not growth.runs and info.head is not None and info.head.size >= head.size:
        return growth
    grown = growth.log._replace(
        rest=tuple(incoming.right),
        timestamp=head.timestamp,
        info=growth.log.info._replace(head=head),
    )
    return growth._replace(log=grown)
