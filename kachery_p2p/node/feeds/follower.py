"""Keeping up with a subfeed that others hold: one :class:`Follower` for each, as long as it is read.

It finds who holds the log, or has the feed's key, and follows up to ``FEED_SOURCES`` of them: one sends
messages, the others say only how far they are. If one of these is ahead for a moment, it becomes the
one that sends. What comes is proven before it counts; who sends what cannot be proven is dropped, who
keeps back what it says that it has is passed over, and two histories that the owner signed are kept as
a fork (:mod:`kachery_p2p.protocol.feeds.fork`). Then nobody sends messages any more, until one of those
who are followed says what the owner has decided (:mod:`kachery_p2p.protocol.feeds.decision`).

When a holder is lost, or a new one appears (a proxy tells), holders are looked up again. The log's own
size is where every new stream begins, so nothing is missed and nothing comes twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from kachery_p2p.node.files.sources import name_of
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.reach import Reach
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import (
    AccessDenied,
    FeedForked,
    ForgedFeed,
    KacheryError,
    LocalError,
    NotFound,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Head, Slice, unpack_texts
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.files.plan import Holder, rank
from kachery_p2p.protocol.gossip import keys as things
from kachery_p2p.protocol.limits import (
    FEED_APPEAR_SECONDS,
    FEED_LAG_SECONDS,
    FEED_SILENCE_SECONDS,
    FEED_SOURCES,
    RECONNECT_FIRST,
    RECONNECT_MOST,
)
from kachery_p2p.protocol.links.session import Body
from kachery_p2p.protocol.methods import FEED_FOLLOW, FeedFollow, FeedPart
from kachery_p2p.storage.feeds.intake import OLDER_THAN_THE_DECISION
from kachery_p2p.storage.feeds.log import Log

from .feeds import Feeds
from .fork_evidence import compare_head, seek_fork

log = logging.getLogger(__name__)

_INLINE_BYTES = 4_096
"""So much is unpacked before a thread would have begun."""

_DOUBLED = 3
"""How often the patience with a late holder doubles: to half a minute."""


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
    late: bool = False
    """It said that it has messages, and did not send them."""
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
        self.position = self._origin = position
        self._size = 0
        self._forked = False
        self._decision: Decision | None = None
        self._settled = asyncio.Event()
        self._again = asyncio.Event()
        """Somebody has appeared: look at once."""
        self._retry = asyncio.Event()
        """Somebody was lost: look soon."""
        self._backoff = Backoff(RECONNECT_FIRST, RECONNECT_MOST, feeds.context.random)
        self._errors: dict[str, KacheryError] = {}
        self.failures: Counter[str] = Counter()
        """How often each node was lost, or was late, since it last sent something."""
        self._untried = False
        """More hold it than are followed, and some of them never failed."""
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

    @property
    def owed(self) -> bool:
        """Whether somebody has not said yet what it has, or keeps it back."""
        return not self.settled or any(source.late for source in self.sources.values())

    def silence(self) -> KacheryError:
        """What was said to be there has not come: from whom."""
        missing = [s for s in self.sources.values() if s.size is None or s.size > self._size]
        names = ", ".join(name_of(source.holder) for source in missing)
        what = f"Reading {things.subfeed(*self.where).title}"
        return Unreachable(what=what, reason=f"no answer yet from {names or 'the proxies'}")

    async def close(self) -> None:
        """Follow nobody any more. Who waits for it goes on with what is here."""
        self.task.cancel()
        self._settled.set()
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
        """Where the next stream begins."""
        info = await self._feeds.info(self.where)
        self._forked = info is not None and info.fork is not None
        self._decision = None if info is None else info.decision
        if info is not None and info.head is not None:
            self._size = self.position = info.size
        else:
            self._size, self.position = 0, self._origin

    def _begin_again(self) -> None:
        """What is here is not what it was: all who are followed are asked anew."""
        tasks = [source.task for source in self.sources.values()]
        self.sources.clear()
        for task in tasks:
            if task is not asyncio.current_task():
                task.cancel()
        self._settled.clear()
        self._again.set()

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
        self._untried = False
        known = (replace(h, failures=self.failures[h.node]) for h in holders.values())
        for holder in rank(known):
            if holder.node in self.sources or self._is_banned(holder.node):
                continue
            if len(self.sources) >= FEED_SOURCES:
                self._untried = not holder.failures
                break
            loud = not self._forked and all(s.quiet for s in self.sources.values())
            self._start(holder, quiet=not loud)
        if not self.sources:
            raise self._worst()
        self._check_settled()

    def _is_banned(self, node: str) -> bool:
        return isinstance(self._errors.get(node), ForgedFeed | ProtocolViolation)

    def _fail(self, error: KacheryError) -> None:
        self.failure = error
        self._settled.set()
        self._feeds.ring(self.where)

    def _start(self, holder: Holder, *, quiet: bool, late: bool = False) -> None:
        task = self._roads.network.spawn(self._follow(holder, quiet), name="follow a holder")
        self.sources[holder.node] = Source(holder, task, quiet, late=late)

    def _promote(self, node: str) -> None:
        """From now on this one sends messages, and who did so before says heads only."""
        if self._forked:
            return
        for source in list(self.sources.values()):
            loud = source.holder.node == node
            if source.quiet == loud:
                source.task.cancel()
                self._start(source.holder, quiet=not loud, late=source.late)

    def _best(self) -> Source:
        """Who should send, of those that are followed."""
        return max(self.sources.values(), key=lambda s: (not s.late, s.size or 0))

    async def _follow(self, holder: Holder, quiet: bool) -> None:
        mine = asyncio.current_task()
        try:
            link = await self._roads.link_to(holder)
            if await self._listen(holder, link, quiet):
                self._begin_again()
                return
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
        self.failures[node] += 1
        if isinstance(error, ForgedFeed | ProtocolViolation):
            self._feeds.context.warn(f"{name_of(source.holder)}: {error}")
        if isinstance(error, FeedForked | LocalError):
            self._fail(error)
        elif not self.sources:
            if self._untried:
                self._again.set()
            else:
                self._fail(self._worst())
        elif not source.quiet:
            self._promote(self._best().holder.node)
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
        sizes = [source.size for source in self.sources.values() if not source.late]
        longest = max((size for size in sizes if size is not None), default=0)
        reached = self._forked or self._size >= longest or self.position >= longest
        if None not in sizes and reached:
            self._settled.set()
            self._feeds.ring(self.where)

    # --- what they say -----------------------------------------------------------------------

    async def _listen(self, holder: Holder, link: Link, quiet: bool) -> bool:
        """Until the holder ends it; whether all must begin again."""
        feed, subfeed = self.where
        params = FeedFollow(holder.channel, feed, subfeed, self.position, None, quiet)
        stream = link.open(FEED_FOLLOW, codec.plain(params))
        head: Head | None = None
        position = self.position
        try:
            while (item := await self._receive(stream, holder)) is not None:
                meta, body, cost = item
                part = codec.convert(FeedPart, meta)
                head = part.head or head
                if head is not None and (head.feed, head.subfeed) != self.where:
                    raise ProtocolViolation(reason="a head of another feed")
                if part.runs and (head is None or part.start != position):
                    raise ProtocolViolation(reason="messages that were not asked for")
                if part.decision is not None and await self._decided(part.decision, holder):
                    return True
                if part.fork is not None:
                    await self._fork_said(part.fork, holder)
                if part.runs and head is not None:
                    data = await stream.open_body(body)
                    await self._take(holder, link, part, head, data)
                    position += sum(run.count for run in part.runs)
                elif part.head is not None and not self._forked:
                    await compare_head(self._feeds, part.head, name_of(holder))
                stream.done(cost)
                self._heard(holder, part, head, link)
        finally:
            stream.end()
        return False

    async def _decided(self, decision: Decision, holder: Holder) -> bool:
        """The owner has decided a fork; whether that is news."""
        if (decision.head.feed, decision.head.subfeed) != self.where:
            raise ProtocolViolation(reason="a decision on another feed")
        return await self._feeds.take_decision(decision, name_of(holder))

    async def _fork_said(self, fork: Fork, holder: Holder) -> None:
        """Raises FeedForked, unless that was known; NotFound if the owner has decided it since."""
        if (fork.first.feed, fork.first.subfeed) != self.where:
            raise ProtocolViolation(reason="a fork of another feed")
        if not await self._feeds.record_fork(fork, name_of(holder)):
            raise NotFound(what=things.subfeed(*self.where).title, detail=OLDER_THAN_THE_DECISION)
        if not self._forked:
            raise FeedForked(feed=self.where[0].hex())

    async def _receive(self, stream: Stream, holder: Holder) -> tuple[Any, Body, int] | None:
        """What comes next. Who says nothing at all is as good as lost; who keeps messages back is
        passed over, if another has them.

        Raises:
            Unreachable: it said nothing; others: why it ended the stream.
        """
        source = self.sources[holder.node]
        patience: float | None = None
        if source.size is None:
            patience = FEED_SILENCE_SECONDS
        elif source.size > self._size and not source.quiet:
            # What is late for the second time may be much, on a slow road.
            patience = FEED_SILENCE_SECONDS * 2 ** min(self.failures[holder.node], _DOUBLED)
        try:
            try:
                async with asyncio.timeout(patience):
                    return await stream.receive()
            except TimeoutError:
                if source.size is None:
                    reason = f"silent for {patience:g} s"
                    raise Unreachable(what=name_of(holder), reason=reason) from None
            self._be_late(source)
            return await stream.receive()
        except FeedForked as error:
            raise ProtocolViolation(reason="it said that a feed is forked, unproven") from error

    def _be_late(self, source: Source) -> None:
        source.late = True
        self.failures[source.holder.node] += 1
        self._check_settled()
        best = self._best()
        if not best.late:
            self._promote(best.holder.node)

    def _heard(self, holder: Holder, part: FeedPart, head: Head | None, link: Link) -> None:
        source = self.sources[holder.node]
        # What is older than the owner's decision may not count, so nobody waits for it.
        old = head is not None and self._decision is not None and self._decision.is_after(head)
        source.size = 0 if head is None or old else head.size
        source.owner = part.owner
        source.via = link.via
        self._check_settled()
        if source.quiet and source.size > self._size:
            # Who has kept messages back before has its next chance later and later.
            delay = FEED_LAG_SECONDS * 2 ** min(self.failures[holder.node], 3 * _DOUBLED)
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self._check_lag, source, source.size)

    def _check_lag(self, source: Source, size: int) -> None:
        behind = self._size < size and self.sources.get(source.holder.node) is source
        if behind and source.quiet and not self._taking.locked():
            self._promote(source.holder.node)

    async def _take(
        self, holder: Holder, link: Link, part: FeedPart, head: Head, data: bytes
    ) -> None:
        count = sum(run.count for run in part.runs)
        if len(data) <= _INLINE_BYTES:
            texts = unpack_texts(data, count)
        else:
            texts = await self._feeds.context.workers.disk(unpack_texts, data, count)
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
                self.sources[holder.node].late = False
                del self.failures[holder.node]
            except ForgedFeed:
                await seek_fork(self._feeds, link, holder.channel, head, name_of(holder))
                raise
