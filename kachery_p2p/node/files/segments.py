"""How the sources of one download are asked for its bytes: segment by segment, and what comes verified.

A source has one long segment of the whole file at a time, and beside it shorter ones of what somebody
waits for, as soon as that is wanted: a reader of a few bytes waits neither for a segment to end nor for
another reader's. What a source does not deliver goes to whoever is at hand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kachery_p2p.protocol.errors import ProtocolViolation
from kachery_p2p.protocol.files.messages import Piece
from kachery_p2p.protocol.files.plan import Range, Taken
from kachery_p2p.protocol.limits import MAX_SEGMENTS_EACH

from .content import Content
from .progress import Progress
from .sources import Body, Pieces, Source

_WRITES_AHEAD = 4
"""Pieces of one source that wait for the disk before the source is held back."""


class Segments:
    """``progressed`` is called whenever bytes were verified and written."""

    def __init__(
        self, content: Content, progress: Progress, progressed: Callable[[], None]
    ) -> None:
        self.settled = asyncio.Event()
        """Everything that was wanted has been fetched."""
        self._content = content
        self._progress = progress
        self._progressed = progressed
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """There may be something to fetch that nobody is fetching."""
        self.settled.clear()
        self._asked.set()
        self._asked = asyncio.Event()

    async def feed(self, source: Source, sources: int) -> None:
        """Have one of ``sources`` sources send what is wanted, until it fails or the caller ends it."""
        running: set[asyncio.Task[None]] = set()
        whole: asyncio.Task[None] | None = None
        try:
            while True:
                asked = asyncio.ensure_future(self._asked.wait())
                try:
                    while len(running) < MAX_SEGMENTS_EACH and (
                        taken := self._content.take_urgent()
                    ):
                        running.add(self._start(source, taken))
                    if (whole is None or whole.done()) and (taken := self._content.take(sources)):
                        whole = self._start(source, taken)
                        running.add(whole)
                    done, _ = await asyncio.wait(
                        {*running, asked}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    asked.cancel()
                for task in running & done:
                    running.discard(task)
                    task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _start(self, source: Source, taken: Taken) -> asyncio.Task[None]:
        return asyncio.create_task(self._segment(source, *taken))

    async def _segment(self, source: Source, ticket: int, ranges: list[Range]) -> None:
        # They are done in order, and the first that fails says what was wrong: those after it only
        # find a gap before them.
        writes: deque[asyncio.Task[None]] = deque()
        content = self._content
        try:
            with source.reading(content.sha1, ranges, proofs=content.has_proofs) as pieces:
                while (item := await pieces.next()) is not None:
                    while len(writes) >= _WRITES_AHEAD:
                        await asyncio.wait([writes[0]])
                        writes.popleft().result()
                    write = self._write(source, pieces, ticket, *item)
                    writes.append(asyncio.create_task(write))
                while writes:
                    await asyncio.wait([writes[0]])
                    writes.popleft().result()
        finally:
            # What is being written is verified or not; either way the thread must be let finish.
            if writes:
                await asyncio.wait(writes)
                for task in writes:
                    if not task.cancelled():
                        task.exception()
            if content.give_back(ticket):
                self.ask()
            elif content.settled:
                self.settled.set()

    async def _write(
        self,
        source: Source,
        pieces: Pieces,
        ticket: int,
        piece: Piece,
        body: Body,
        cost: int,
    ) -> None:
        try:
            await self._content.write(ticket, piece, body, source.name, source.holder.channel)
        except ProtocolViolation as error:
            source.accuse(error)
            raise
        pieces.done(cost)
        self._progress.credit(source, len(body))
        self._progress.verified = self._content.verified
        self._progressed()
        self._content.sync_if_due()
