"""What this node announces: its own log, one for each channel.

The rules are in :mod:`kachery_p2p.protocol.gossip.announcements`; this is the shell that keeps the
logs on disk, in line with roles, secrets and the storage, and sends what is new to the proxies.

What there is to announce, the rooms that keep it say (:class:`Offers`): blobs, feeds, tasks.

Invariants. An announcement is on disk before anybody hears it (else a crash could make us sign two
different ones under one number). Nothing is announced on a channel where we may not, or do not want
to, provide things of its kind, nor anything that came from another channel. What fails, such as for a
full disk, changes nothing and is done again until it succeeds.

Non-goals: what others announce, and answering look-ups; see
:mod:`~kachery_p2p.node.gossip.availability`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.supervision import Job
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.announcements import PROVIDE, WITHDRAW, AnnouncementLog, Batch
from kachery_p2p.protocol.gossip.keys import ContentKey, ContentKind, provide_role
from kachery_p2p.protocol.gossip.messages import GOSSIP_BATCH
from kachery_p2p.protocol.limits import ANNOUNCE_DELAY, MAX_KEYS_PER_ORIGIN

_MAX_EPOCH_JUMP = 1_000_000
"""A peer's claim about our own log that is further ahead than this is a lie."""
_Row = tuple[int, int, bytes, bytes]
"""(seq, operation, blinded key, name) of one announcement, as the state keeps it."""
_Change = tuple[bytes, bytes, bool]
"""(blinded key, name, whether it is here now)."""
_SLICE = 1_000
"""Things dealt with in one visit to a worker thread while what is here is compared with the log."""


class Offers(Protocol):
    """What a room of the node has. Both methods read the disk: they are called in worker threads."""

    @property
    def kind(self) -> ContentKind: ...

    @property
    def contexts(self) -> frozenset[bytes]:
        """The contexts of its content (:mod:`kachery_p2p.protocol.gossip.blinding`)."""

    def scan(self) -> Iterator[ContentKey]:
        """Everything that is here."""

    def may_leave(self, content: ContentKey, channel: bytes) -> bool:
        """Whether it may go out on a channel at all: what was fetched on another may not."""


class Announcer:
    def __init__(self, network: Network, offers: Iterable[Offers]) -> None:
        self.scanned = asyncio.Event()
        """Set when the storage has been compared with the logs once."""
        self.on_batch: list[Callable[[Batch], None]] = []
        """Called with what we announce where we are a proxy ourselves."""
        self._network = network
        self._context = network.context
        self._book = network.book
        self._state = network.context.state
        self._logs: dict[bytes, AnnouncementLog] = {}
        self._secret_versions: dict[bytes, int] = {}
        self._offers = list(offers)
        self._by_context = {context: each for each in self._offers for context in each.contexts}
        self._pending: dict[ContentKey, bool] = {}
        self._flush_soon: asyncio.TimerHandle | None = None
        self._lock = asyncio.Lock()
        self._flushing = Job(network.supervisor, "announcing", self._flush)
        self._refreshed: Counter[bytes] = Counter()
        """How often each channel was to be brought in line: the last time is the one that counts."""
        self._unscanned: set[bytes] = set()

    def start(self) -> None:
        """Compare the storage with what was announced before the last stop, in the background."""
        self._unscanned = set(self._book)
        for channel in self._book:
            self.on_change(channel)
        self._look_if_scanned()

    def _look_if_scanned(self) -> None:
        if not self._unscanned:
            self.scanned.set()

    def provide(self, content: ContentKey) -> None:
        """It is here now. Heard of by the proxies a few milliseconds later."""
        self._later(content, True)

    def withdraw(self, content: ContentKey) -> None:
        """It is gone, or must not be served any more."""
        self._later(content, False)

    def _later(self, content: ContentKey, here: bool) -> None:
        self._pending[content] = here
        self._flush_later()

    def _flush_later(self) -> None:
        if self._flush_soon is None and self._pending and self._logs:
            loop = asyncio.get_running_loop()
            self._flush_soon = loop.call_later(ANNOUNCE_DELAY, self._flushing.ask)

    def close(self) -> None:
        """Announce nothing more; what is pending is found by the next start's comparison."""
        self._logs.clear()
        if self._flush_soon is not None:
            self._flush_soon.cancel()

    async def _flush(self) -> None:
        async with self._lock:
            self._flush_soon = None
            pending, self._pending = self._pending, {}
            failed: Exception | None = None
            for channel in list(self._logs):
                try:
                    await self._announce(channel, pending.items())
                except Exception as error:  # the other channels need not wait for this one
                    failed = error
            if failed is not None:
                self._pending = pending | self._pending
                raise failed

    async def _announce(self, channel: bytes, changes: Iterable[tuple[ContentKey, bool]]) -> None:
        own = self._logs.get(channel)
        secret = self._book.secret(channel) if channel in self._book else None
        kinds = self._kinds(channel)
        if own is None or secret is None or not kinds:
            return
        head = own.head

        def extend() -> None:
            allowed = [
                (content.blinded(secret[1]), content.name, here)
                for content, here in changes
                if not here or (content.kind in kinds and self._may_leave(content, channel))
            ]
            self._extend(channel, own, allowed)

        await self._context.workers.disk(extend)
        if own.head > head:
            self._send_own(channel, own, head)
        if own.needs_compaction():
            self._network.supervisor.do(
                "compacting announcements", lambda: self._compact(channel, own)
            )

    def _may_leave(self, content: ContentKey, channel: bytes) -> bool:
        return self._by_context[content.context].may_leave(content, channel)

    def _extend(self, channel: bytes, own: AnnouncementLog, changes: Iterable[_Change]) -> None:
        """In a worker thread; the lock is held. Disk first, see the module."""
        entries: list[_Row] = []
        fresh: dict[bytes, bool] = {}
        live = own.live
        for key, name, here in changes:
            if fresh.get(key, key in own) == here:
                continue
            if here and live >= MAX_KEYS_PER_ORIGIN:
                self._context.warn(
                    f"this node has more than the {MAX_KEYS_PER_ORIGIN} things that it can announce on "
                    "a channel; the rest is not found by others"
                )
                break
            fresh[key] = here
            live += 1 if here else -1
            entries.append((own.head + len(entries) + 1, PROVIDE if here else WITHDRAW, key, name))
        if entries:
            self._state.append_announcements(channel.hex(), entries)
        for _, operation, key, _ in entries:
            if operation == PROVIDE:
                own.provide(key)
            else:
                own.withdraw(key)

    def _kinds(self, channel: bytes) -> frozenset[ContentKind]:
        """What we may, and want to, provide on a channel."""
        roles = self._network.own_roles(channel)
        kinds = {offer.kind for offer in self._offers}
        return frozenset(kind for kind in kinds if provide_role(kind) in roles)

    async def refresh(self, channels: Iterable[bytes] | None = None) -> None:
        """Bring our logs in line with roles, secrets and what is here.

        Slow on big storages, and run in the background: look-ups, loads and the announcing of what
        is stored meanwhile do not wait for it.
        """
        for channel in list(self._book) if channels is None else list(channels):
            await self._refresh(channel)

    async def _refresh(self, channel: bytes) -> None:
        async with self._lock:
            if channel in self._book:
                own, secret = await self._prepare(channel)
            else:
                self._logs.pop(channel, None)
                secret = None
        if secret is not None:
            await self._compare_with_storage(channel, own, secret)
        self._flush_later()  # what came before there was any log
        self._unscanned.discard(channel)
        self._look_if_scanned()

    async def _prepare(self, channel: bytes) -> tuple[AnnouncementLog, bytes | None]:
        """Our log, in the right epoch, and the secret if we may announce. The lock is held."""
        own = self._logs.get(channel)
        if own is None:
            own = self._logs[channel] = await self._context.workers.disk(self._load, channel)
        if own.head and self._network.is_proxy(channel):
            # The index lives in memory: after a restart, or when we become a proxy, it lacks us.
            self._send_own(channel, own, 0)
        secret = self._book.secret(channel)
        may = bool(self._kinds(channel)) and secret is not None
        version = secret[0] if secret is not None else -1
        known = self._secret_versions.get(channel, -1)
        if (not may and own.live) or (may and known != version and own.head):
            # Silence, or a new secret: a fresh epoch that begins with nothing.
            own = await self._start_epoch(channel, own.epoch + 1)
            self._send_own(channel, own, 0)
        elif may and known != version:
            # Nothing to take back, but a comparison with the old secret may be under way: it ends
            # when it finds that its log is no longer ours.
            own = self._logs[channel] = AnnouncementLog(own.epoch)
        if secret is None or not may:
            return own, None
        if known != version:
            await self._context.workers.disk(
                self._state.set_meta, f"secret:{channel.hex()}", str(version)
            )
            self._secret_versions[channel] = version
        return own, secret[1]

    async def _start_epoch(self, channel: bytes, epoch: int) -> AnnouncementLog:
        await self._context.workers.disk(self._restart, channel, epoch, [])
        own = self._logs[channel] = AnnouncementLog(epoch)
        return own

    def _load(self, channel: bytes) -> AnnouncementLog:
        name = channel.hex()
        epoch = int(self._state.get_meta(f"epoch:{name}") or 0)
        self._secret_versions[channel] = int(self._state.get_meta(f"secret:{name}") or -1)
        rows = self._state.announcements(name)
        try:
            return AnnouncementLog(epoch, [(row.seq, row.op, row.key) for row in rows])
        except BadInput as error:  # it has a hole, so it is worth nothing: a new one is begun
            self._context.warn(
                f"this node's announcement log was damaged ({error}); it starts anew"
            )
            self._restart(channel, epoch + 1, [])
            return AnnouncementLog(epoch + 1)

    def _restart(self, channel: bytes, epoch: int, entries: list[_Row]) -> None:
        with self._state.transaction():
            self._state.set_meta(f"epoch:{channel.hex()}", str(epoch))
            self._state.clear_announcements(channel.hex())
            self._state.append_announcements(channel.hex(), entries)

    async def _compare_with_storage(
        self, channel: bytes, own: AnnouncementLog, secret: bytes
    ) -> None:
        """Announce what is here and was not announced, withdraw what has gone."""
        gone = set(own)
        kinds = self._kinds(channel)
        found = itertools.chain.from_iterable(
            offer.scan() for offer in self._offers if offer.kind in kinds
        )

        def some() -> list[tuple[ContentKey, bytes]]:
            contents = itertools.islice(found, _SLICE)
            return [(content, content.blinded(secret)) for content in contents]

        def allowed(fresh: list[tuple[ContentKey, bytes]]) -> list[_Change]:
            return [
                (k, content.name, True) for content, k in fresh if self._may_leave(content, channel)
            ]

        while here := await self._context.workers.disk(some):
            gone.difference_update(key for _, key in here)
            fresh = [(content, key) for content, key in here if key not in own]
            changes = await self._context.workers.disk(allowed, fresh) if fresh else []
            if not await self._change(channel, own, changes):
                return
        if gone:
            names = await self._context.workers.disk(self._names, channel)
            stale = [(key, names[key], False) for key in sorted(gone) if key in names]
            await self._change(channel, own, stale)
        if own.needs_compaction():
            await self._compact(channel, own)

    async def _change(self, channel: bytes, own: AnnouncementLog, changes: list[_Change]) -> bool:
        """Log and announce; False if the log has been replaced meanwhile."""
        async with self._lock:
            if self._logs.get(channel) is not own:
                return False
            head = own.head
            if changes:
                await self._context.workers.disk(self._extend, channel, own, changes)
                self._send_own(channel, own, head)
            return True

    def _names(self, channel: bytes) -> dict[bytes, bytes]:
        return {row.key: row.name for row in self._state.announcements(channel.hex())}

    async def _compact(self, channel: bytes, own: AnnouncementLog) -> None:
        """Most of the log says what no longer counts: say the rest anew, in a new epoch."""
        async with self._lock:
            if self._logs.get(channel) is not own:
                return
            names = await self._context.workers.disk(self._names, channel)
            # As AnnouncementLog.compact orders them.
            rows = [(n, PROVIDE, key, names[key]) for n, key in enumerate(sorted(own), 1)]
            await self._context.workers.disk(self._restart, channel, own.epoch + 1, rows)
            own.compact(own.epoch + 1)
            self._send_own(channel, own, 0)

    def _send_own(self, channel: bytes, own: AnnouncementLog, since: int) -> None:
        if since >= own.head > 0:
            return
        batches = own.batches(channel, self._context.key, since)
        if self._network.is_proxy(channel):
            for batch in batches:
                for callback in self.on_batch:
                    callback(batch)
            return
        for proxy in self._network.proxies_on(channel):
            send_batches(proxy, batches)

    def announced(self) -> dict[str, int]:
        """How many things we announce, per channel name."""
        return {self._network.name_of(c): own.live for c, own in self._logs.items()}

    def state(self, channel: bytes) -> tuple[int, int, bool]:
        """(epoch, head) of our log, and whether there is something that it does not say yet."""
        own = self._logs.get(channel)
        pending = bool(
            own is None or self._pending or self._flush_soon or not self.scanned.is_set()
        )
        epoch, head = (0, 0) if own is None else (own.epoch, own.head)
        return epoch, head, pending or self._lock.locked()

    # --- what others say of our log ----------------------------------------------------------

    def catch_up(self, link: Link, channel: bytes, known: tuple[int, int] | None) -> None:
        """A proxy says how much of our log it knows, (epoch, seq): send it what it lacks."""
        own = self._logs.get(channel)
        if own is None:
            return
        if known is not None and own.is_behind(known):
            self._overtake(channel, known)
        elif own.head or known is not None:
            since = own.lacks(known)
            if since is not None:
                send_batches(link, own.batches(channel, self._context.key, since))

    def _overtake(self, channel: bytes, known: tuple[int, int]) -> None:
        """The peer knows more of our log than we do: a restored backup. Start a higher epoch."""
        own = self._logs[channel]
        if known[0] - own.epoch > _MAX_EPOCH_JUMP:
            self._context.warn("a proxy claims an absurd epoch of this node's announcements")
            return
        self._context.warn("this node's announcement log was behind its peers'; it starts anew")
        self._network.supervisor.do(
            "renewing announcements", lambda: self._renew(channel, known[0] + 1)
        )

    async def _renew(self, channel: bytes, epoch: int) -> None:
        async with self._lock:
            own = self._logs.get(channel)
            if own is None or own.epoch >= epoch:
                return
            await self._start_epoch(channel, epoch)
        self.on_change(channel)

    def on_change(self, channel: bytes) -> None:
        """The channel's document, or what we want on it, changed."""
        self._refreshed[channel] += 1
        turn = self._refreshed[channel]

        async def work() -> None:
            if self._refreshed[channel] == turn:  # else another one brings it in line, as it is now
                await self._refresh(channel)

        self._network.supervisor.do("bringing announcements in line", work)


def send_batches(link: Link, batches: Iterable[Batch]) -> None:
    link.pour(GOSSIP_BATCH, map(codec.plain, batches))
