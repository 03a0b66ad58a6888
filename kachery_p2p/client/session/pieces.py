"""What is sent to the node in pieces, when it does not come as an open file: bytes, or a file read.

A file is read and never mapped: one that somebody cuts while it is mapped ends the process.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import os
import select
from collections.abc import Sequence
from typing import Final, Protocol

from kachery_p2p.protocol.errors import BadInput, BadPath, Cancelled

from . import blocking

_LOOK_SECONDS: Final = 0.2
"""So often a thread that waits for a pipe looks whether anybody still waits for it."""


class Pieces(Protocol):
    """Bytes that are read one piece after the other. ``size`` is None if nobody knows how many there
    are. ``read`` gives the ``length`` ones at ``start``, fewer only at the end of an unknown number."""

    @property
    def size(self) -> int | None: ...
    async def read(self, start: int, length: int) -> bytes: ...


class MemoryPieces:
    """Bytes in memory, in several places perhaps, one after another."""

    def __init__(self, parts: Sequence[memoryview]) -> None:
        self._parts = parts
        self._starts = [0, *itertools.accumulate(map(len, parts))]

    @property
    def size(self) -> int:
        return self._starts[-1]

    async def read(self, start: int, length: int) -> bytes:
        found = []
        at = bisect.bisect_right(self._starts, start) - 1
        while length:
            begin = start - self._starts[at]
            found.append(self._parts[at][begin : begin + length])
            start, length, at = start + len(found[-1]), length - len(found[-1]), at + 1
        return b"".join(found)


class StreamPieces:
    """What a pipe or the like still has to give. The descriptor stays the caller's."""

    size = None

    def __init__(self, descriptor: int, name: str) -> None:
        self._descriptor = descriptor
        self._name = name

    async def read(self, start: int, length: int) -> bytes:
        """Raises BadPath: it cannot be read."""
        return await blocking.run(lambda gone: self._read(length, gone))

    def _read(self, length: int, gone: blocking.Gone) -> bytes:
        found = bytearray()
        try:
            while len(found) < length:
                if not select.select([self._descriptor], [], [], _LOOK_SECONDS)[0]:
                    if gone():
                        raise Cancelled(what=f"Reading {self._name}")
                    continue
                data = os.read(self._descriptor, length - len(found))
                if not data:
                    break
                found += data
        except OSError as error:
            raise BadPath(path=self._name, reason=(error.strerror or "?").lower()) from error
        return bytes(found)


class FilePieces:
    """A regular file, as long as it is now. The descriptor stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size

    @property
    def size(self) -> int:
        return self._size

    async def read(self, start: int, length: int) -> bytes:
        """Raises BadInput: it has become shorter, or cannot be read."""
        return await asyncio.to_thread(self._read, start, length)

    def _read(self, start: int, length: int) -> bytes:
        found = bytearray()
        try:
            while len(found) < length:
                data = os.pread(self._descriptor, length - len(found), start + len(found))
                if not data:
                    reason = f"it was cut to {start + len(found)} bytes while it was read"
                    raise BadInput(what="the file to be stored", reason=reason)
                found += data
        except OSError as error:
            reason = (error.strerror or "?").lower()
            raise BadInput(what="the file to be stored", reason=reason) from error
        return bytes(found)
