"""How the sources of one download are asked for its bytes: segment by segment, and what comes verified.

What to ask of whom, :class:`~kachery_p2p.protocol.files.plan.Plan` decides: it is asked whenever a
source may have something to do, and ``REVIEW_SECONDS`` apart while there are several. A reader of a few
bytes waits neither for a segment to end nor for another reader's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kachery_p2p.protocol.errors import CorruptContent, NotFound, ProtocolViolation
from kachery_p2p.protocol.files.messages import Piece
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.limits import MAP_SECONDS, RATE_CREDIT, REVIEW_SECONDS

from .content import Content
from .progress import Progress
from .sources import Body, Pieces, Source

_WRITES_AHEAD = 4
"""Pieces of one source that wait for the disk before the source is held back."""


class Segments:
    """``progressed`` is called whenever bytes were verified and written, and ``gave`` with the source
    that they came from."""

    def __init__(
        self,
        content: Content,
        progress: Progress,
        progressed: Callable[[], None],
        gave: Callable[[Source], None] = lambda source: None,
    ) -> None:
        self.settled = asyncio.Event()
        """Everything that was wanted has been fetched."""
        self._content = content
        self._progress = progress
        self._progressed = progressed
        self._gave = gave
        self._wake: dict[str, asyncio.Event] = {}
        """Of each source that is at work: there may be something to ask it for."""
        self.held = 0
        """Pieces that have come, and wait for the limit of downloads."""
        self._running: dict[int, asyncio.Task[None]] = {}

    def ask(self) -> None:
        """There may be something to fetch that nobody is fetching."""
        self.settled.clear()
        self._wake_all()

    def _wake_all(self) -> None:
        for each in self._wake.values():
            each.set()

    async def feed(self, source: Source) -> None:
        """Have a source send what is wanted, until it fails or the caller ends it."""
        plan, node, loop = self._content.plan, source.holder.node, asyncio.get_running_loop()
        if self._content.has_proofs and not await source.proves(self._content.sha1):
            raise NotFound(what=f"sha1://{self._content.sha1}", detail="no proofs lie there")
        wake = self._wake[node] = asyncio.Event()
        running: set[asyncio.Task[None]] = set()
        has = await self._has(source) if source.holder.partial else None
        plan.join(node, loop.time(), rtt=source.rtt, has=has)
        self._wake_all()  # from now on they share
        asks = asyncio.create_task(self._follow(source)) if has is not None else None
        try:
            while True:
                wake.clear()
                while (taken := plan.ask(node, loop.time())) is not None:
                    running.add(self._start(source, *taken))
                woken = asyncio.ensure_future(wake.wait())
                try:
                    await asyncio.wait(
                        {*running, woken, *([asks] if asks is not None else [])},
                        timeout=REVIEW_SECONDS if plan.crowded else None,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    woken.cancel()
                for task in [each for each in running if each.done()]:
                    running.discard(task)
                    if not task.cancelled():  # others have given what it was to give
                        task.result()
                if asks is not None and asks.done():
                    asks.result()
                    asks = None  # it has all of it by now
                self._review()
        finally:
            for task in (*running, *([asks] if asks is not None else [])):
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            plan.leave(node)
            if self._wake.get(node) is wake:
                del self._wake[node]
            self._wake_all()

    async def _has(self, source: Source) -> list[Range] | None:
        """What a source has that is itself still fetching; None: all of it."""
        info = await source.open(self._content.sha1)
        if info.size != self._content.size:
            raise CorruptContent(
                what=f"The size of sha1://{self._content.sha1}", source=source.name
            )
        return info.has if info.partial else None

    async def _follow(self, source: Source) -> None:
        """Ask a source what it has, again and again, until it has all of it."""
        has: list[Range] | None = []
        while has is not None:
            await asyncio.sleep(MAP_SECONDS)
            has = await self._has(source)
            self._content.plan.holds(source.holder.node, has)
            self._wake_all()

    def _review(self) -> None:
        plan = self._content.plan
        if plan.crowded:
            review = plan.review(asyncio.get_running_loop().time())
            self._cancel(review.stop)
            if review.freed:
                self._wake_all()

    def _cancel(self, tickets: list[int]) -> None:
        for ticket in tickets:
            if ticket in self._running:
                self._running[ticket].cancel()

    def _start(self, source: Source, ticket: int, ranges: list[Range]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._segment(source, ticket, ranges))
        self._running[ticket] = task
        task.add_done_callback(lambda _: self._over(ticket))
        return task

    def _over(self, ticket: int) -> None:
        # Here, for a task that is cancelled before it began does nothing at all.
        plan = self._content.plan
        del self._running[ticket]
        if plan.give_back(ticket):
            self.ask()
        elif plan.done:
            self.settled.set()

    async def _segment(self, source: Source, ticket: int, ranges: list[Range]) -> None:
        # They are done in order, and the first that fails says what was wrong: those after it only
        # find a gap before them.
        writes: deque[asyncio.Task[None]] = deque()
        content = self._content
        try:
            with source.reading(content.sha1, ranges, proofs=content.has_proofs) as pieces:
                while (
                    pieces.position < content.plan.end_of(ticket)
                    and (item := await pieces.next()) is not None
                ):
                    while len(writes) >= _WRITES_AHEAD:
                        await asyncio.wait([writes[0]])
                        writes.popleft().result()
                    piece, body, cost = item
                    cost -= await self._afford(source, pieces, len(body))
                    write = self._write(source, pieces, ticket, piece, body, cost)
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

    async def _afford(self, source: Source, pieces: Pieces, size: int) -> int:
        """Wait until so many bytes that came may be taken. Returns for how many of them the source has
        credit again: it gets that as we go, and does not take us for dead."""
        rate, node = source.rate, source.holder.node
        if rate is None:
            return 0
        if not rate.is_behind:
            rate.take(size)
            return 0
        plan, loop = self._content.plan, asyncio.get_running_loop()
        self.held += 1
        plan.hold(node, size, loop.time())
        try:
            for start in range(0, size, RATE_CREDIT):
                part = min(RATE_CREDIT, size - start)
                await rate.acquire(node, part)
                pieces.done(part)
        finally:
            self.held -= 1
            plan.let_go(node, loop.time())
            self._progressed()
        return size

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
            over = await self._content.write(
                ticket, piece, body, source.name, source.holder.channel
            )
        except ProtocolViolation as error:
            source.accuse(error)
            raise
        except CorruptContent:
            if self._content.has_proofs:
                source.doubt(self._content.sha1, piece.offset, piece.offset + len(body))
            raise
        pieces.done(cost)
        self._cancel(over)
        if self._content.plan.hungry(source.holder.node, asyncio.get_running_loop().time()):
            self._wake[source.holder.node].set()
        self._gave(source)
        self._progress.credit(source, len(body))
        self._progress.verified = self._content.verified
        self._progressed()
        self._content.sync_if_due()
