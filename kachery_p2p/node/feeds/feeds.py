"""The feeds of a node: what is held of them, and who must hear when there is more.

:class:`Feeds` stands between the store (:mod:`kachery_p2p.storage.feeds.store`) and everybody who
waits for messages: local readers (:mod:`.reader`), other nodes that follow (:mod:`.server`) and our
own followers of others (:mod:`.follower`).

Invariants: a message of one's own is on disk before anybody hears of it, one of others is proven;
whoever listens before it looks hears of everything that comes after.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Head, Slice, subfeed_hash
from kachery_p2p.protocol.feeds.fork import Fork
from kachery_p2p.protocol.feeds.keys import feed_owner_key, subfeed_key
from kachery_p2p.protocol.feeds.messages import FeedNumbers
from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.limits import (
    MAX_FEED_MESSAGES,
    MAX_FOLLOWED,
    MAX_SLICE,
)
from kachery_p2p.storage.feeds.append import Append
from kachery_p2p.storage.feeds.intake import Incoming
from kachery_p2p.storage.feeds.log import Log, LogInfo
from kachery_p2p.storage.feeds.store import FeedStore

from .appender import Appender, are_few
from .newest_messages import NewestMessages, Served

_log = logging.getLogger(__name__)

Hear = Callable[[], Callable[[], None] | None]


class Bell(asyncio.Event):
    """Is set whenever one of the logs changes that somebody listens to. ``deleted``: one of them is not
    here any more, and its listener is to end."""

    deleted = False


class Feeds:
    def __init__(
        self,
        context: Context,
        store: FeedStore,
        *,
        provide: Callable[[ContentKey], None],
        withdraw: Callable[[ContentKey], None],
    ) -> None:
        self.context = context
        self.store = store
        self._disk = context.workers.disk
        self._provide = provide
        self._withdraw = withdraw
        self._appender = Appender(context, store, self._on_appended, self._is_heard)
        self._stores: dict[Log, set[asyncio.Future[int]]] = {}
        self._names: dict[Log, str] = {}
        """What local readers call the subfeeds of others."""
        self._listeners: dict[Log, dict[Hear, Bell]] = {}
        self.newest = NewestMessages()
        self._told: set[tuple[Log, frozenset[str]]] = set()
        self._own: dict[bytes, bool] = {}
        """Whether a feed's key lies here, as far as anybody asked."""

    # --- hearing -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def listening(self, *logs: Log, hear: Hear | None = None) -> Iterator[Bell]:
        """An event that is set whenever one of these logs changes; clear it before you look.

        ``hear``: what is called instead, for who need not always be woken. What it returns, if it is
        not None, is called once all have heard, once for all who return the same.
        """
        bell = Bell()
        called = hear or bell.set
        for log in logs:
            self._listeners.setdefault(log, {})[called] = bell
        try:
            yield bell
        finally:
            for log in logs:
                listeners = self._listeners.get(log, {})
                listeners.pop(called, None)
                if not listeners:
                    self._listeners.pop(log, None)

    def _is_heard(self, log: Log) -> bool:
        return log in self._listeners

    def ring(self, log: Log) -> None:
        """A log has changed."""
        afterwards: dict[Callable[[], None], None] = {}
        for hear in list(self._listeners.get(log, ())):
            try:
                then = hear()
            except Exception:  # a bug there must not cost the others, or who appended, anything
                _log.exception("somebody who listens to a feed failed")
            else:
                if then is not None:
                    afterwards[then] = None
        for then in afterwards:
            then()

    # --- what is here ------------------------------------------------------------------------

    def note_name(self, log: Log, name: str) -> None:
        """A local reader calls a subfeed that; it is kept with what comes of it."""
        known = name.startswith("~") or self._names.get(log) == name
        if not known and subfeed_hash(name) == log[1]:
            self._names[log] = name
            if len(self._names) > MAX_FOLLOWED:
                del self._names[next(iter(self._names))]

    async def in_store(self, log: Log) -> None:
        """Until all that anybody has heard of a log is in the store, as far as that is possible now."""
        await self._appender.settle(log)
        await self._stored(log)

    async def reaches(self, log: Log, stop: int) -> None:
        """Until the messages before ``stop`` are in the store, if anybody has heard of them: who asks
        for those of yesterday does not wait for what is appended now."""
        if stop > self.store.committed(*log):
            await self.in_store(log)

    async def info(self, log: Log) -> LogInfo | None:
        await self.in_store(log)
        return await self._disk(self.store.info, *log)

    async def is_own(self, feed: bytes) -> bool:
        """Whether the feed's key lies here."""
        own = self._own.get(feed)
        if own is None:
            own = await self._disk(self.store.key, feed) is not None
            self._own[feed] = own
            if len(self._own) > MAX_FOLLOWED:
                del self._own[next(iter(self._own))]
        return own

    async def read(self, log: Log, start: int, most: int) -> Slice | None:
        """At most ``most`` messages from ``start`` on that fit one frame; None if none are held."""
        if start + most > self.store.committed(*log):
            await self._appender.told(log)
        if self.newest.ends_at(log, start):
            return Slice(start, [], [])
        newest = self.newest.serve(log, start)
        if newest is not None and len(newest.slice.texts) <= most:
            return newest.slice

        def work() -> Slice | None:
            info = self.store.info(*log)
            if info is None or not info.base <= start < info.size:
                return None
            return self.store.read(*log, start, max_messages=most, max_bytes=MAX_SLICE)

        await self.reaches(log, start + most)
        return await self._disk(work)

    async def serve(
        self, log: Log, start: int, stop: int | None, *, peaks: bool, most_bytes: int
    ) -> Served | None:
        """As :meth:`read`, for another node: with proofs, up to ``stop``, and at most ``most_bytes``
        of texts, but one message.

        ``peaks``: with the frontier at ``start``, which who has what comes before it does not need.
        """
        if start >= self.store.committed(*log):
            await self._appender.told(log)
        newest = None if peaks or stop is not None else self.newest.serve(log, start)
        if newest is not None:
            return newest
        most = MAX_FEED_MESSAGES if stop is None else stop - start

        def work() -> Served | None:
            info = self.store.info(*log)
            if info is None or not info.base <= start < info.size or most <= 0:
                return None
            slice = self.store.read(*log, start, max_messages=most, max_bytes=most_bytes)
            proof = self.store.proof(*log, start, slice.stop)
            return Served(slice, proof.peaks if peaks else [], proof.right, proof.head)

        await self.reaches(log, start + 1)
        return await self._disk(work)

    # --- changes -----------------------------------------------------------------------------

    async def create(self, name: str | None, *, replace: bool = False) -> bytes:
        """A new feed of this node's; its id. Raises BadInput if the name is taken, and is not to be
        taken from the feed that has it (``replace``)."""
        seed, now = self.context.random_bytes(32), self.context.clock()
        feed = await self._disk(self.store.create_feed, seed, name, now, replace=replace)
        self._own[feed] = True
        self._provide(feed_owner_key(feed))
        return feed

    async def delete(self, feed: bytes) -> bool:
        """Forget a feed, and its key if it is ours; whether it was here. Who listens to it hears that,
        once."""
        await self._hold(feed)
        logs = [(feed, subfeed) for _, subfeed, _ in await self._disk(self.store.logs, feed)]
        deleted = await self._disk(self.store.delete_feed, feed)
        self._own.pop(feed, None)
        self._withdraw(feed_owner_key(feed))
        for log in logs:
            self.newest.forget(log)
            self._withdraw(subfeed_key(*log))
            self._told = {told for told in self._told if told[0] != log}
        # A log that has no messages yet is listened to as well.
        for log, listeners in self._listeners.items():
            if log[0] == feed:
                for bell in listeners.values():
                    bell.deleted = True
                    bell.set()
        return deleted

    async def append(
        self,
        log: Log,
        name: str | None,
        texts: list[bytes],
        *,
        author: bytes | None = None,
        submission: bytes | None = None,
    ) -> FeedNumbers:
        """Sign and keep messages; their numbers. They are on disk when this returns;
        with durability relaxed they may only be about to be, and :meth:`settle` waits for it.

        Raises:
            FeedReadOnly, FeedForked, FeedBehind, BadInput, StorageFull, StorageDamaged
        """
        return await self._appender.append(
            Append(*log, name, texts, author, self._now_ms(), submission)
        )

    def promise(
        self, log: Log, name: str | None, texts: list[bytes]
    ) -> asyncio.Future[FeedNumbers] | None:
        """As :meth:`append`, if it is certain already which numbers they get; else None."""
        return self._appender.promise(Append(*log, name, texts, None, self._now_ms(), None))

    def _now_ms(self) -> int:
        return round(self.context.clock() * 1000)

    async def note_head(self, head: Head, source: str) -> None:
        """Somebody showed a head of a feed that may be ours. Raises ForgedFeed."""
        if await self.is_own(head.feed):
            await self._hold(head.feed)
            await self._disk(self.store.note_head, head, source)

    async def _hold(self, feed: bytes) -> None:
        """Something else than an append is about to change a feed's logs. What was acknowledged, and
        perhaps told, counts before it, and nothing is promised until it is over."""
        self._appender.forget(feed)
        await self._appender.settle_feed(feed)

    async def close(self) -> None:
        """Until as much as can be is on the disk."""
        await self.settle()
        await self._appender.close()

    async def settle(self, feed: bytes | None = None) -> None:
        """Until all that can be read is in the store, of all feeds or of one."""
        await self._appender.settle()
        for log in [log for log in self._stores if feed in (None, log[0])]:
            await self._stored(log)

    async def _store(self, log: Log, incoming: Incoming) -> int:
        """Messages that have been heard of go to the disk, whether the caller waits or not."""
        storing = asyncio.ensure_future(self._disk(self.store.extend, incoming))
        self._stores.setdefault(log, set()).add(storing)
        storing.add_done_callback(lambda storing: self._on_stored(log, storing))
        return await asyncio.shield(storing)

    def _on_stored(self, log: Log, storing: asyncio.Future[int]) -> None:
        self._stores[log].discard(storing)
        if not self._stores[log]:
            del self._stores[log]
        if storing.cancelled() or storing.exception() is not None:
            self.newest.forget(log)
            self.ring(log)

    async def _stored(self, log: Log) -> None:
        """Until what was heard of a log is in the store."""
        if log in self._stores:
            await asyncio.wait(set(self._stores[log]))

    def _on_appended(self, log: Log, slice: Slice, head: Head) -> None:
        self.newest.remember(log, slice, head)
        self._tell(log, frozenset())
        self.ring(log)

    async def extend(
        self,
        log: Log,
        slice: Slice,
        right: Sequence[bytes],
        head: Head,
        *,
        channel: bytes,
        peaks: Sequence[bytes] | None,
        source: str,
    ) -> int:
        """Take in what another node sent, if it is proven; the size of the log now.

        Raises:
            ForgedFeed, FeedForked, BadInput (a gap), StorageFull, StorageDamaged
        """

        def incoming() -> Incoming:
            name = self._names.get(log)
            return Incoming(*log, slice, right, head, channel.hex(), peaks, name, source)

        await self._hold(log[0])
        heard = False
        try:
            if are_few(slice.texts):
                checked = incoming()
                heard = self.store.follows(checked)
                if heard:
                    # Who reads them need not wait for our disk: they can be fetched again.
                    self.newest.remember(log, slice, head)
                    self.ring(log)
                    size = await self._store(log, checked)
                else:
                    size = await self._disk(self.store.extend, checked)
            else:
                size = await self._disk(lambda: self.store.extend(incoming()))
        except BaseException:
            self.newest.forget(log)
            self.ring(log)
            raise
        if not heard:
            if slice.texts and size == slice.stop:
                self.newest.remember(log, slice, head)
            self.ring(log)
        self._tell(log, frozenset([channel.hex()]))
        return size

    async def record_fork(self, fork: Fork, source: str) -> bool:
        """Keep the proof that a feed's owner signed two histories; False if the owner has decided
        since which of them counts. Raises ForgedFeed."""
        await self._hold(fork.first.feed)
        log = (fork.first.feed, fork.first.subfeed)
        forked = await self._weigh(log, lambda: self.store.record_fork(fork, source))
        if forked:
            self.context.warn(
                f"feed {fork.first.feed.hex()[:8]} was signed with two histories; it takes nothing "
                "more until its owner decides"
            )
        self._changed(log)
        return forked

    async def decide(self, log: Log) -> bool:
        """Decide a fork of our own log for what is here; whether there was one. Raises FeedReadOnly,
        BadInput."""
        await self._hold(log[0])
        decided = await self._disk(self.store.decide, *log, self._now_ms()) is not None
        self._changed(log)
        return decided

    async def take_decision(self, decision: Decision, source: str) -> bool:
        """An owner has decided which history counts; whether that is new. Raises ForgedFeed."""
        await self._hold(decision.head.feed)
        log = (decision.head.feed, decision.head.subfeed)
        new = await self._weigh(log, lambda: self.store.take_decision(decision, source))
        if new:
            self._changed(log)
        return new

    async def _weigh(self, log: Log, work: Callable[[], bool]) -> bool:
        """Do what may empty a mirror. Who has read what does not count any more should be able to find
        out."""

        def size() -> int:
            info = self.store.info(*log)
            return 0 if info is None else info.size

        before, result, after = await self._disk(lambda: (size(), work(), size()))
        if before and not after:
            self.context.warn(
                f"feed {log[0].hex()[:8]}: {before} messages of a subfeed were of a history that its "
                "owner decided against; it is read anew"
            )
        return result

    def _changed(self, log: Log) -> None:
        """Not by messages that came at its end."""
        self.newest.forget(log)
        self.ring(log)

    def _tell(self, log: Log, channels: frozenset[str]) -> None:
        """Announce a log once for each set of channels that it came on."""
        if (log, channels) not in self._told:
            self._told.add((log, channels))
            self._provide(subfeed_key(*log))
