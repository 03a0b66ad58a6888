"""Appends to one's own feeds, gathered: what comes while the disk is busy goes to it together.

Where the number that a message will get is certain, an append goes into the store's spool first, and is
committed a moment later together with the others of that moment. On a durable node it is acknowledged
when the spool is on the disk, and who listens is told of it then; with durability relaxed it is
acknowledged at once, and nobody hears of it before the commit. Other appends wait for their commit.

Invariants: appends to a log are committed in the order in which they came; what was acknowledged stays
queued until it is committed, or until the log itself refuses it (a fork was shown, the feed deleted),
which the user is warned of. Readers hear of a log's messages in order.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import KacheryError, LocalError
from kachery_p2p.protocol.feeds.feed import Head, Slice
from kachery_p2p.protocol.feeds.messages import FeedNumbers
from kachery_p2p.protocol.limits import (
    FEED_COMMIT_BYTES,
    FEED_RELAXED_SECONDS,
    FEED_RETRY_SECONDS,
    FEED_SPOOL_SECONDS,
    MAX_FEED_MESSAGES,
    MAX_RECENT_LOGS,
)
from kachery_p2p.storage.feeds.append import Append, LogHead, slice_of
from kachery_p2p.storage.feeds.log import Log
from kachery_p2p.storage.feeds.store import FeedStore

Tell = Callable[[Log, Slice, Head], None]

_INLINE_MESSAGES = 64
_INLINE_BYTES = 4_096


def are_few(texts: Sequence[bytes]) -> bool:
    """Whether messages are hashed on the loop before a thread would have begun."""
    return len(texts) <= _INLINE_MESSAGES and sum(map(len, texts)) <= _INLINE_BYTES


@dataclass(slots=True, eq=False)
class _Queued:
    """``call``: none, if somebody just waits. ``end``: who waits. ``log_head``, ``numbers``: what
    promised which numbers; none, if they are known when it is committed."""

    call: Append | None
    end: asyncio.Future[Any]
    log_head: LogHead | None = None
    numbers: FeedNumbers | None = None
    told: bool = False


class _Signed(NamedTuple):
    """Of what goes to the disk with one sync of the spool: all of one log."""

    log_head: LogHead
    batch: list[_Queued]
    slice: Slice
    head: Head


class Appender:
    """``tell(log, slice, head)`` is called when a log has grown; an empty slice: it has, but not by
    what is at hand. ``is_heard(log)``: whether somebody listens."""

    def __init__(
        self,
        context: Context,
        store: FeedStore,
        tell: Tell,
        is_heard: Callable[[Log], bool],
    ) -> None:
        self._context = context
        self._store = store
        self._tell = tell
        self._is_heard = is_heard
        self._patience = FEED_SPOOL_SECONDS if store.durable else FEED_RELAXED_SECONDS
        self._queue: deque[_Queued] = deque()
        self._running = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._unsynced: list[_Queued] = []
        """In the spool, and not on the disk yet."""
        self._syncing = False
        self._doubtful = False
        """A sync failed: what is added to the spool now may lie behind something that is broken."""
        self._spooled: Counter[Log] = Counter()
        """Appends to a log that are in the spool and not committed."""
        self._untold: Counter[Log] = Counter()
        """Of these: of which nobody has been told."""
        self._waited: Counter[Log] = Counter()
        """Appends to a log whose numbers nobody knows yet."""
        self._changed: set[Log] = set()
        """Of these: where something else than an append came in between."""
        self._log_heads: OrderedDict[Log, LogHead] = OrderedDict()
        """Where a log will end when all that is queued is committed."""

    async def append(self, call: Append) -> FeedNumbers:
        """Do a call. Raises what is wrong with it, StorageFull, StorageDamaged."""
        promised = self.promise(call)
        if promised is not None:
            return await promised
        log = (call.feed, call.subfeed)
        self._log_heads.pop(log, None)
        self._waited[log] += 1
        await self._wait(call)
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return FeedNumbers(call.result.first, call.result.count)

    def forget(self, feed: bytes) -> None:
        """Something else than an append changes a feed's logs."""
        for log in [log for log in self._log_heads if log[0] == feed]:
            self._log_heads.pop(log).certain = False
        self._changed.update(log for log in self._waited if log[0] == feed)

    async def told(self, log: Log) -> None:
        """Until all that was acknowledged of a log has been told, as far as that is possible now."""
        if log in self._untold:
            await self.settle(log)

    async def settle(self, log: Log | None = None) -> None:
        """Until what was acknowledged, of all logs or of one, is committed, as far as that is possible
        now."""
        if self._spooled and (log is None or log in self._spooled):
            await self._wait(None)

    async def settle_feed(self, feed: bytes) -> None:
        """As :meth:`settle`, for all logs of a feed."""
        if any(log[0] == feed for log in self._spooled):
            await self._wait(None)

    async def close(self) -> None:
        """Commit what can be committed; the rest is in the spool."""
        await self.settle()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    async def _wait(self, call: Append | None) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(_Queued(call, end))
        self._start()
        await end

    # --- the spool ---------------------------------------------------------------------------

    def promise(self, call: Append) -> asyncio.Future[FeedNumbers] | None:
        """As :meth:`append`, if the number is certain; None if it is not, or there is no room in the
        spool."""
        log = (call.feed, call.subfeed)
        log_head, count = self._log_heads.get(log), len(call.texts)
        if log_head is None or call.submission is not None or call.author is not None:
            return None
        if self._doubtful:
            return None
        if log_head.size + count > MAX_FEED_MESSAGES:
            return None
        if self._store.durable and not are_few(call.texts):
            return None
        numbers = FeedNumbers(log_head.size, count)
        try:
            if not self._store.accept(call, log_head.size):
                return None
        except LocalError as error:
            # The database may be better off; if it is not, its error is the one that counts.
            self._context.warn(f"appends wait for their commit: {error}")
            return None
        log_head.size += count
        self._log_heads.move_to_end(log)
        self._spooled[log] += 1
        self._untold[log] += 1
        end: asyncio.Future[FeedNumbers] = asyncio.get_running_loop().create_future()
        queued = _Queued(call, end, log_head, numbers)
        self._queue.append(queued)
        self._soon(self._patience)
        if self._store.durable:
            self._unsynced.append(queued)
            self._sync()
        else:
            end.set_result(numbers)
        return end

    def _sync(self) -> None:
        if self._syncing or not self._unsynced:
            return
        self._syncing = True
        batch, self._unsynced = self._unsynced, []
        signed: list[_Signed] = []
        self._context.workers.sync(
            self._store.sync_accepted, lambda error: self._on_synced(batch, signed, error)
        )
        # While the disk is busy. What nobody waits for is signed together with others.
        signed += _sign(batch, self._is_heard)

    def _on_synced(
        self, batch: list[_Queued], signed: list[_Signed], error: BaseException | None
    ) -> None:
        self._syncing = False
        if error is not None:
            # Whether it is on the disk nobody knows; it may be appended all the same.
            self._doubtful = True
            for queued in batch:
                _end(queued, error)
            self._start()
        else:
            for each in signed:
                # Nothing, or all of it, or its beginning has been told, by commits.
                news = [queued for queued in each.batch if not queued.told]
                if each.log_head.certain and news:
                    self._tell(each.log_head.log, each.slice, each.head)
                    for queued in news:
                        queued.told = True
                        _less(self._untold, each.log_head.log)
            for queued in batch:
                # Else it may be refused: it waits for its commit.
                if queued.log_head is not None and queued.log_head.certain:
                    _end(queued, None)
        self._sync()

    # --- commits -----------------------------------------------------------------------------

    def _soon(self, seconds: float) -> None:
        if self._timer is None and not self._running and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._start)

    def _start(self) -> None:
        if self._running or not self._queue:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Queued] = []
        size = 0
        while self._queue and size < FEED_COMMIT_BYTES:
            batch.append(queued := self._queue.popleft())
            size += sum(map(len, queued.call.texts)) if queued.call is not None else 0
        calls = [queued.call for queued in batch if queued.call is not None]
        self._running = True
        self._context.workers.commit(
            lambda: self._store.append_all(calls), lambda error: self._on_done(batch, error)
        )

    def _on_done(self, batch: list[_Queued], error: BaseException | None) -> None:
        self._running = False
        for queued in batch:
            if queued.log_head is None and queued.call is not None:
                self._known(queued.call)
        if error is None:
            self._on_committed(batch)
        else:
            # Nothing of it is committed. What was promised is tried again; nothing more is promised
            # until that succeeds.
            self._queue.extendleft(
                queued for queued in reversed(batch) if queued.log_head is not None
            )
            self._log_heads.clear()
        for queued in batch:
            if error is None or queued.call is None:
                _end(queued, None)
            elif queued.log_head is None:
                _end(queued, error)
        if error is not None and self._spooled:
            count = sum(self._spooled.values())
            self._context.warn(f"{count} acknowledged appends are not written yet: {error}")
            self._soon(FEED_RETRY_SECONDS)
        elif self._queue:
            # What is in the spool only has time.
            if any(queued.log_head is None for queued in self._queue):
                self._start()
            else:
                self._soon(self._patience)

    def _known(self, call: Append) -> None:
        """What became of a call that was waited for: where does its log end now?"""
        log = (call.feed, call.subfeed)
        _less(self._waited, log)
        if log in self._waited:
            return
        if log in self._changed:
            self._changed.discard(log)
        elif call.result is not None:
            log_head = self._store.log_head(*log)
            if log_head is not None and log_head.size == call.result.head.size:
                self._log_heads[log] = log_head
                if len(self._log_heads) > MAX_RECENT_LOGS:
                    self._log_heads.popitem(last=False)

    def _on_committed(self, batch: Sequence[_Queued]) -> None:
        for queued in batch:
            if queued.log_head is not None and queued.call is not None:
                log = (queued.call.feed, queued.call.subfeed)
                _less(self._spooled, log)
                if not queued.told:
                    _less(self._untold, log)
                if queued.call.error is not None:
                    self._refused(queued, queued.call.error)
        if not self._spooled:
            self._store.all_committed()
            self._doubtful = False
        news = [
            queued.call
            for queued in batch
            if queued.call is not None and queued.call.error is None and not queued.told
        ]
        for queued in batch:
            queued.told = True
        for log, (slice, head) in _newest(news).items():
            self._tell(log, slice, head)

    def _refused(self, queued: _Queued, error: KacheryError) -> None:
        call = queued.call
        assert call is not None
        self.forget(call.feed)
        if not queued.end.done():
            queued.end.set_exception(error)
            return
        self._context.warn(
            f"{len(call.texts)} messages that were acknowledged were not appended to feed "
            f"{call.feed.hex()[:8]}: {error}"
        )


def _sign(batch: list[_Queued], is_heard: Callable[[Log], bool]) -> list[_Signed]:
    by_log: dict[LogHead, list[_Queued]] = {}
    for queued in batch:
        assert queued.log_head is not None
        by_log.setdefault(queued.log_head, []).append(queued)
    signed = []
    for log_head, mine in by_log.items():
        slice = log_head.grow([queued.call for queued in mine if queued.call is not None])
        if is_heard(log_head.log):
            signed.append(_Signed(log_head, mine, slice, log_head.sign()))
    return signed


def _newest(calls: Iterable[Append]) -> dict[Log, tuple[Slice, Head]]:
    """By log: the head after these calls, and the messages that lead to it, as far as they are in one
    piece."""
    newest: dict[Log, tuple[Slice, Head]] = {}
    for call in calls:
        log, done = (call.feed, call.subfeed), call.result
        assert done is not None
        slice, _ = newest.get(log) or (Slice(done.first, [], []), done.head)
        # What a submission brings when it is repeated need not be what stands there.
        if call.submission is not None or slice.stop != done.first:
            slice = Slice(done.first + done.count, [], [])
        else:
            more = slice_of([call], done.first)
            slice.texts.extend(more.texts)
            slice.runs.extend(more.runs)
        newest[log] = slice, done.head
    return newest


def _end(queued: _Queued, error: BaseException | None) -> None:
    if queued.end.done():
        return
    if error is None:
        queued.end.set_result(queued.numbers)
    else:
        queued.end.set_exception(error)


def _less(counts: Counter[Log], log: Log) -> None:
    counts[log] -= 1
    if not counts[log]:
        del counts[log]
