"""Reading feeds for local callers: from this node's copy, kept up with the others' while it is read.

A subfeed that is read is followed (:mod:`.follower`) until nobody has read it for
``FEED_IDLE_SECONDS``. The first read of it waits for the first contact with who holds it, and no read
waits for longer than its caller said. What lies before the part that is held here is fetched for the
caller alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.protocol.errors import (
    FeedDeleted,
    FeedForked,
    KacheryError,
    NotFound,
    RemoteError,
)
from kachery_p2p.protocol.feeds.decision import Decision
from kachery_p2p.protocol.feeds.feed import Slice
from kachery_p2p.protocol.feeds.keys import subfeed_key
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    FEED_IDLE_SECONDS,
    MAX_FEED_MESSAGES,
    MAX_FOLLOWED,
)
from kachery_p2p.storage.feeds.log import Log, LogInfo

from .feeds import Feeds
from .fetch import fetch_messages
from .follower import Follower
from .proofs import Proofs, asked_proofs

T = TypeVar("T")


class Wanted(NamedTuple):
    """What a caller wants to read: a log from ``position`` on."""

    where: Log
    position: int


class _Entry:
    """A follower, and how many read what it brings: each for the time of a ``with``."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.readers = 0
        self._loop = asyncio.get_running_loop()
        self.used_at = self._loop.time()

    def __enter__(self) -> Follower:
        self.readers += 1
        return self.follower

    def __exit__(self, *_: object) -> None:
        self.readers -= 1
        self.used_at = self._loop.time()


class FeedReader:
    def __init__(self, feeds: Feeds, discovery: Discovery) -> None:
        self._feeds = feeds
        self._discovery = discovery
        self._followers: OrderedDict[tuple[Log, bytes | None], _Entry] = OrderedDict()
        self._held: dict[tuple[Log, bytes], _Entry] = {}

    # --- followers ---------------------------------------------------------------------------

    def follower(self, where: Log) -> Follower | None:
        """Who keeps a log up to date, if it is being read."""
        for (log, _), entry in self._followers.items():
            if log == where:
                return entry.follower
        return None

    def followed(self) -> dict[Log, int]:
        """The logs that are kept up to date, the one used last at the end, each with how many local
        reads of it go on."""
        found: dict[Log, int] = {}
        for (log, _), entry in self._followers.items():
            found[log] = found.pop(log, 0) + entry.readers
        return found

    def size_elsewhere(self, where: Log) -> int:
        """The longest head of a log that those who are followed have said."""
        follower = self.follower(where)
        return max((s.size or 0 for s in follower.sources.values()), default=0) if follower else 0

    async def _following(self, wanted: Wanted, channel: bytes | None) -> _Entry:
        """Somebody who keeps the log up to date meanwhile, at least from the position wanted on."""
        key = (wanted.where, channel)
        entry = self._followers.get(key)
        if entry is not None and entry.follower.position > wanted.position:
            info = await self._feeds.info(wanted.where)
            if info is None or info.head is None:
                # It waits for messages that come later than what is wanted now.
                self._followers.pop(key, None)
                await entry.follower.close()
                entry = None
        if entry is None:
            await self._make_room()
            entry = self._followers.get(key)
        if entry is None:
            follower = Follower(
                self._feeds,
                self._discovery,
                wanted.where,
                channel=channel,
                position=wanted.position,
            )
            entry = self._followers[key] = _Entry(follower)
        self._followers.move_to_end(key)
        return entry

    async def contact(
        self, wanted: Wanted, *, channel: bytes | None, timeout: float, shown: dict[str, Any]
    ) -> None:
        """Add to ``shown`` who is followed for a log, and why nobody is."""
        if await self._feeds.is_own(wanted.where[0]):
            return
        with await self._following(wanted, channel) as follower:
            await follower.settle(timeout)
            shown["holders"] = [
                {
                    "node": source.holder.node,
                    "label": source.holder.label,
                    "owner": source.owner,
                    "size": source.size,
                    "route": "direct" if source.via is None else f"relayed by {source.via[:8]}",
                }
                for source in follower.sources.values()
            ]
            shown["detail"] = "" if follower.failure is None else str(follower.failure)

    async def _make_room(self) -> None:
        while len(self._followers) >= MAX_FOLLOWED:
            idle = [key for key, entry in self._followers.items() if not entry.readers]
            key = next(iter(idle or self._followers))
            await self._followers.pop(key).follower.close()

    async def sweep(self) -> None:
        """Follow no longer what nobody has read for a while."""
        now = asyncio.get_running_loop().time()
        for key, entry in list(self._followers.items()):
            if not entry.readers and now - entry.used_at > FEED_IDLE_SECONDS:
                self._followers.pop(key, None)
                await entry.follower.close()

    async def hold(self, where: Log, channel: bytes) -> None:
        """Keep a log up to date, from its beginning on, although nobody reads it. A second time does
        nothing."""
        entry = self._held.get((where, channel))
        if entry is None or self._followers.get((where, channel)) is not entry:
            entry = await self._following(Wanted(where, 0), channel)
            entry.__enter__()
            self._held[where, channel] = entry

    async def release(self, where: Log, channel: bytes) -> None:
        """Do so no longer."""
        entry = self._held.pop((where, channel), None)
        if entry is not None:
            entry.__exit__()

    async def forget(self, feed: bytes) -> None:
        """The feed was deleted here."""
        for key in [key for key in self._followers if key[0][0] == feed]:
            await self._followers.pop(key).follower.close()

    # --- reading -----------------------------------------------------------------------------

    async def read(
        self,
        wanted: Sequence[Wanted],
        *,
        most: int,
        wait: float,
        timeout: float,
        channel: bytes | None,
    ) -> dict[int, Slice]:
        """The messages of the first of these logs that have any, by place in ``wanted``.

        Args:
            most: messages of each, at most.
            wait: seconds to wait for a message if there is none.
            timeout: seconds that the first contact with those who hold a log may take.
            channel: on which to look for them; None for any.

        Raises:
            FeedForked: the log ends in a fork, and all before it was read.
            FeedDeleted: the only feed wanted was deleted here meanwhile.
            NotFound, AccessDenied, Unreachable, ...: nothing is held of the only log wanted, and why.
        """
        loop = asyncio.get_running_loop()
        deadline, contact = loop.time() + wait, loop.time() + timeout
        with contextlib.ExitStack() as stack:
            followers: dict[int, Follower] = {}
            with self._feeds.listening(*(each.where for each in wanted)) as bell:
                await self._follow_all(wanted, followers, stack, channel)
                while True:
                    bell.clear()
                    if bell.deleted and len(wanted) == 1:
                        raise FeedDeleted(feed=wanted[0].where[0].hex())
                    unsettled = [f for f in followers.values() if not f.settled]
                    if unsettled:
                        left = contact - loop.time()
                        await asyncio.gather(*(f.settle(left) for f in unsettled))
                    found = {}
                    for place, each in enumerate(wanted):
                        slice = await self._read_one(each, most, followers.get(place))
                        if slice is not None and slice.texts:
                            found[place] = slice
                    left = deadline - loop.time()
                    if found:
                        return found
                    if len(wanted) == 1:
                        await self._check(wanted[0], followers.get(0), last=left <= 0)
                    if left <= 0:
                        return {}
                    timer = loop.call_later(left, bell.set)
                    try:
                        await bell.wait()
                    finally:
                        timer.cancel()

    async def stream(
        self,
        wanted: Wanted,
        offer: Callable[[Slice], bool],
        room: Callable[[], Awaitable[None]],
        flush: Callable[[], None],
        *,
        wait: float,
        timeout: float,
        channel: bytes | None,
    ) -> None:
        """Hand out the messages of a log as they come, until none came for ``wait`` seconds.

        Args:
            offer: takes them, or says that it has no room.
            room: returns when it has.
            flush: sends what it took.
            timeout, channel: as for :meth:`read`, and so is what is raised.
        """
        where, position = wanted
        loop = asyncio.get_running_loop()
        contact, heard = loop.time() + timeout, loop.time()
        idle = False

        def hear() -> Callable[[], None] | None:
            # News for who has all that came before it: no task need be woken for that.
            nonlocal position, heard
            newest = self._feeds.newest.serve(where, position) if idle else None
            if newest is None or not offer(newest.slice):
                bell.set()
                return None
            position, heard = newest.slice.stop, loop.time()
            return flush

        with (
            contextlib.ExitStack() as stack,
            self._feeds.listening(where, hear=hear) as bell,
        ):
            followers: dict[int, Follower] = {}
            await self._follow_all([wanted], followers, stack, channel)
            follower = followers.get(0)
            while True:
                bell.clear()
                if bell.deleted:
                    raise FeedDeleted(feed=where[0].hex())
                if follower is not None:
                    await follower.settle(contact - loop.time())
                here = Wanted(where, position)
                slice = await self._read_one(here, MAX_FEED_MESSAGES, follower)
                if slice is not None and slice.texts:
                    while not offer(slice):
                        await room()
                    flush()
                    position, heard = slice.stop, loop.time()
                    continue
                left = heard + wait - loop.time()
                await self._check(here, follower, last=left <= 0)
                if left <= 0:
                    return
                timer = loop.call_later(left, bell.set)
                idle = True
                try:
                    await bell.wait()
                finally:
                    idle = False
                    timer.cancel()

    async def _follow_all(
        self,
        wanted: Sequence[Wanted],
        followers: dict[int, Follower],
        stack: contextlib.ExitStack,
        channel: bytes | None,
    ) -> None:
        for place, each in enumerate(wanted):
            if not await self._feeds.is_own(each.where[0]):
                followers[place] = stack.enter_context(await self._following(each, channel))

    async def _read_one(self, wanted: Wanted, most: int, follower: Follower | None) -> Slice | None:
        slice = await self._feeds.read(wanted.where, wanted.position, most)
        if slice is None and follower is not None:
            info = await self._feeds.info(wanted.where)
            if info is not None and wanted.position < info.base:
                most = min(most, info.base - wanted.position)
                return await self._fetch(wanted, most, follower, info.decision)
        return slice

    async def _check(self, wanted: Wanted, follower: Follower | None, *, last: bool) -> None:
        """There is nothing to read: is there a reason that the caller should hear?"""
        held = self._feeds.newest.ends_at(*wanted)
        if not held:
            info: LogInfo | None = await self._feeds.info(wanted.where)
            held = info is not None
            if info is not None and info.fork is not None:
                raise FeedForked(feed=wanted.where[0].hex())
        failure = follower.failure if follower is not None else None
        if failure is None:
            if last and follower is not None and follower.owed and not held:
                raise follower.silence()
            return
        # Who holds it may be back soon; who refuses must be asked, not waited for.
        if isinstance(failure, RemoteError) or (last and not held):
            raise failure

    async def _fetch(
        self, wanted: Wanted, most: int, follower: Follower, decision: Decision | None
    ) -> Slice | None:
        """Messages that come before the part that is held here, for the caller alone."""

        async def fetch(holder: Holder) -> Slice:
            return await fetch_messages(
                await self._discovery.link_to(holder),
                holder,
                *wanted,
                most,
                decision=decision,
                workers=self._feeds.context.workers,
            )

        return await self._of_holders(wanted.where, follower, fetch)

    async def prove(self, where: Log, slice: Slice, *, channel: bytes | None) -> Proofs:
        """Proofs of messages that are not held here. Raises as :meth:`read`, and BadInput."""

        async def ask(holder: Holder) -> Proofs:
            link = await self._discovery.link_to(holder)
            return await asked_proofs(link, holder.channel, where, slice, holder.name)

        with await self._following(Wanted(where, slice.start), channel) as follower:
            return await self._of_holders(where, follower, ask)

    async def _of_holders(
        self, where: Log, follower: Follower, ask: Callable[[Holder], Awaitable[T]]
    ) -> T:
        """What the first of those who are followed gives that gives it."""
        errors: list[KacheryError] = []
        failures = follower.failures
        holders = [source.holder for source in follower.sources.values()]
        for holder in sorted(holders, key=lambda holder: failures[holder.node]):
            try:
                return await ask(holder)
            except KacheryError as error:
                failures[holder.node] += 1
                errors.append(error)
        if errors:
            raise errors[-1]
        title = subfeed_key(*where).title
        raise follower.failure or NotFound(what=title, detail="nobody connected has its beginning")
