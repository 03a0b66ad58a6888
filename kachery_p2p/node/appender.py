"""Appends to one's own feeds, gathered: what comes while a commit runs goes into the next one.

With durability relaxed, an append whose number is certain is acknowledged as soon as it is in the
store's spool, and committed a moment later together with the others of that moment; nobody hears of
its messages before that.

Invariants: appends to a log are committed in the order in which they came; what was acknowledged
stays queued until it is committed, or until the log itself refuses it (a fork was shown, the feed
deleted), which the user is warned of.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import (
    FEED_COMMIT_BYTES,
    FEED_RELAXED_SECONDS,
    FEED_RETRY_SECONDS,
    MAX_FEED_MESSAGES,
    MAX_RECENT_LOGS,
)
from kachery_p2p.storage.feed_append import Append, Appended
from kachery_p2p.storage.feed_log import Log
from kachery_p2p.storage.feeds import FeedStore

from .context import Context


class _Queued(NamedTuple):
    """``end``: who waits; nobody, if it is acknowledged. ``call``: none, if somebody just waits."""

    call: Append | None
    end: asyncio.Future[None] | None


class Appender:
    """``committed`` is called with all that one commit appended."""

    def __init__(
        self, context: Context, store: FeedStore, committed: Callable[[list[Append]], None]
    ) -> None:
        self._context = context
        self._store = store
        self._committed = committed
        self._queue: deque[_Queued] = deque()
        self._running = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._accepted: Counter[Log] = Counter()
        """Appends to a log that are acknowledged and not committed."""
        self._waited: Counter[Log] = Counter()
        """Appends to a log whose numbers nobody knows yet."""
        self._changed: set[Log] = set()
        """Of these: where something else than an append came in between."""
        self._sizes: OrderedDict[Log, int] = OrderedDict()
        """With durability relaxed: where a log will end when all that is queued is committed."""

    async def append(self, call: Append) -> Appended:
        """Commit a call. Raises what is wrong with it, StorageFull, StorageDamaged."""
        log = (call.feed, call.subfeed)
        self._sizes.pop(log, None)
        self._waited[log] += 1
        await self._wait(call)
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def accept(self, call: Append) -> int | None:
        """With durability relaxed: acknowledge a call now; the number of its first message. None if
        it must be waited for. Raises StorageFull, StorageDamaged."""
        log = (call.feed, call.subfeed)
        first = self._sizes.get(log)
        if first is None or first + len(call.texts) > MAX_FEED_MESSAGES:
            return None
        if not self._store.accept(call, first):
            return None
        self._sizes[log] = first + len(call.texts)
        self._sizes.move_to_end(log)
        self._accepted[log] += 1
        self._queue.append(_Queued(call, None))
        self._soon(FEED_RELAXED_SECONDS)
        return first

    def forget(self, feed: bytes) -> None:
        """Something else than an append changes a feed's logs."""
        for log in [log for log in self._sizes if log[0] == feed]:
            del self._sizes[log]
        self._changed.update(log for log in self._waited if log[0] == feed)

    async def settle(self, log: Log | None = None) -> None:
        """Until what was acknowledged, of all logs or of one, is committed, as far as that is possible
        now."""
        if self._accepted and (log is None or log in self._accepted):
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
            if queued.end is not None and queued.call is not None:
                self._known(queued.call)
        if error is None:
            self._on_committed(batch)
        else:
            # Nothing of it is committed. What was acknowledged is tried again; nothing more is
            # acknowledged until that succeeds.
            self._queue.extendleft(queued for queued in reversed(batch) if queued.end is None)
            self._sizes.clear()
        for queued in batch:
            if queued.end is not None and not queued.end.done():
                if error is None or queued.call is None:
                    queued.end.set_result(None)
                else:
                    queued.end.set_exception(error)
        if error is not None and self._accepted:
            count = sum(self._accepted.values())
            self._context.warn(f"{count} acknowledged appends are not written yet: {error}")
            self._soon(FEED_RETRY_SECONDS)
        elif self._queue:
            self._start()

    def _known(self, call: Append) -> None:
        """What became of a call that was waited for: where does its log end now?"""
        log = (call.feed, call.subfeed)
        _less(self._waited, log)
        if log in self._waited:
            return
        if log in self._changed:
            self._changed.discard(log)
        elif call.result is not None and not self._store.durable:
            self._sizes[log] = call.result.head.size
            if len(self._sizes) > MAX_RECENT_LOGS:
                self._sizes.popitem(last=False)

    def _on_committed(self, batch: Sequence[_Queued]) -> None:
        calls = [queued.call for queued in batch if queued.call is not None]
        for queued in batch:
            if queued.end is None and queued.call is not None:
                _less(self._accepted, (queued.call.feed, queued.call.subfeed))
                if queued.call.error is not None:
                    self._lost(queued.call, queued.call.error)
        if not self._accepted:
            self._store.all_committed()
        self._committed([call for call in calls if call.error is None])

    def _lost(self, call: Append, error: KacheryError) -> None:
        self.forget(call.feed)
        self._context.warn(
            f"{len(call.texts)} messages that were acknowledged (durability is relaxed) were not "
            f"appended to feed {call.feed.hex()[:8]}: {error}"
        )


def _less(counts: Counter[Log], log: Log) -> None:
    counts[log] -= 1
    if not counts[log]:
        del counts[log]
