"""Byte ranges of one file, from wherever they are to be had: the folder of this computer, or the node,
which fetches no more than these.

Invariant: what is handed out was compared with the hash that the URI names, however often the file
changes underneath: what no longer fits, or has gone, comes from the node, and from others if need be.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from kachery_p2p.client.session import blocking
from kachery_p2p.client.session.connection import connection
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    LinkClosed,
    NotFound,
    StorageDamaged,
)
from kachery_p2p.protocol.limits import MAX_RANGES, VERIFY_ON_READ
from kachery_p2p.storage.disk import pread_up_to

from . import local_storage as storage
from .content import Content, Here

Range = tuple[int, int]


class Ranges(Protocol):
    """Where bytes come from. ``size`` is that of the file."""

    @property
    def size(self) -> int: ...

    async def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Bytes [start, stop) of each range, all within the file."""


class NoRanges:
    """Of a file that is closed."""

    def __init__(self, size: int) -> None:
        self.size = size

    async def read(self, ranges: Sequence[Range]) -> list[bytes]:
        raise ValueError("I/O operation on closed file")


class PathRanges:
    """Of a file of the user's own, which stays the same one whatever its name leads to later: whoever
    puts another one in its place does not have us read of both."""

    def __init__(self, path: str) -> None:
        """Raises BadPath."""
        self._path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size = os.fstat(self._fd).st_size
        except OSError as error:
            raise blocking.path_error(path, error) from error

    def __del__(self) -> None:
        # Not before the last read has ended: its number may be another file's by then.
        if self._fd >= 0:
            os.close(self._fd)

    async def read(self, ranges: Sequence[Range]) -> list[bytes]:
        def work() -> list[bytes]:
            try:
                found = [pread_up_to(self._fd, stop - start, start) for start, stop in ranges]
            except OSError as error:
                raise blocking.path_error(self._path, error) from error
            if any(
                len(data) < stop - start for data, (start, stop) in zip(found, ranges, strict=True)
            ):
                raise BadInput(what=self._path, reason="it has become shorter; open it anew")
            return found

        return await blocking.beside(work)


class ContentRanges:
    """Of the content behind a URI. Made by :meth:`open`; it holds nothing that must be closed."""

    def __init__(self, content: Content, size: int, here: Here | None) -> None:
        self.size = size
        self._content = content
        self._here = here

    @classmethod
    async def open(cls, content: Content) -> ContentRanges:
        """Find it, and what of it is needed to check its parts.

        Raises:
            NotFound: nobody has it; others as :func:`.loads.aload_file`.
        """
        in_parts = content.uri.chunk_of is not None or content.local_only
        here = await (content.here_or_fetched() if in_parts else content.here())
        if here is not None and await _is_right(here):
            return cls(content, here.blob.size, here)
        if await content.without_node() is not None or (here is None and content.local_only):
            # There is nobody else to have it from, or to put aside what is damaged.
            found = await content.path()
            here = None if found is None else await content.here()
            if here is None:
                raise NotFound(
                    what=f"sha1://{content.uri.hash}", detail="it is not on this computer"
                )
            return cls(content, here.blob.size, here)
        opened = cls(content, 0, None)
        opened.size = (await opened._ask([(0, 0)]))[0]
        return opened

    async def read(self, ranges: Sequence[Range]) -> list[bytes]:
        if self._here is not None:
            found = await blocking.beside(self._read_here, self._here, ranges)
            if found is not None:
                return found
            self._here = None
        data: list[bytes] = []
        for at in range(0, len(ranges), MAX_RANGES):
            some = ranges[at : at + MAX_RANGES]
            _, came = await self._ask(some)
            position = 0
            for start, stop in some:
                data.append(came[position : position + stop - start])
                position += stop - start
            if position != len(came):
                raise CorruptContent(what=f"sha1://{self._content.uri.hash}", source="the node")
        return data

    def _read_here(self, here: Here, ranges: Sequence[Range]) -> list[bytes] | None:
        """None: it is not what it was, or not there."""
        root, blob = here
        found = []
        for start, stop in ranges:
            try:
                data = storage.read_range(root, blob, start, stop)
            except (NotFound, StorageDamaged):
                return None
            if data is None or len(data) != stop - start:
                return None
            found.append(data)
        small = blob.size <= VERIFY_ON_READ
        return None if small and not storage.is_known(root, blob) else found

    async def _ask(self, ranges: Sequence[Range]) -> tuple[int, bytes]:
        params = self._content.to_fetch() | {"ranges": ranges}
        try:
            result, data = await (await connection()).call_for_bytes("load_bytes", params)
        except LinkClosed:  # the node was restarted, perhaps
            result, data = await (await connection()).call_for_bytes("load_bytes", params)
        return result["size"], data


async def _is_right(here: Here) -> bool:
    """Whether parts of it can be read and checked; a small one is compared now, and remembered."""
    if here.blob.size > VERIFY_ON_READ:
        return True
    return await blocking.beside(storage.remember_small, *here)
