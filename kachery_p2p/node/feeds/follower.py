"""Keeping up with a subfeed that others hold: one :class:`Follower` for each, as long as it is read.

It finds who holds the log, or has the feed's key, and follows up to ``FEED_SOURCES`` of them
(:mod:`.followed`): one sends
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
from typing import Any

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import (
    FeedForked,
    ForgedFeed,
    InternalError,
    KacheryError,
    LocalError,
    NotFound,
    ProtocolViolation,
    Unreachable,
)
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Head, Slice, unpack_texts
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.feeds.keys import feed_owner_key, subfeed_key
from kachery_p2p.protocol.feeds.messages import FEED_FOLLOW, FeedFollow, FeedPart
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    FEED_APPEAR_SECONDS,
    FEED_CONTACT_SECONDS,
    FEED_LAG_SECONDS,
    FEED_SILENCE_SECONDS,
    FEED_SOURCES,
    RECONNECT_FIRST,
    RECONNECT_MOST,
)
from kachery_p2p.protocol.links.session import Body
from kachery_p2p.storage.feeds.intake import OLDER_THAN_THE_DECISION
from kachery_p2p.storage.feeds.log import Log

from .feeds import Feeds
from .followed import Followed, Source
from .fork_evidence import compare_head, seek_fork

log = logging.getLogger(__name__)

_INLINE_BYTES = 4_096
"""So much is unpacked before a thread would have begun."""

_DOUBLED = 3
"""How often the patience with a late holder doubles: to half a minute."""


class Follower:
    """``position``: where to begin if nothing of the log is here. ``channel``: None for any."""

    def __init__(
        self,
        feeds: Feeds,
        discovery: Discovery,
        where: Log,
        *,
        channel: bytes | None,
        position: int,
    ) -> None:
        self.where = where
        self.failure: KacheryError | None = None
        """Why nobody is followed; None while somebody is, or may be."""
        self._followed = Followed()
        self.sources = self._followed.sources
        self._feeds = feeds
        self._discovery = discovery
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
        self.failures = self._followed.failures
        self._untried = False
        """More hold it than are followed, and some of them never failed."""
        self._taking = asyncio.Lock()
        name = f"following feed {where[0].hex()[:8]}"
        work = discovery.network.supervisor.for_ever(name, self._run)
        self.task = discovery.network.spawn(work, name=name)

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
        names = ", ".join(source.holder.name for source in self._followed.owing(self._size))
        what = f"Reading {subfeed_key(*self.where).title}"
        return Unreachable(what=what, reason=f"no answer yet from {names or 'the proxies'}")

    async def close(self) -> None:
        """Follow nobody any more. Who waits for it goes on with what is here."""
        self.task.cancel()
        self._settled.set()
        await asyncio.wait([self.task])

    # --- who is followed ---------------------------------------------------------------------

    async def _run(self) -> None:
        watches = self._discovery.watches
        wanted = (subfeed_key(*self.where), feed_owner_key(self.where[0]))
        ends = [watches.add(content, self._again.set) for content in wanted]
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
        lookup = self._discovery.lookup
        wanted = (subfeed_key(*self.where), feed_owner_key(self.where[0]))
        patience = 0.0 if self.sources else FEED_CONTACT_SECONDS
        found, owners = await lookup.find_any(wanted, self._channel, patience=patience)
        holders = {holder.node: holder for holder in [*found.holders, *owners.holders]}
        if not holders and not self.sources:
            found.offline += owners.offline
            raise lookup.not_found(wanted[0], found)
        self.failure = None
        if not self.sources:
            self._settled.clear()
        self._untried = False
        for holder in self._followed.rank(holders.values()):
            if holder.node in self.sources or self._followed.is_banned(holder.node):
                continue
            if len(self.sources) >= FEED_SOURCES:
                self._untried = not holder.failures
                break
            loud = not self._forked and all(s.quiet for s in self.sources.values())
            self._start(holder, quiet=not loud)
        if not self.sources:
            raise self._followed.worst()
        self._check_settled()

    def _fail(self, error: KacheryError) -> None:
        self.failure = error
        self._settled.set()
        self._feeds.ring(self.where)

    def _start(self, holder: Holder, *, quiet: bool, late: bool = False) -> None:
        task = self._discovery.network.spawn(self._follow(holder, quiet), name="follow a holder")
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

    async def _follow(self, holder: Holder, quiet: bool) -> None:
        mine = asyncio.current_task()
        try:
            link = await self._discovery.link_to(holder)
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
        except Exception as failed:  # a bug: another holder may be followed all the same
            log.exception("following %s failed", holder.name)
            error = InternalError(reason=str(failed))
        log.info("following %s: %s", holder.name, error)
        source = self.sources.get(holder.node)
        if source is not None and source.task is mine:
            self._lost(holder.node, error)

    def _lost(self, node: str, error: KacheryError) -> None:
        source = self.sources.pop(node)
        self._followed.lost(node, error)
        if isinstance(error, ForgedFeed | ProtocolViolation):
            self._feeds.context.warn(f"{source.holder.name}: {error}")
        if isinstance(error, FeedForked | LocalError):
            self._fail(error)
        elif not self.sources:
            if self._untried:
                self._again.set()
            else:
                self._fail(self._followed.worst())
        elif not source.quiet:
            self._promote(self._followed.best().holder.node)
        self._check_settled()
        self._retry.set()

    def _check_settled(self) -> None:
        if self._settled.is_set() or not self.sources:
            return
        longest = self._followed.longest()
        if longest is None:
            return
        if self._forked or self._size >= longest or self.position >= longest:
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
                    await compare_head(self._feeds, part.head, holder.name)
                stream.done(cost)
                self._heard(holder, part, head, link)
        finally:
            stream.end()
        return False

    async def _decided(self, decision: Decision, holder: Holder) -> bool:
        """The owner has decided a fork; whether that is news."""
        if (decision.head.feed, decision.head.subfeed) != self.where:
            raise ProtocolViolation(reason="a decision on another feed")
        return await self._feeds.take_decision(decision, holder.name)

    async def _fork_said(self, fork: Fork, holder: Holder) -> None:
        """Raises FeedForked, unless that was known; NotFound if the owner has decided it since."""
        if (fork.first.feed, fork.first.subfeed) != self.where:
            raise ProtocolViolation(reason="a fork of another feed")
        if not await self._feeds.record_fork(fork, holder.name):
            raise NotFound(what=subfeed_key(*self.where).title, detail=OLDER_THAN_THE_DECISION)
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
            # What is late for the second time may be much, on a slow path.
            patience = FEED_SILENCE_SECONDS * 2 ** min(self.failures[holder.node], _DOUBLED)
        try:
            try:
                async with asyncio.timeout(patience):
                    return await stream.receive()
            except TimeoutError:
                if source.size is None:
                    reason = f"silent for {patience:g} s"
                    raise Unreachable(what=holder.name, reason=reason) from None
            self._be_late(source)
            return await stream.receive()
        except FeedForked as error:
            raise ProtocolViolation(reason="it said that a feed is forked, unproven") from error

    def _be_late(self, source: Source) -> None:
        source.late = True
        self.failures[source.holder.node] += 1
        self._check_settled()
        best = self._followed.best()
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
                    source=holder.name,
                )
                self.position = self._size
                self._backoff.reset()
                self.sources[holder.node].late = False
                del self.failures[holder.node]
            except ForgedFeed:
                await seek_fork(self._feeds, link, holder.channel, head, holder.name)
                raise
