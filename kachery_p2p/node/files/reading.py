"""Reads byte ranges of a file that is being fetched: in order, as they come, a little ahead."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

from kachery_p2p.protocol.files.ranges import Range, grouped
from kachery_p2p.protocol.limits import (
    LOCAL_PIECE,
    MAX_FILE,
    MAX_RANGES,
    READ_AHEAD_BYTES,
    READ_BATCH_BYTES,
)

from .content import Part
from .download import Download
from .downloader import Downloader


class Reading:
    """Ranges [start, stop) of one file, in any order; a stop of None is the end of the file.

    ``label`` is what who reads calls it; ``on_progress`` is told how many bytes these are, once that is
    known.
    """

    def __init__(
        self,
        downloader: Downloader,
        sha1: str,
        manifest: str | None,
        channel: bytes | None,
        ranges: Iterable[Part],
        *,
        label: str,
        on_progress: Callable[[dict[str, Any]], None],
    ) -> None:
        self._downloader = downloader
        self._sha1, self._manifest, self._channel = sha1, manifest, channel
        self._label = label
        self._ranges = list(ranges)
        self.size = 0
        """Bytes of the file, known with the first piece."""
        self._on_progress = on_progress

    async def pieces(self) -> AsyncGenerator[tuple[Download, list[Range]], None]:
        """Ranges of at most ``LOCAL_PIECE`` bytes together, when they can be read from the download.

        Bytes ahead of the one that is yielded are fetched meanwhile, a bounded number of them: for who
        does not read, nothing more is.
        """
        first = next(_batches(self._ranges, MAX_FILE), [(0, 0)])
        hold = self._downloader.hold(
            self._sha1, self._manifest, self._channel, first, label=self._label
        )
        async with hold as download:
            await download.wait((0, 0))
            self.size = download.progress.size
            self._on_progress({"size": sum(map(_length, cut(self._ranges, self.size)))})
            batches = _batches(self._ranges, self.size)
            waiting: deque[tuple[list[Range], contextlib.AsyncExitStack]] = deque()
            ahead = 0
            try:
                while True:
                    while ahead < READ_AHEAD_BYTES and (batch := next(batches, None)):
                        stack = contextlib.AsyncExitStack()
                        await stack.enter_async_context(download.waiting(batch))
                        waiting.append((batch, stack))
                        ahead += sum(map(_length, batch))
                    if not waiting:
                        return
                    batch, stack = waiting.popleft()
                    async with stack:
                        ahead -= sum(map(_length, batch))
                        for some in grouped(cut(batch, self.size), lambda: LOCAL_PIECE):
                            for piece in some:
                                await download.wait(piece)
                            yield download, some
            finally:
                for _, stack in waiting:
                    await stack.aclose()


def cut(ranges: Iterable[Part], size: int) -> Iterator[Range]:
    """Pieces of at most ``LOCAL_PIECE`` bytes of what of these ranges lies within ``size``."""
    for start, stop in ranges:
        end = size if stop is None else min(stop, size)
        for position in range(start, end, LOCAL_PIECE):
            yield position, min(end, position + LOCAL_PIECE)


def _length(part: Range) -> int:
    return part[1] - part[0]


def _batches(ranges: Iterable[Part], size: int) -> Iterator[list[Range]]:
    """What of these ranges lies within ``size``, so many at a time and so many bytes of them."""
    batch: list[Range] = []
    room = READ_BATCH_BYTES
    for start, end in ranges:
        stop = size if end is None else min(end, size)
        while start < stop:
            part = (start, min(stop, start + room))
            batch.append(part)
            room -= _length(part)
            start = part[1]
            if room <= 0 or len(batch) == MAX_RANGES:
                yield batch
                batch, room = [], READ_BATCH_BYTES
    if batch:
        yield batch
