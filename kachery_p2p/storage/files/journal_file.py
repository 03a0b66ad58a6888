"""The journal's file: two halves of records, each a small blob.

Layout
    Each half begins with a page that holds ``magic(16) generation(8)``. Batches of records follow,
    each batch from the beginning of a page, padded with zeros to the end of its last one. A record
    is ``generation(8) length(4, little-endian) sha1(20) data``.

Invariants
    * A record counts if its generation is that of its half and its data has its hash: the hash is
      the checksum. Generations are random, so nothing that an earlier one left behind counts.
    * What was acknowledged is never written over, not even with the same bytes: a batch begins on a
      page of its own. So a torn write harms no record but those of its own batch.
    * The file is written once from end to end before it is used, so a batch changes no metadata and
      costs one write and one sync.

Non-goals: knowing which records are still needed (see :mod:`.journal`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Self

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.limits import JOURNAL_BYTES, KIB, MIB
from kachery_p2p.storage.disk import (
    Buffer,
    create,
    move,
    pread_up_to,
    pwrite_all,
    remove,
    sync_data,
    sync_file_system,
    temporary_path,
    write_all,
)

PAGE: Final = 4 * KIB
"""Bytes that the kernel writes together."""
HALVES: Final = (0, 1)

_NAME: Final = b"kachery-journal"
_MAGIC: Final = _NAME + b"\x01"
_HEADER: Final = struct.Struct("<16s8s")
_RECORD: Final = struct.Struct("<8sI20s")
_GENERATION_BYTES: Final = 8

Record = tuple[str, Buffer]
"""The hash in hex, and the content."""


def record_size(length: int) -> int:
    """Bytes that content of ``length`` bytes takes in a batch."""
    return _RECORD.size + length


def whole_pages(size: int) -> int:
    """``size`` rounded up to pages, in bytes."""
    return -(-size // PAGE) * PAGE


class JournalFile:
    """The open file. Errors of the operating system are the caller's to name."""

    def __init__(self, path: Path) -> None:
        """Open an existing file, whatever is in it."""
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        # A failed sync is reported once per descriptor: that of a header must not swallow the
        # report that is meant for a batch.
        self._header_fd = -1
        try:
            self._header_fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self.size = os.fstat(self._fd).st_size
            whole = self.size % (2 * PAGE) == 0
            self.half_bytes = (self.size if whole else JOURNAL_BYTES) // 2
            self._generations = [self._read_generation(half) for half in HALVES]
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, temporary_folder: Path, size: int) -> Self:
        """Make an empty journal of ``size`` bytes (a multiple of two pages), over any other.

        Raises:
            OSError: ENOSPC if there is not twice the space, so that stores find some left.
        """
        there = os.statvfs(temporary_folder)
        if there.f_bavail * there.f_frsize < 2 * size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        temporary = temporary_path(temporary_folder)
        fd = create(temporary)
        try:
            try:
                zeros = bytes(min(size, MIB))
                for at in range(0, size, len(zeros)):
                    write_all(fd, zeros[: size - at])
                for half in HALVES:
                    pwrite_all(fd, _header(os.urandom(_GENERATION_BYTES)), half * size // 2)
                os.fsync(fd)
                move(temporary, path, durable=True)
            finally:
                os.close(fd)
        except BaseException:
            remove(temporary)
            raise
        return cls(path)

    def write(self, half: int, offset: int, records: Iterable[Record]) -> None:
        """Write a batch at ``offset`` of a half, a page's beginning; durable on return."""
        generation = self._generations[half]
        parts: list[Buffer] = []
        size = 0
        for sha1, data in records:
            parts += (_RECORD.pack(generation, len(data), bytes.fromhex(sha1)), data)
            size += record_size(len(data))
        parts.append(bytes(whole_pages(size) - size))
        pwrite_all(self._fd, b"".join(parts), half * self.half_bytes + offset)
        sync_data(self._fd)

    def renew(self, half: int) -> None:
        """Begin a new generation: what the half holds counts no more; durable on return."""
        generation = os.urandom(_GENERATION_BYTES)
        pwrite_all(self._header_fd, _header(generation), half * self.half_bytes)
        sync_data(self._header_fd)
        self._generations[half] = generation

    def records(self, half: int) -> Iterator[tuple[str, bytes]]:
        """The records of a half that count.

        One that does not takes the rest of its batch with it; the search goes on at the next page.
        """
        data = pread_up_to(self._fd, self.half_bytes, half * self.half_bytes)
        generation = self._generations[half]
        at = PAGE
        while at + _RECORD.size <= len(data):
            found, length, digest = _RECORD.unpack_from(data, at)
            stop = at + _RECORD.size + length
            content = data[at + _RECORD.size : stop] if found == generation else b""
            if (
                found == generation
                and stop <= len(data)
                and hashlib.sha1(content).digest() == digest
            ):
                yield digest.hex(), content
                at = stop
            else:
                at = whole_pages(at + 1)

    def sync_file_system_of(self, folder: Path) -> bool:
        """Make all that was written there since this was opened durable; False if it cannot be.

        Raises:
            OSError: some of it is lost.
        """
        same = os.stat(folder).st_dev == os.fstat(self._fd).st_dev
        return same and sync_file_system(self._fd)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        for fd in (self._fd, self._header_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._header_fd = -1

    def _read_generation(self, half: int) -> bytes:
        header = pread_up_to(self._fd, _HEADER.size, half * self.half_bytes)
        if len(header) == _HEADER.size:
            magic, generation = _HEADER.unpack(header)
            if magic == _MAGIC:
                return bytes(generation)
            if magic.startswith(_NAME):
                raise StorageDamaged(
                    path=str(self.path),
                    reason="another version of kachery_p2p wrote this journal; start that one once",
                )
        # A header is written only when its half holds nothing that is needed. No record matches it.
        return os.urandom(_GENERATION_BYTES)


def _header(generation: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, generation).ljust(PAGE, b"\0")
