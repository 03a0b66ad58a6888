"""What is sent to the node in pieces, when it does not come as an open file: bytes, or a file read.

A file is read and never mapped: one that somebody cuts while it is mapped ends the process.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
import os
from collections.abc import Sequence
from typing import Protocol

from kachery_p2p.protocol.errors import BadInput


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
