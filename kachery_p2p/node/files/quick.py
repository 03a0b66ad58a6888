"""A few bytes of a file that is ready, of who gave the last ones: one request, and nothing around it.

What a download does to begin, to have sources work side by side and to end is most of the work where
somebody reads a little here and there. So while it has nothing else to do, the reader's own task asks
the source that gave last, and what comes is verified, kept and handed out in one visit to a worker.
Whatever does not come so, for whatever reason (the link broke, the source is slow, or lied), is left to
the download, which asks whoever else has it. This way is quicker and nothing else.

Invariants: those of :mod:`.content`; what is asked for here is asked for once, and who wants the same
meanwhile waits for it.

Bounds: ``QUICK_BYTES`` for one reader, ``QUICK_ROOM`` for all together, from the request until their
clients have taken them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from kachery_p2p.protocol.errors import KacheryError, LocalError, ProtocolViolation
from kachery_p2p.protocol.files.messages import Piece
from kachery_p2p.protocol.files.ranges import Range, common, length, merge
from kachery_p2p.protocol.limits import (
    MAX_RANGES,
    MIB,
    QUICK_BYTES,
    QUICK_ROOM,
    QUICK_SECONDS,
    SILENCE_TRIPS,
)

from .content import Content
from .progress import Progress
from .sources import Body, NodeSource, Sources

_VISIT_BYTES = 1 * MIB
"""So many bytes are verified while others are on their way."""

Came = tuple[Piece, Body]


class Room:
    """Of all quick reads together."""

    def __init__(self) -> None:
        self._left = QUICK_ROOM

    def take(self, size: int) -> bool:
        """Have room for so many bytes, if there is some; to be given back."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give(self, size: int) -> None:
        self._left += size


class QuickReads:
    """Of one download. ``giver``: the source that gave last, if one did."""

    def __init__(self, content: Content, sources: Sources, progress: Progress) -> None:
        self.giver: NodeSource | None = None
        self._content = content
        self._sources = sources
        self._progress = progress
        self._coming: list[tuple[list[Range], asyncio.Future[None]]] = []

    async def read(self, ranges: Sequence[Range]) -> bytes | None:
        """Verified bytes of these ranges, one after another; None: not in this way. Raises LocalError:
        it is nobody's fault."""
        missing = self._missing(ranges)
        while missing and (others := [each for each in self._coming if common(each[0], missing)]):
            await asyncio.wait([done for _, done in others])
            missing = self._missing(ranges)
        if not missing:
            return await self._content.read(ranges)
        source = self._usable()
        if source is None or len(missing) > MAX_RANGES or length(missing) > QUICK_BYTES:
            return None
        done = asyncio.get_running_loop().create_future()
        coming = missing, done
        self._coming.append(coming)
        try:
            found = await self._fetch(source, missing)
        except LocalError:
            raise
        except TimeoutError:
            return None
        except KacheryError as error:
            if isinstance(error, ProtocolViolation):
                source.accuse(error)
            self._sources.blame(source.holder, error)
            self.giver = None
            return None
        finally:
            self._coming.remove(coming)
            done.set_result(None)
        parts = [_cut_out(found, start, stop) for start, stop in ranges]
        if all(part is not None for part in parts):
            return b"".join(part for part in parts if part is not None)
        return await self._content.read(ranges)  # some of it was here before

    def _missing(self, ranges: Sequence[Range]) -> list[Range]:
        return merge(item for part in ranges for item in self._content.missing_of(part))

    def _usable(self) -> NodeSource | None:
        source = self.giver
        if source is None or source.link.closed_by is not None or not self._content.keeps_blocks:
            return None
        limited = source.rate is not None and source.rate.rate is not None
        if limited or source.holder.partial or not self._sources.usable([source.holder]):
            return None
        return source

    async def _fetch(self, source: NodeSource, missing: list[Range]) -> list[tuple[int, bytes]]:
        """What came, with its places, in order."""
        found: list[tuple[int, bytes]] = []
        batch: list[Came] = []
        waiting = 0
        seconds = max(QUICK_SECONDS, SILENCE_TRIPS * source.rtt)
        with source.reading(self._content.sha1, missing, proofs=True) as pieces:
            while True:
                async with asyncio.timeout(seconds):
                    item = await pieces.next()
                if item is not None:
                    piece, body, cost = item
                    batch.append((piece, body))
                    waiting += len(body)
                    pieces.done(cost)
                if batch and (item is None or waiting >= _VISIT_BYTES):
                    found += await self._take(source, batch)
                    batch, waiting = [], 0
                if item is None:
                    return found

    async def _take(self, source: NodeSource, batch: list[Came]) -> list[tuple[int, bytes]]:
        size = sum(len(body) for _, body in batch)
        if source.rate is not None:
            source.rate.take(size)
        found = await self._content.take(batch, source.name, source.holder.channel)
        self._progress.credit(source, size)
        self._progress.verified = self._content.verified
        self._content.sync_if_due()
        return found


def _cut_out(found: Sequence[tuple[int, bytes]], start: int, stop: int) -> bytes | None:
    """Bytes [start, stop) out of what came; None if not all of them did."""
    at = bisect_right(found, start, key=lambda each: each[0]) - 1
    parts: list[bytes] = []
    while 0 <= at < len(found) and start < stop:
        offset, data = found[at]
        end = min(stop, offset + len(data))
        if not offset <= start < end:
            break
        parts.append(data[start - offset : end - offset])
        start, at = end, at + 1
    return b"".join(parts) if start >= stop else None
