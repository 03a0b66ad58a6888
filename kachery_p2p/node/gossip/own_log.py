"""This node's own announcement logs, as they lie on disk.

Invariant: what is in an :class:`~kachery_p2p.protocol.gossip.announcements.AnnouncementLog` here is
on disk, and what could not be written is not in it. So whoever serves a log may send all of it at
any moment, and a crash or a full disk never makes us sign two different entries under one number.
The methods are called by one task at a time for each channel.

Non-goals: what belongs into a log, and telling others.
"""

from __future__ import annotations

from collections.abc import Callable

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.announcements import AnnouncementLog, Entry

NO_NAME = bytes(20)
"""Stands beside a mark, which is of no content."""

Change = tuple[int, bytes, bytes]
"""(operation, blinded key, name)."""


class LogKeeper:
    def __init__(self, context: Context) -> None:
        self._disk = context.workers.disk
        self._state = context.state

    async def load(self, channel: bytes) -> tuple[AnnouncementLog, int]:
        """The log, and the version of the secret under which its keys are; -1 for none."""
        return await self._disk(self._load, channel)

    def _load(self, channel: bytes) -> tuple[AnnouncementLog, int]:
        name = channel.hex()
        epoch = self._state.epoch(name)
        version = int(self._state.get_meta(f"secret:{name}") or -1)
        rows = self._state.announcements(name)
        try:
            return AnnouncementLog(epoch, [(row.seq, row.op, row.key) for row in rows]), version
        except BadInput:
            # What was written while the channel was being left, say. What others know of this epoch is
            # not known here, so it must not go on.
            return self._restart(channel, epoch + 1, None), version

    async def set_secret_version(self, channel: bytes, version: int) -> None:
        await self._disk(self._state.set_meta, f"secret:{channel.hex()}", str(version))

    async def append(
        self, channel: bytes, log: AnnouncementLog, changes: Callable[[], list[Change]]
    ) -> bool:
        """Append what ``changes`` gives, in a worker thread; whether that was anything.

        Raises:
            StorageFull, StorageDamaged: nothing was appended.
            BadInput: more than a log may hold.
        """

        def write() -> list[Entry]:
            wanted = changes()
            entries = log.plan((operation, key) for operation, key, _ in wanted)
            if entries:
                names = {key: name for _, key, name in wanted}
                rows = [(seq, operation, key, names[key]) for seq, operation, key in entries]
                self._state.append_announcements(channel.hex(), rows)
            return entries

        entries = await self._disk(write)
        log.extend(entries)
        return bool(entries)

    async def restart(
        self, channel: bytes, epoch: int, kept: AnnouncementLog | None = None
    ) -> AnnouncementLog:
        """A new log in a higher epoch: empty, or with what ``kept`` says now."""
        return await self._disk(self._restart, channel, epoch, kept)

    def _restart(self, channel: bytes, epoch: int, kept: AnnouncementLog | None) -> AnnouncementLog:
        entries = [] if kept is None else kept.compacted()
        names = self._names(channel) if entries else {}
        rows = [(seq, op, key, names.get(key, NO_NAME)) for seq, op, key in entries]
        with self._state.transaction():
            self._state.set_epoch(channel.hex(), epoch)
            self._state.clear_announcements(channel.hex())
            self._state.append_announcements(channel.hex(), rows)
        return AnnouncementLog(epoch, entries)

    async def names(self, channel: bytes) -> dict[bytes, bytes]:
        """The names of what was announced, by blinded key."""
        return await self._disk(self._names, channel)

    def _names(self, channel: bytes) -> dict[bytes, bytes]:
        return {row.key: row.name for row in self._state.announcements(channel.hex())}
