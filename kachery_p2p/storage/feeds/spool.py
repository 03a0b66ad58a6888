"""Appends that are not committed yet: a file beside the database of feeds.

An append is acknowledged when it is here: on the disk (:meth:`FeedSpool.sync`), or, with durability
relaxed, in the memory of the operating system, where it survives the process, not the machine. Commits
follow, each for all that came meanwhile.

Layout
    A record is ``length(4, little-endian) crc32(4) data``, one after another. The data is msgpack:
    ``[feed, subfeed, name, first, now_ms, texts]``, ``first`` being the number that was promised.

Invariants: a record counts only if it is whole; what cannot be written leaves nothing behind; the file
is emptied only when all that is in it is committed. A record that is not whole is at the end, where a
crash tore it before anybody was told of it. If whole ones follow, the disk has damaged it: those
count, and the file is kept aside as it was.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation, StorageDamaged, StorageFull
from kachery_p2p.protocol.limits import FEED_SPOOL_BYTES
from kachery_p2p.storage.disk import (
    disk_errors,
    pread_up_to,
    pwrite_all,
    sync_data,
    sync_folder,
    write_file,
)

from .append import Append

_HEADER: Final = struct.Struct("<II")
_WHAT: Final = "appended messages"


_DAMAGED: Final = ".damaged"
"""Behind the name of a file that was kept aside; there is one, the last."""


class Accepted(NamedTuple):
    """An append, and the number that was promised for its first message."""

    call: Append
    first: int


class FeedSpool:
    """The open file; made if need be. Errors are StorageFull and StorageDamaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = False
        """Something was found to be damaged by :meth:`read`."""
        with disk_errors(_WHAT, path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # Each time: who made it may have been killed before its name was on the disk.
            sync_folder(path.parent)
            self._size = os.fstat(self._fd).st_size

    def put(self, accepted: Accepted) -> bool:
        """Keep an append; False if there is no room for it until the rest is committed."""
        call, first = accepted
        data = codec.pack(
            [call.feed, call.subfeed, call.name, first, call.now_ms, list(call.texts)]
        )
        record = _HEADER.pack(len(data), zlib.crc32(data)) + data
        if self._size + len(record) > FEED_SPOOL_BYTES:
            return False
        with disk_errors(_WHAT, self._path):
            try:
                pwrite_all(self._fd, record, self._size)
            except OSError:
                os.ftruncate(self._fd, self._size)
                raise
        self._size += len(record)
        return True

    def sync(self) -> None:
        """All that was put before is on the disk when this returns."""
        with disk_errors(_WHAT, self._path):
            sync_data(self._fd)

    def clear(self) -> None:
        """All of it is committed."""
        if self._size:
            with disk_errors(_WHAT, self._path):
                os.ftruncate(self._fd, 0)
            self._size = 0

    def read(self) -> Iterator[Accepted]:
        """What is here, in order, without what is not whole."""
        with disk_errors(_WHAT, self._path):
            content = pread_up_to(self._fd, self._size, 0)
        at, broken = 0, False
        while at + _HEADER.size <= len(content):
            length, checksum = _HEADER.unpack_from(content, at)
            at += _HEADER.size
            data = content[at : at + length]
            at += length
            accepted = _unpack(data) if zlib.crc32(data) == checksum else None
            if accepted is None:
                broken = True
                continue
            self.damaged |= broken
            yield accepted

    def keep_aside(self) -> Path | None:
        """Have a copy of the file as it is; where that is, or None if there could be none."""
        aside = self._path.with_name(self._path.name + _DAMAGED)
        try:
            with disk_errors(_WHAT, aside):
                write_file(aside, pread_up_to(self._fd, self._size, 0), aside.parent, True, 0o600)
        except (StorageFull, StorageDamaged):
            return None
        return aside

    def close(self) -> None:
        """A second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _unpack(data: bytes) -> Accepted | None:
    try:
        feed, subfeed, name, first, now_ms, texts = codec.unpack(data)
    except (ProtocolViolation, ValueError):
        return None
    return Accepted(Append(feed, subfeed, name, texts, None, now_ms, None), first)
