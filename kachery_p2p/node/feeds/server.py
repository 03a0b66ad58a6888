"""Serves feeds to other nodes: what a holder does, and what the owner does besides.

Every stream is checked at its beginning, and again whenever a channel changes: the requester's role,
our own, and that the feed may go out on that channel at all. What is sent carries its proof, so a
holder need not be trusted; what is submitted is appended only if the owner's rules for the subfeed let
its sender write.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from kachery_p2p.node.links.endings import cut
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    NotAWriter,
    NotFound,
    ProtocolViolation,
)
from kachery_p2p.protocol.feeds.access import AccessRules
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Head, feed_uri, pack_texts, subfeed_hash, unpack_texts
from kachery_p2p.protocol.feeds.keys import append_key, subfeed_key
from kachery_p2p.protocol.feeds.messages import (
    FEED_EVIDENCE,
    FEED_FOLLOW,
    FEED_SUBMIT,
    FeedEvidence,
    FeedFollow,
    FeedLeaf,
    FeedPart,
    FeedSubmit,
    FeedTexts,
)
from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.limits import MAX_SLICE, MAX_VISITOR_MESSAGES, VISITOR_APPEND_BYTES
from kachery_p2p.storage.feeds.log import Log, LogInfo

from .feeds import Feeds
from .newest_messages import Served
from .offers import may_leave
from .own_feeds import OwnFeeds


class FeedServer:
    def __init__(self, network: Network, feeds: Feeds, own: OwnFeeds) -> None:
        self._network = network
        self._feeds = feeds
        self._own = own
        self._store = feeds.store
        self._disk = network.context.workers.disk
        self.following: dict[Stream, tuple[Link, FeedFollow]] = {}
        """The streams that we send messages on."""
        self._submitting: dict[Stream, tuple[Link, FeedSubmit]] = {}
        self._appended: Counter[bytes] = Counter()
        """Bytes that visitors appended in this run, by the ids of passes of this node."""
        network.on_stream_of(FEED_FOLLOW, FeedFollow, self._follow)
        network.on_stream_of(FEED_SUBMIT, FeedSubmit, self._submit)
        network.on_request_of(FEED_EVIDENCE, FeedEvidence, self._evidence)

    def _require(self, link: Link, channel: bytes, key: ContentKey | None = None) -> None:
        """``key``: what a visitor's pass must name."""
        mark = None if key is None else key.blinded
        self._network.require_role(
            link, channel, theirs="request-feeds", ours="provide-feeds", mark=mark
        )

    def _require_read(self, link: Link, params: FeedFollow) -> None:
        """Visitors may read what their pass is to."""
        self._require(link, params.channel, subfeed_key(params.feed, params.subfeed))

    def _require_submit(self, link: Link, params: FeedSubmit) -> None:
        """Visitors may append where a pass of this very node says so."""
        self._require(link, params.channel, append_key(params.feed, params.subfeed))
        if link in self._network.visitors:
            self._network.visitors.require_home(link, params.channel)

    def cut(self) -> None:
        """A channel changed: end what is sent to those who may no longer have it."""
        cut(self.following, lambda each: self._require_read(*each))
        cut(self._submitting, lambda each: self._require_submit(*each))

    def followers(self, where: Log) -> int:
        """How many streams of a log are open."""
        return sum((p.feed, p.subfeed) == where for _, p in self.following.values())

    async def _follow(self, link: Link, stream: Stream, params: FeedFollow) -> None:
        self._require_read(link, params)
        where = (params.feed, params.subfeed)
        stream.set_group(link.peer)
        # Before anything is waited for: who is removed meanwhile is cut off.
        self.following[stream] = (link, params)
        try:
            if not await self._disk(may_leave, self._store, where, params.channel):
                raise NotFound(what=feed_uri(params.feed), detail="it is not held on this channel")
            owner = await self._feeds.is_own(params.feed)
            await _Sending(self._feeds, link, stream, params, owner).run()
        finally:
            del self.following[stream]

    async def _evidence(self, link: Link, params: FeedEvidence) -> object:
        self._require(link, params.channel)
        where = (params.feed, params.subfeed)

        def work() -> FeedLeaf | None:
            if not may_leave(self._store, where, params.channel):
                return None
            found = self._store.leaf_proof(*where, params.index)
            return FeedLeaf(found.head, found.leaf, found.proof)

        await self._feeds.reaches(where, params.index + 1)
        leaf = await self._disk(work)
        self._require(link, params.channel)
        if leaf is None:
            raise NotFound(what=feed_uri(params.feed), detail="it is not held on this channel")
        return codec.plain(leaf)

    async def _submit(self, link: Link, stream: Stream, params: FeedSubmit) -> None:
        self._require_submit(link, params)
        self._submitting[stream] = (link, params)
        try:
            await self._take_submission(link, stream, params)
        finally:
            del self._submitting[stream]

    async def _take_submission(self, link: Link, stream: Stream, params: FeedSubmit) -> None:
        where = (params.feed, params.subfeed)
        if not await self._feeds.is_own(params.feed):
            raise NotFound(what=feed_uri(params.feed), detail="its key does not lie on this node")
        if subfeed_hash(params.name) != params.subfeed:
            raise BadInput(what="submission", reason="that name is another subfeed's")
        await self._check_writer(link, where, params.name)
        stream.set_group(link.peer)
        async with link.budget.bytes.hold(2 * MAX_SLICE):
            await self._append_submission(link, stream, params, where)

    async def _append_submission(
        self, link: Link, stream: Stream, params: FeedSubmit, where: Log
    ) -> None:
        stream.grant(2 * MAX_SLICE)
        item = await stream.receive_soon()
        if item is None:
            raise ProtocolViolation(reason="a submission without messages")
        meta, body, cost = item
        count = codec.convert(FeedTexts, meta).count
        texts = await self._disk(unpack_texts, await stream.open_body(body), count)
        # The owner may have changed its mind while they came.
        self._require_submit(link, params)
        await self._check_writer(link, where, params.name)
        self._count(link, params.channel, texts)
        numbers = await self._own.append(
            where,
            params.name,
            texts,
            author=bytes.fromhex(link.peer),
            submission=params.submission,
        )
        stream.done(cost)
        await stream.send(codec.plain(numbers))

    def _count(self, link: Link, channel: bytes, texts: list[bytes]) -> None:
        """Raise BadInput if a visitor appends more than it may."""
        if link not in self._network.visitors:
            return
        id = self._network.visitors.require_home(link, channel).id
        size = self._appended[id] + sum(map(len, texts))
        if len(texts) > MAX_VISITOR_MESSAGES or size > VISITOR_APPEND_BYTES:
            reason = (
                f"by one link {MAX_VISITOR_MESSAGES} messages may be appended at once and "
                f"{VISITOR_APPEND_BYTES} bytes in all; ask for a new link"
            )
            raise BadInput(what="messages", reason=reason)
        self._appended[id] = size

    async def _check_writer(self, link: Link, where: Log, name: str) -> None:
        """The rules are about members; a visitor's pass says what it may."""
        if link in self._network.visitors:
            return
        node = link.peer
        text = await self._disk(self._store.get_rules, *where)
        if text is None or not codec.convert(AccessRules, json.loads(text)).may_write(node):
            raise NotAWriter(node=node, feed=feed_uri(where[0], name))


class _Sending:
    """One stream of ``feed.follow``, from the holder's side."""

    def __init__(
        self, feeds: Feeds, link: Link, stream: Stream, params: FeedFollow, owner: bool
    ) -> None:
        self._feeds = feeds
        self._link = link
        self._stream = stream
        self._params = params
        self._owner = owner
        self._where = (params.feed, params.subfeed)
        self._position = params.position
        self._first = True
        self._said: Head | None = None
        self._decision: Decision | None = None
        self._idle = False
        """Everything was sent, and this waits for more."""

    async def run(self) -> None:
        def hear() -> None:
            # Most news need no task to be woken.
            if not (self._idle and self._send_newest()):
                bell.set()

        with self._feeds.listening(self._where, hear=hear) as bell:
            await self._say_state()
            while not await self._send_all() and not self._stream.ended:
                self._idle = True
                try:
                    await bell.wait()
                finally:
                    self._idle = False
                bell.clear()
                if bell.deleted:
                    raise NotFound(what=feed_uri(self._where[0]), detail="it was deleted there")
                if (
                    self._params.quiet
                    or self._feeds.newest.serve(self._where, self._position) is None
                ):
                    await self._say_state()

    async def _send_all(self) -> bool:
        """Send what there is; whether that was all that was asked for."""
        params = self._params
        while not params.quiet:
            if params.stop is not None and self._position >= params.stop:
                return True
            size = self._link.bulk_bytes
            async with self._stream.reserved(size):
                served = await self._feeds.serve(
                    self._where, self._position, params.stop, peaks=self._first, most_bytes=size
                )
                if served is None:
                    return False
                await self._send(served)
            if params.stop is None and self._feeds.newest.ends_at(self._where, self._position):
                return False  # without a look at the disk for more
        return False

    def _send_newest(self) -> bool:
        """Send what is new, if it continues what was sent and there is room for it; whether it did."""
        if self._params.quiet or self._params.stop is not None or self._first:
            return False
        served = self._feeds.newest.serve(self._where, self._position)
        if served is None or not self._stream.offer(*self._frame(served)):
            return False
        self._sent(served)
        return True

    async def _send(self, served: Served) -> None:
        await self._stream.send(*self._frame(served))
        self._sent(served)

    def _frame(self, served: Served) -> tuple[Any, bytes]:
        slice = served.slice
        head = None if served.head == self._said else served.head
        part = FeedPart(self._owner, 0, slice.start, slice.runs, served.peaks, served.right, head)
        return codec.plain(part), pack_texts(slice.texts)

    def _sent(self, served: Served) -> None:
        self._said = served.head
        self._first = False
        self._position = served.slice.stop

    async def _say_state(self) -> None:
        """How far the log is, and whether it may still grow."""
        info: LogInfo | None = await self._feeds.info(self._where)
        base, head, fork, decision = 0, None, None, None
        if info is not None:
            base, head, fork, decision = info.base, info.head, info.fork, info.decision
        if fork is None and base > self._position and not self._params.quiet:
            detail = f"only from message {base} on"
            raise NotFound(what=feed_uri(*self._where[:1]), detail=detail)
        if head is not None and info is not None and head.size != info.size:
            head = None  # what is held does not reach it: it is said with the messages
        part = FeedPart(
            self._owner,
            base,
            self._position,
            [],
            [],
            [],
            None if head == self._said else head,
            fork,
            None if decision == self._decision else decision,
        )
        self._said = head or self._said
        self._decision = decision
        await self._stream.send(codec.plain(part))
