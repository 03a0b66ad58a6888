"""Keeping up with a subfeed that others hold: one :class:`Follower` for each, as long as it is read.

It finds who holds the log, or has the feed's key, and follows up to ``FEED_SOURCES`` of them: one sends
messages, the others say only how far they are. If one of these is ahead for a moment, it becomes the
one that sends. What comes is proven before it counts; who sends what cannot be proven is dropped, and
two histories that the owner signed are kept as a fork (:mod:`kachery_p2p.protocol.feed_fork`).

When a holder is lost, or a new one appears (a proxy tells), holders are looked up again. The log's own
size is where every new stream begins, so nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Any

from kachery_p2p.protocol import codec, things
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    FeedForked,
    ForgedFeed,
    KacheryError,
    LocalError,
    NotFound,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.feed import Head, Slice, check_head, unpack_texts
from kachery_p2p.protocol.feed_fork import Fork, make_fork
from kachery_p2p.protocol.limits import (
    FEED_APPEAR_SECONDS,
    FEED_LAG_SECONDS,
    FEED_SILENCE_SECONDS,
    FEED_SOURCES,
    RECONNECT_FIRST,
    RECONNECT_MOST,
)
from kachery_p2p.protocol.methods import (
    FEED_EVIDENCE,
    FEED_FOLLOW,
    FeedEvidence,
    FeedFollow,
    FeedLeaf,
    FeedPart,
)
from kachery_p2p.protocol.plan import Holder, rank
from kachery_p2p.protocol.session import Body

from .feeds import Feeds, Log
from .link import Link
from .lookup import Lookup
from .network import Network
from .reach import Reach
from .sources import name_of
from .stream import Stream
from .watches import Watches

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Roads:
    """What a follower needs to find holders and to reach them."""

    network: Network
    reach: Reach
    lookup: Lookup
    watches: Watches

    async def link_to(self, holder: Holder) -> Link:
        relays = self.lookup.relays.get((holder.node, holder.channel), set())
        return await self.reach.to(holder.node, holder.channel, urls=holder.urls, relays=relays)


@dataclass
class Source:
    """A holder that is being followed. ``size`` is that of its head, None until it has said it."""

    holder: Holder
    task: asyncio.Task[None]
    quiet: bool
    size: int | None = None
    owner: bool = False
    via: str | None = None


class Follower:
    """``position``: where to begin if nothing of the log is here. ``channel``: None for any."""

    def __init__(
        self, feeds: Feeds, roads: Roads, where: Log, *, channel: bytes | None, position: int
    ) -> None:
        self.where = where
        self.failure: KacheryError | None = None
        """Why nobody is followed; None while somebody is, or may be."""
        self.sources: dict[str, Source] = {}
        self._feeds = feeds
        self._roads = roads
        self._channel = channel
        self.position = position
        self._size = 0
        self._settled = asyncio.Event()
        self._again = asyncio.Event()
        """Somebody has appeared: look at once."""
        self._retry = asyncio.Event()
        """Somebody was lost: look soon."""
        self._backoff = Backoff(RECONNECT_FIRST, RECONNECT_MOST, feeds.context.random)
        self._errors: dict[str, KacheryError] = {}
        self._taking = asyncio.Lock()
        self.task = roads.network.spawn(self._run(), name=f"follow feed {where[0].hex()[:8]}")

    @property
    def settled(self) -> bool:
        """Whether what the holders had at first contact is here, or there is none to ask."""
        return self._settled.is_set()

    async def settle(self, seconds: float) -> None:
        """Wait until :attr:`settled`, or for so long."""
        if not self.settled and seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._settled.wait()

    def silence(self) -> KacheryError:
        """The first contact took too long: with whom."""
        names = ", ".join(name_of(s.holder) for s in self.sources.values() if s.size is None)
        what = f"Reading {things.subfeed(*self.where).title}"
        return Unreachable(what=what, reason=f"no answer yet from {names or 'the proxies'}")

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])

    # --- who is followed ---------------------------------------------------------------------

    async def _run(self) -> None:
        watches = self._roads.watches
        wanted = (things.subfeed(*self.where), things.feed_owner(self.where[0]))
        ends = [watches.add(thing, self._again.set) for thing in wanted]
        try:
            while True:
                self._again.clear()
                self._retry.clear()
                try:
                    await self._begin()
                    await self._look()
                except NotFound as error:
                    if not self.settled and await self._appears():
                        continue
                    self._fail(error)
                except KacheryError as error:
                    self._fail(error)
                if self.sources and self.failure is None:
                    await self._wait(self._retry, self._again)
                if not self._again.is_set():
                    # Somebody was lost, or there is nobody: not at once again.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._backoff.next()):
                            await self._again.wait()
        finally:
            for end in ends:
                end()
            tasks = [source.task for source in self.sources.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _appears(self) -> bool:
        """It may have been made a moment ago, and the proxies not have heard of it yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FEED_APPEAR_SECONDS):
                await self._again.wait()
        return self._again.is_set()

    async def _wait(self, *events: asyncio.Event) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _begin(self) -> None:
        """Where the next stream begins. Raises FeedForked."""
        info = await self._feeds.info(self.where)
        if info is not None and info.fork is not None:
            raise FeedForked(feed=self.where[0].hex())
        if info is not None and info.head is not None:
            self._size = self.position = info.size

    async def _look(self) -> None:
        lookup = self._roads.lookup
        wanted = (things.subfeed(*self.where), things.feed_owner(self.where[0]))
        found, owners = await asyncio.gather(
            *(lookup.find(thing, self._channel) for thing in wanted)
        )
        holders = {holder.node: holder for holder in [*found.holders, *owners.holders]}
        if not holders and not self.sources:
            found.offline += owners.offline
            raise lookup.not_found(wanted[0], found)
        self.failure = None
        if not self.sources:
            self._settled.clear()
        for holder in rank(holders.values()):
            if len(self.sources) >= FEED_SOURCES:
                break
            if holder.node not in self.sources and not self._is_banned(holder.node):
                self._start(holder, quiet=any(not s.quiet for s in self.sources.values()))
        if not self.sources:
            raise self._worst()
        self._check_settled()

    def _is_banned(self, node: str) -> bool:
        return isinstance(self._errors.get(node), ForgedFeed | ProtocolViolation)

    def _fail(self, error: KacheryError) -> None:
        self.failure = error
        self._settled.set()
        self._feeds.ring(self.where)

    def _start(self, holder: Holder, *, quiet: bool) -> None:
        task = self._roads.network.spawn(self._follow(holder, quiet), name="follow a holder")
        self.sources[holder.node] = Source(holder, task, quiet)

    def _promote(self, node: str) -> None:
        """From now on this one sends messages, and who did so before says heads only."""
        for source in list(self.sources.values()):
            loud = source.holder.node == node
            if source.quiet == loud:
                source.task.cancel()
                self._start(source.holder, quiet=not loud)

    async def _follow(self, holder: Holder, quiet: bool) -> None:
        mine = asyncio.current_task()
        try:
            link = await self._roads.link_to(holder)
            await self._listen(holder, link, quiet)
            error: KacheryError = NotFound(what="the feed", detail="it is served no longer")
        except KacheryError as failed:
            error = failed
        except asyncio.CancelledError:
            source = self.sources.get(holder.node)
            if source is not None and source.task is mine:
                del self.sources[holder.node]
            raise
        log.info("following %s: %s", name_of(holder), error)
        source = self.sources.get(holder.node)
        if source is not None and source.task is mine:
            self._lost(holder.node, error)

    def _lost(self, node: str, error: KacheryError) -> None:
        source = self.sources.pop(node)
        self._errors[node] = error
        if isinstance(error, ForgedFeed | ProtocolViolation):
            self._feeds.context.warn(f"{name_of(source.holder)}: {error}")
        if isinstance(error, FeedForked | LocalError):
            self._fail(error)
        elif not self.sources:
            self._fail(self._worst())
        elif not source.quiet:
            self._promote(max(self.sources.values(), key=lambda s: s.size or 0).holder.node)
        self._check_settled()
        self._retry.set()

    def _worst(self) -> KacheryError:
        """Of what the holders said, what says most about the cause."""
        for kind in (AccessDenied, ForgedFeed, NotFound, KacheryError):
            for error in self._errors.values():
                if isinstance(error, kind):
                    return error
        raise AssertionError("nobody failed")

    def _check_settled(self) -> None:
        if self._settled.is_set() or not self.sources:
            return
        sizes = [source.size for source in self.sources.values()]
        longest = max((size for size in sizes if size is not None), default=0)
        if None not in sizes and (self._size >= longest or self.position >= longest):
            self._settled.set()
            self._feeds.ring(self.where)

    # --- what they say -----------------------------------------------------------------------

    async def _listen(self, holder: Holder, link: Link, quiet: bool) -> None:
        feed, subfeed = self.where
        params = FeedFollow(holder.channel, feed, subfeed, self.position, None, quiet)
        stream = link.open(FEED_FOLLOW, codec.plain(params))
        head: Head | None = None
        try:
            while (item := await self._receive(stream, holder)) is not None:
                meta, body, cost = item
                part = codec.convert(FeedPart, meta)
                head = part.head or head
                if head is not None and (head.feed, head.subfeed) != self.where:
                    raise ProtocolViolation(reason="a head of another feed")
                if part.fork is not None:
                    await self._feeds.record_fork(part.fork, name_of(holder))
                    raise FeedForked(feed=feed.hex())
                if part.runs and head is not None:
                    data = await stream.open_body(body)
                    await self._take(holder, link, part, head, data)
                elif part.head is not None:
                    await self._compare(holder, part.head)
                stream.done(cost)
                self._heard(holder, part, head, link)
        finally:
            stream.end()

    async def _receive(self, stream: Stream, holder: Holder) -> tuple[Any, Body, int] | None:
        """What comes next. Who says nothing at all is as good as lost."""
        if self.sources[holder.node].size is not None:
            return await stream.receive()
        try:
            async with asyncio.timeout(FEED_SILENCE_SECONDS):
                return await stream.receive()
        except TimeoutError:
            reason = f"silent for {FEED_SILENCE_SECONDS:g} s"
            raise Unreachable(what=name_of(holder), reason=reason) from None

    def _heard(self, holder: Holder, part: FeedPart, head: Head | None, link: Link) -> None:
        source = self.sources[holder.node]
        source.size = head.size if head is not None else 0
        source.owner = part.owner
        source.via = link.via
        self._check_settled()
        if source.quiet and source.size > self._size:
            loop = asyncio.get_running_loop()
            loop.call_later(FEED_LAG_SECONDS, self._check_lag, source, source.size)

    def _check_lag(self, source: Source, size: int) -> None:
        behind = self._size < size and self.sources.get(source.holder.node) is source
        if behind and source.quiet and not self._taking.locked():
            self._promote(source.holder.node)

    async def _take(
        self, holder: Holder, link: Link, part: FeedPart, head: Head, data: bytes
    ) -> None:
        count = sum(run.count for run in part.runs)
        disk = self._feeds.context.workers.disk
        texts = await disk(unpack_texts, data, count)
        async with self._taking:
            try:
                self._size = await self._feeds.extend(
                    self.where,
                    Slice(part.start, part.runs, texts),
                    part.right,
                    head,
                    channel=holder.channel,
                    peaks=part.peaks,
                    source=name_of(holder),
                )
                self.position = self._size
                self._backoff.reset()
            except ForgedFeed:
                await self._seek_fork(holder, link, head)
                raise

    async def _compare(self, holder: Holder, head: Head) -> None:
        """A head without messages: does it fit what is here?"""
        store, source = self._feeds.store, name_of(holder)

        def work() -> Fork | None:
            check_head(head, source)
            if store.key(head.feed) is not None:
                store.note_head(head, source)
            held = store.info(*self.where)
            return None if held is None else store.fork_with(head, source)

        fork = await self._feeds.context.workers.disk(work)
        if fork is not None:
            await self._feeds.record_fork(fork, name_of(holder))
            raise FeedForked(feed=head.feed.hex())

    async def _seek_fork(self, holder: Holder, link: Link, head: Head) -> None:
        """What came does not continue what is here. Is that its sender's doing, or the owner's?

        Raises:
            FeedForked: the owner signed two histories; the proof is kept.
        """
        feed, subfeed = self.where
        info = await self._feeds.info(self.where)
        if info is None or info.head is None or info.head.size > head.size:
            return
        ask = FeedEvidence(holder.channel, feed, subfeed, info.head.size - 1)
        try:
            answer = codec.convert(FeedLeaf, await link.request(FEED_EVIDENCE, codec.plain(ask)))
            fork = make_fork(info.head, answer.head, answer.leaf, answer.proof)
            await self._feeds.record_fork(fork, name_of(holder))
        except (ForgedFeed, ProtocolViolation, BadInput) as error:
            log.info("%s proves no fork: %s", name_of(holder), error)
            return
        raise FeedForked(feed=feed.hex())
