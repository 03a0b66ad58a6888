"""What this node announces: its own log, one for each channel.

The rules are in :mod:`kachery_p2p.protocol.gossip.announcements`; this keeps the logs in line with
roles, secrets and what is here. What there is to announce, the rooms that keep it say
(:class:`Offers`): blobs, feeds, tasks. For each channel there is one job, repeated until it
succeeds, that compares what is here with the log; what comes or goes meanwhile is announced beside
it.

Invariants. Nothing is announced on a channel where we may not, or do not want to, provide content
of its kind, nor anything that came from another channel. A log says that it is complete only while
that is so: from the end of a comparison until this process ends, or the secret or what we may
provide changes. The order of entries follows from blinded keys, except for what is announced as it
comes.

Non-goals: telling others, see :mod:`~kachery_p2p.node.gossip.exchange`; what others announce, and
answering look-ups, see :mod:`~kachery_p2p.node.gossip.availability`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.announcements import (
    MARK,
    PROVIDE,
    WITHDRAW,
    AnnouncementLog,
    Change,
)
from kachery_p2p.protocol.gossip.completeness import NOTHING_COMPLETE, pack_mark, says_complete
from kachery_p2p.protocol.gossip.keys import KINDS, ContentKey, ContentKind, provide_role
from kachery_p2p.protocol.limits import (
    ANNOUNCE_ALIVE_SECONDS,
    ANNOUNCE_DELAY,
    ANNOUNCE_SPREAD,
)

from .comparison import Comparison, Offers, all_leaving
from .overtaking import Overtaking
from .own_log import LogKeeper

_AT_ONCE = 1_000
"""Entries of a log that are written, and told of, together."""
_RETRY_SECONDS = 1.0
"""What could not be written to the log is tried again after this."""


class Announcer:
    def __init__(self, network: Network, offers: Iterable[Offers]) -> None:
        self.scanned = asyncio.Event()
        """Set when the storage has been compared with the logs once."""
        self.on_news: list[Callable[[bytes, int], None]] = []
        """Called with a channel, and the number after which there are new entries in its log."""
        self.on_state: list[Callable[[bytes], None]] = []
        """Called with a channel; others should hear how far its log is, and that we are alive."""
        self._network = network
        self._context = network.context
        self._book = network.book
        self._keeper = LogKeeper(network.context)
        self._logs: dict[bytes, AnnouncementLog] = {}
        self._secret_versions: dict[bytes, int] = {}
        self._offers = list(offers)
        self._by_context = {context: each for each in self._offers for context in each.contexts}
        self._pending: dict[bytes, dict[ContentKey, bool]] = {}
        self._timers: dict[bytes, asyncio.TimerHandle] = {}
        self._jobs: dict[bytes, asyncio.Task[None]] = {}
        self._again: set[bytes] = set()
        """Channels whose comparison must begin anew."""
        self._meanwhile: dict[bytes, tuple[bytes, set[bytes]]] = {}
        """While a channel's comparison runs: its secret, and the keys of what came or went."""
        self._overtaking = Overtaking(network, self._start_over)
        self._lock = asyncio.Lock()
        self._comparing = asyncio.Lock()
        self._closed = False

    # --- as it comes -------------------------------------------------------------------------

    def provide(self, content: ContentKey, channel: bytes | None = None) -> None:
        """It is here now. Heard of by the proxies a few milliseconds later, on ``channel`` first."""
        self._later([content], True, channel)

    def provide_many(self, contents: Sequence[ContentKey], channel: bytes | None = None) -> None:
        """As :meth:`provide`, of contents that came together."""
        self._later(contents, True, channel)

    def withdraw(self, content: ContentKey) -> None:
        """It is gone, or must not be served any more."""
        self._later([content], False, None)

    def _later(self, contents: Sequence[ContentKey], here: bool, first: bytes | None) -> None:
        if self._closed:
            return
        for secret, keys in self._meanwhile.values():
            keys.update(content.blinded(secret) for content in contents)
        for channel in self._book:
            self._pending.setdefault(channel, {}).update(dict.fromkeys(contents, here))
            self._flush_later(channel, at_once=channel == first)

    def _flush_later(self, channel: bytes, *, at_once: bool = False) -> None:
        if channel not in self._logs or not self._pending.get(channel):
            return
        delay = ANNOUNCE_DELAY
        if len(self._logs) > 1 and not at_once:
            delay += self._context.random() * ANNOUNCE_SPREAD
        self._set_timer(channel, delay)

    def _set_timer(self, channel: bytes, delay: float) -> None:
        loop = asyncio.get_running_loop()
        timer = self._timers.get(channel)
        if timer is not None:
            if timer.when() <= loop.time() + delay:
                return
            timer.cancel()
        self._timers[channel] = loop.call_later(
            delay, lambda: self._network.spawn(self._flush(channel), name="announce")
        )

    def close(self) -> None:
        """Announce nothing more; what is pending is found by the next start's comparison."""
        self._closed = True
        self._logs.clear()
        self._pending.clear()
        self._again.clear()
        for timer in self._timers.values():
            timer.cancel()

    async def _flush(self, channel: bytes) -> None:
        async with self._lock:
            self._timers.pop(channel, None)
            pending = self._pending.pop(channel, {})
            try:
                await self._announce(channel, pending)
            except BadInput as error:
                self._context.warn(str(error))
            except Exception as error:  # a full disk, or a bug: it is to be announced all the same
                self._network.supervisor.failed("announcing what is stored", error)
                self._pending[channel] = pending | self._pending.get(channel, {})
                self._set_timer(channel, _RETRY_SECONDS)

    async def _announce(self, channel: bytes, pending: dict[ContentKey, bool]) -> None:
        own = self._logs.get(channel)
        secret = self._book.secret(channel) if channel in self._book else None
        kinds = self._kinds(channel)
        if own is None or secret is None or not kinds:
            return

        def changes() -> list[Change]:
            here = [each for each in pending if pending[each] and each.kind in kinds]
            leaving = all_leaving(self._by_context, here, channel)
            return sorted(
                (
                    (PROVIDE if content in leaving else WITHDRAW, content.blinded(secret[1]))
                    for content in pending
                ),
                key=lambda change: change[1],
            )

        for some in _pages(await self._context.workers.disk(changes)):
            head = own.head
            if await self._keeper.append(channel, own, some):
                self._tell(channel, head)
        if own.needs_compaction():
            await self._compact(channel, own)

    def _tell(self, channel: bytes, since: int) -> None:
        for callback in self.on_news:
            callback(channel, since)

    def _kinds(self, channel: bytes) -> frozenset[ContentKind]:
        """What we may, and want to, provide on a channel."""
        roles = self._network.own_roles(channel)
        kinds = {offer.kind for offer in self._offers}
        return frozenset(kind for kind in kinds if provide_role(kind) in roles)

    # --- all of it ---------------------------------------------------------------------------

    def on_change(self, channel: bytes) -> None:
        """The channel's document, or what we want on it, changed."""
        if self._closed:
            return
        if channel not in self._book:
            self._logs.pop(channel, None)
            self._pending.pop(channel, None)
        self._again.add(channel)
        if channel not in self._jobs:
            self._jobs[channel] = self._network.spawn(self._job(channel), name="compare storage")

    def start(self) -> None:
        """Begin, in the background, with :meth:`refresh`."""
        self._network.spawn(self.refresh(), name="compare storage")

    async def refresh(self) -> None:
        """Bring all our logs in line with roles, secrets and what is here.

        Slow on big storages, and run in the background: look-ups, loads and the announcing of what
        is stored meanwhile do not wait for it.
        """
        for channel in list(self._book):
            self.on_change(channel)
        if self._jobs:
            await asyncio.wait(list(self._jobs.values()))
        self.scanned.set()

    async def _job(self, channel: bytes) -> None:
        backoff = self._network.supervisor.backoff()
        try:
            while channel in self._again:
                self._again.discard(channel)
                try:
                    await self._bring_in_line(channel)
                except BadInput as error:  # more than a log holds: waiting does not mend that
                    self._context.warn(str(error))
                except Exception as error:  # a full disk, or a bug: it is to be done all the same
                    self._network.supervisor.failed("announcing what is here", error)
                    self._again.add(channel)
                    await asyncio.sleep(backoff.next())
        finally:
            del self._jobs[channel]

    async def _bring_in_line(self, channel: bytes) -> None:
        async with self._lock:
            if channel not in self._book:
                self._logs.pop(channel, None)
                self._pending.pop(channel, None)
                return
            own, secret = await self._prepare(channel)
        self._flush_later(channel)  # what came before there was a log
        self._say_state(channel)
        if secret is None:
            return
        await self._take_turn(channel)
        try:
            self._meanwhile[channel] = (secret, set())
            await self._compare(channel, own, secret)
        finally:
            self._meanwhile.pop(channel, None)
            self._comparing.release()

    def _say_state(self, channel: bytes) -> None:
        for callback in self.on_state:
            callback(channel)

    async def _take_turn(self, channel: bytes) -> None:
        """Channels are compared one after the other; nobody shall think that we are stuck."""
        while True:
            try:
                async with asyncio.timeout(ANNOUNCE_ALIVE_SECONDS):
                    await self._comparing.acquire()
                return
            except TimeoutError:
                self._say_state(channel)

    async def _prepare(self, channel: bytes) -> tuple[AnnouncementLog, bytes | None]:
        """Our log, in the right epoch, and the secret if we may announce. The lock is held."""
        own = self._logs.get(channel)
        if own is None:
            own, self._secret_versions[channel] = await self._keeper.load(channel)
            # What happened here while we were not running, the log does not say.
            await self._mark(channel, own, NOTHING_COMPLETE, tell=False)
            if self._closed:
                return own, None
            self._logs[channel] = own
        secret = self._book.secret(channel)
        kinds = self._kinds(channel)
        may = bool(kinds) and secret is not None
        version = secret[0] if secret is not None else -1
        known = self._secret_versions.get(channel, -1)
        silence = not may and (own.live or (own.head and not kinds))
        if silence or (may and known != version and own.head):
            # Silence, or a new secret: a fresh epoch that begins with nothing.
            own = await self._start_epoch(channel, own.epoch + 1)
        if secret is None or not may:
            if kinds:  # who has no secret has nothing that could be found
                document = self._book.signed(channel).document
                await self._mark(channel, own, pack_mark(document.secret_version, kinds))
            return own, None
        if known != version:
            await self._keeper.set_secret_version(channel, version)
            self._secret_versions[channel] = version
        covered = _covered(own, version)
        if covered - kinds:
            # What is about to be withdrawn is not complete any more: we may want to provide it again.
            await self._mark(channel, own, pack_mark(version, covered & kinds))
        return own, secret[1]

    async def _start_epoch(self, channel: bytes, epoch: int) -> AnnouncementLog:
        own = await self._keeper.restart(channel, epoch)
        if not self._closed:
            self._logs[channel] = own
            self._tell(channel, 0)
        return own

    async def _mark(
        self, channel: bytes, own: AnnouncementLog, mark: bytes, *, tell: bool = True
    ) -> None:
        head = own.head
        changed = await self._keeper.append(channel, own, [(MARK, mark)])
        if changed and tell:
            self._tell(channel, head)

    async def _compare(self, channel: bytes, own: AnnouncementLog, secret: bytes) -> None:
        """Announce what is here and was not announced, withdraw what has gone, say that it is all.

        Files come last: there may be very many, and who looks for a feed or a task shall not be told
        "not known yet" for so long.
        """
        kinds = self._kinds(channel)
        said = asyncio.get_running_loop().time()

        def go_on() -> bool:
            nonlocal said
            now = asyncio.get_running_loop().time()
            if now - said > ANNOUNCE_ALIVE_SECONDS:
                said = now
                self._say_state(channel)
            return channel not in self._again and self._logs.get(channel) is own

        comparison = Comparison(
            self._context.workers,
            self._offers,
            (channel, secret),
            own,
            go_on=go_on,
            change=lambda changes: self._change(channel, own, changes),
        )
        for part in (kinds - {"files"}, kinds & {"files"}):
            if not await comparison.announce(part):
                return
            async with self._lock:
                if not go_on():
                    return
                await self._mark_also(channel, own, part)
        if comparison.gone:
            gone = comparison.gone.ordered()
            while stale := await self._context.workers.disk(list, islice(gone, _AT_ONCE)):
                changes = [(WITHDRAW, key) for key in stale]
                if not go_on() or not await self._change(channel, own, changes):
                    return
        async with self._lock:
            if go_on() and own.needs_compaction():
                await self._compact(channel, own)

    async def _mark_also(
        self, channel: bytes, own: AnnouncementLog, kinds: frozenset[ContentKind]
    ) -> None:
        """These kinds are complete now, too. The lock is held."""
        version = self._secret_versions[channel]
        await self._mark(channel, own, pack_mark(version, _covered(own, version) | kinds))

    async def _change(self, channel: bytes, own: AnnouncementLog, changes: list[Change]) -> bool:
        """Log and announce; False if the log has been replaced meanwhile."""
        async with self._lock:
            if self._logs.get(channel) is not own:
                return False
            # What came or went since it was looked at has been announced, or is about to be.
            _, newer = self._meanwhile[channel]
            head = own.head
            mine = [change for change in changes if change[1] not in newer]
            if await self._keeper.append(channel, own, mine):
                self._tell(channel, head)
            return True

    async def _compact(self, channel: bytes, own: AnnouncementLog) -> None:
        """Most of the log says what no longer counts: say the rest anew, in a new epoch. The lock is
        held."""
        kept = await self._keeper.restart(channel, own.epoch + 1, own)
        if self._logs.get(channel) is own:
            self._logs[channel] = kept
            if channel in self._jobs and channel in self._meanwhile:
                self._again.add(channel)
            self._tell(channel, 0)

    # --- for others --------------------------------------------------------------------------

    def log(self, channel: bytes) -> AnnouncementLog | None:
        """Our log on a channel; None before it is loaded."""
        return self._logs.get(channel)

    def announced(self) -> dict[str, int]:
        """How much we announce, per channel name."""
        return {self._network.name_of(c): own.live for c, own in self._logs.items()}

    def state(self, channel: bytes) -> tuple[int, int, bool]:
        """(epoch, head) of our log, and whether there is something that it does not say yet."""
        own = self._logs.get(channel)
        pending = bool(
            own is None
            or self._pending.get(channel)
            or channel in self._timers
            or channel in self._jobs
            or not self.scanned.is_set()
        )
        epoch, head = (0, 0) if own is None else (own.epoch, own.head)
        return epoch, head, pending or self._lock.locked()

    def overtake(self, channel: bytes, known: tuple[int, int]) -> None:
        """A peer knows our log up to (epoch, seq), as it says: if that is more than there is, a backup
        was restored."""
        own = self._logs.get(channel)
        if own is not None and own.is_behind(known):
            self._overtaking.claimed(channel, own.epoch, known[0])

    async def _start_over(self, channel: bytes, epoch: int) -> None:
        async with self._lock:
            own = self._logs.get(channel)
            if own is None or own.epoch >= epoch:
                return
            await self._start_epoch(channel, epoch)
        self.on_change(channel)


def _pages(changes: list[Change]) -> Iterator[list[Change]]:
    """A hundred thousand that go at once are not written and told of at once: the event loop takes part
    in it."""
    for start in range(0, len(changes), _AT_ONCE):
        yield changes[start : start + _AT_ONCE]


def _covered(own: AnnouncementLog, secret_version: int) -> frozenset[ContentKind]:
    """The kinds of which a log says that it is complete."""
    return frozenset(kind for kind in KINDS if says_complete(own.mark, secret_version, kind))
