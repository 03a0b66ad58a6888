"""Sending ranges of a file on a stream: read a little ahead of the link, never more than may go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.rates import Throttle
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol.errors import NotFound
from kachery_p2p.protocol.files.ranges import Range, cut, grouped
from kachery_p2p.storage.files.blobs import Blob, BlobStore
from kachery_p2p.storage.files.checking import Proved

from .content import Content

ReadPiece = Callable[[int, int], Proved]
Reader = Callable[[Sequence[Range]], Awaitable[list[Proved]]]
"""The bytes of some ranges, each with its proof."""


class _Reading(NamedTuple):
    """Pieces that are being read, and have their place in the peer's budget."""

    pieces: list[Range]
    size: int
    read: asyncio.Future[list[Proved]]


async def send_ranges(
    link: Link,
    stream: Stream,
    ranges: Sequence[Range],
    read: Reader,
    rate: Throttle,
    sent: Callable[[int], None],
    *,
    waits: bool = False,
) -> None:
    """Read one group of pieces ahead of the link, as long as there is credit and room for it. ``sent``
    is told the bytes of each piece that went. ``waits``: reading may wait for others, and is broken off
    when nobody wants it any more."""

    def most() -> int:
        return rate.piece(link.bulk_bytes)

    groups = grouped(cut(ranges, most), most)
    pieces = next(groups, None)
    current: _Reading | None = None
    ahead: _Reading | None = None
    try:
        while pieces is not None or current is not None:
            if pieces is not None:
                size = sum(stop - start for start, stop in pieces)
                # Nobody waits for room while something that was read waits to be sent, and who
                # waits for the rate has no room yet.
                if current is None:
                    await rate.acquire(link.peer, size)
                    await stream.reserve(size)
                elif may := not rate.is_behind and stream.try_reserve(size):
                    rate.take(size)
                if current is None or may:
                    ahead = _Reading(pieces, size, asyncio.ensure_future(read(pieces)))
                    pieces = next(groups, None)
            if current is not None:
                for (start, _), (data, proof) in zip(
                    current.pieces, await current.read, strict=True
                ):
                    await stream.send([start, proof], data)
                    sent(len(data))
                stream.unreserve(current.size)
            current, ahead = ahead, None
    finally:
        for each in (current, ahead):
            if each is not None:
                stream.unreserve(each.size)
                if waits:
                    each.read.cancel()
                # The thread may still be reading: the tree it reads from is closed after this.
                await asyncio.wait([each.read])
                if not each.read.cancelled():
                    each.read.exception()


def on_disk(workers: Workers, read: ReadPiece) -> Reader:
    """Read piece by piece, some of them in one visit to a thread."""
    return lambda pieces: workers.disk(_read_all, read, pieces)


def plain_reader(store: BlobStore, blob: Blob) -> ReadPiece:
    """A blob's bytes as they lie there."""
    return unproved(lambda start, stop: store.read(blob, start, stop - start))


def unproved(read: Callable[[int, int], bytes]) -> ReadPiece:
    return lambda start, stop: (read(start, stop), [])


def reader_of_part(part: Content, proofs: bool) -> Reader:
    """What is here of a download in progress."""

    async def read(pieces: Sequence[Range]) -> list[Proved]:
        found = await part.read_proved(pieces) if proofs else None
        if found is None:
            raise NotFound(what="that range", detail="the provider is still fetching it itself")
        return found

    return read


def _read_all(read: ReadPiece, pieces: Sequence[Range]) -> list[Proved]:
    return [read(start, stop) for start, stop in pieces]
