"""This node's own announcement logs, as they lie on disk.

Invariant: what is in an :class:`~kachery_p2p.protocol.gossip.announcements.AnnouncementLog` here is
on disk, and what could not be written is not in it. So whoever serves a log may send all of it at
any moment, and a crash or a full disk never makes us sign two different entries under one number.
The methods are called by one task at a time for each channel.

Non-goals: what belongs into a log, and telling others.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.gossip.announcements import AnnouncementLog, Change, Entry

_PAGE = 1_000
"""Entries that are read or written at a time: a log may have two millions of them."""


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
        log = AnnouncementLog(epoch)
        try:
            while rows := self._state.announcements(name, log.head + 1, _PAGE):
                log.extend(rows)
        except BadInput:
            # What was written while the channel was being left, say. What others know of this epoch is
            # not known here, so it must not go on.
            return self._restart(channel, epoch + 1, None), version
        return log, version

    async def set_secret_version(self, channel: bytes, version: int) -> None:
        await self._disk(self._state.set_meta, f"secret:{channel.hex()}", str(version))

    async def append(self, channel: bytes, log: AnnouncementLog, changes: Sequence[Change]) -> bool:
        """Append what is news of ``changes``; whether that was anything.

        Raises:
            StorageFull, StorageDamaged: nothing was appended.
            BadInput: more than a log may hold.
        """

        def write() -> list[Entry]:
            entries = log.plan(changes)
            if entries:
                self._state.append_announcements(channel.hex(), entries)
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
        entries = iter(()) if kept is None else kept.compacted()
        log = AnnouncementLog(epoch)
        with self._state.transaction():
            self._state.set_epoch(channel.hex(), epoch)
            self._state.clear_announcements(channel.hex())
            while some := list(itertools.islice(entries, _PAGE)):
                self._state.append_announcements(channel.hex(), some)
                log.extend(some)
        return log
