"""One file that is being fetched, for as long as somebody waits for it.

A :class:`Download` brings together those who wait (for the whole file or for parts of it), the bytes
that are here (:mod:`~kachery_p2p.node.files.content`) and those who give them
(:mod:`~kachery_p2p.node.files.sources`), and turns what goes wrong into an error that says what it was.

It ends when nobody waits for it any more (what was verified is kept), when it is complete, or when it
has made no progress for ``STALL_SECONDS`` (``RESUME_SECONDS`` once something has come): sources that
fail are retried and looked up anew until then, so a proxy or a provider that restarts, or whose
computer sleeps for a minute, is only a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.node.naps import Patience
from kachery_p2p.protocol.errors import (
    AccessDenied,
    Cancelled,
    CorruptContent,
    KacheryError,
    LocalError,
    NotFound,
    RemoteError,
    Stalled,
)
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import RESUME_SECONDS, STALL_SECONDS
from kachery_p2p.storage.files.checking import Proved

from .content import Content, Part
from .crowd import Crowd, Slot
from .finder import Finder, Swarming
from .manifests import assembled, manifest_of
from .progress import Progress
from .quick import QuickReads
from .segments import Segments
from .sources import NodeSource, Source, Sources

R = TypeVar("R")
_RETRY_SECONDS = 0.5
"""Between two look-ups of a download that has lost its sources."""
_READS = 4
"""Tries to read a part, which may go away again before its turn comes."""
_TELL_SECONDS = 0.1
"""Between two reports of progress to one caller."""


class Download:
    """See the module. Callers share it; each waits for the whole file or for parts.

    ``provide`` is called with the hash of each file that has come to be here. It works when there is
    a place in ``slots``. ``offer`` is called with a channel when others there can have what is here
    of it so far, and with None when they no longer can.
    """

    def __init__(
        self,
        content: Content,
        sources: Sources,
        finder: Finder,
        *,
        manifest: str | None,
        channel: bytes | None,
        provide: Callable[[str], None],
        offer: Callable[[str, bytes | None], None],
        slots: asyncio.Semaphore,
    ) -> None:
        self.sha1 = content.sha1
        self.progress = Progress(started=asyncio.get_running_loop().time())
        self._content = content
        self._sources = sources
        self.finder = finder
        self._manifest = manifest
        self._wants_manifest = manifest is not None
        self._lacks_manifest = False
        self._channel = channel
        self._provide = provide
        self._slot = Slot(slots)
        self._quick = QuickReads(content, sources, self.progress)
        self._segments = Segments(content, self.progress, self._progressed, self._gave)
        self._crowd = Crowd(content.context, sources, self._segments.feed)
        self._swarming = Swarming(content, finder, offer, self._appeared)
        self._joinable = True
        self._waiters = 0
        self._joined = 0
        self._whole = 0
        self._parts: Counter[Part] = Counter()
        self._advanced = asyncio.Event()
        self._wanted = asyncio.Event()
        self._patience = Patience(content.context.naps, STALL_SECONDS, RESUME_SECONDS)
        self._prepared_by = ""
        self._doubtful = False
        self._one_source = False
        self._begun = self._came_whole = self._rests = False
        self.task = asyncio.create_task(self._run(), name=f"download {self.sha1[:8]}")

    # --- those who wait ----------------------------------------------------------------------

    def serves(self, channel: bytes | None, manifest: str | None) -> bool:
        """Whether a new caller can share this download."""
        fits = channel == self._channel and manifest in (None, self._manifest)
        return fits and self._joinable

    def part_on(self, channel: bytes) -> Content | None:
        """What is here of it for others, if all of that came from this channel."""
        there = self._content.partial is not None and self._content.is_on(channel)
        return self._content if there else None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for anything of it now."""
        return bool(self._whole or self._parts)

    def stay(self) -> None:
        """Be ready for whoever wants more of it, although nobody does now, until :meth:`leave`."""
        self._waiters += 1

    def leave(self) -> None:
        """The last to leave ends the download."""
        self._waiters -= 1
        if not self._waiters and not self.task.done():
            self._joinable = False
            self.task.cancel()

    @contextlib.asynccontextmanager
    async def waiting(self, parts: Sequence[Part] | None) -> AsyncIterator[None]:
        """Be one of those for whom the download goes on; the last to leave ends it."""
        if not self.wanted:
            self.progress.begin(asyncio.get_running_loop().time())
        self._joined += 1
        self.stay()
        if parts is None:
            self._whole += 1
        else:
            self._parts.update(parts)
        self._replan()
        try:
            yield
        finally:
            if parts is None:
                self._whole -= 1
            else:
                for part in parts:
                    self._parts[part] -= 1
                    if not self._parts[part]:
                        del self._parts[part]
            self.leave()
            if not self._waiters and not self.task.done():
                await asyncio.shield(asyncio.wait([self.task]))

    async def wait(
        self, part: Part | None, on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> dict[str, Any]:
        """Wait for a part, or for everything; call it inside :meth:`waiting`."""
        loop = asyncio.get_running_loop()
        told = loop.time()
        while not self.task.done():
            if part is not None and self._content.has(part):
                return self.progress.plain(loop.time())
            advanced = asyncio.ensure_future(self._advanced.wait())
            try:
                await asyncio.wait({self.task, advanced}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                advanced.cancel()
            if on_progress is not None and loop.time() - told > _TELL_SECONDS:
                told = loop.time()
                on_progress(self.progress.plain(told))
        if self.task.cancelled():
            raise Cancelled(what=f"The download of sha1://{self.sha1}")
        self.task.result()
        if part is None and self._content.unsaved is not None:
            raise self._content.unsaved
        return self.progress.plain(loop.time())

    async def may_leave(self, channel: bytes) -> bool:
        """Whether what is here of it may go out on this channel."""
        return await self._content.may_leave(channel)

    async def read_quickly(self, ranges: Sequence[Range]) -> bytes | None:
        """Verified bytes of these ranges, if the download has nothing else to do and its last source
        gives them; None: they are to be waited for. See :mod:`.quick`. Raises LocalError."""
        if not self._rests or self._whole or self.task.done():
            return None
        self.stay()
        try:
            return await self._quick.read(ranges)
        finally:
            self.leave()

    def _gave(self, source: Source) -> None:
        self._sources.gave(source.holder.node)
        self._quick.giver = source if isinstance(source, NodeSource) else None

    async def read(self, ranges: Sequence[Range]) -> bytes:
        """Verified bytes of parts that were waited for; call it inside :meth:`waiting`.

        Raises:
            NotFound: they went away again (the whole turned out to be wrong, say).
        """
        return await self._read(ranges, self._content.read)

    async def read_proved(self, ranges: Sequence[Range]) -> list[Proved]:
        """:meth:`read` whole blocks with their proofs. Raises StorageFull, too."""
        return await self._read(ranges, self._content.read_proved)

    async def _read(
        self, ranges: Sequence[Range], read: Callable[[Sequence[Range]], Awaitable[R | None]]
    ) -> R:
        for _ in range(_READS):
            data = await read(ranges)
            if data is not None:
                return data
            self._replan()  # it was damaged on the disk, or others' bytes have taken its place
            for part in ranges if not self.task.done() else ():
                await self.wait(part)
        raise NotFound(what=f"sha1://{self.sha1}", detail="it went away while it was read")

    def _replan(self) -> bool:
        """Whether there is something to fetch that nobody is fetching."""
        free = self._content.want(self._parts, whole=bool(self._whole))
        if self._whole and self.finder.is_further:
            self._swarming.begin()
        if free:
            self._wanted.set()
            self._segments.ask()
        else:
            self._wanted.clear()
        return free

    def _see(self) -> None:
        self.progress.size, self.progress.verified = self._content.size, self._content.verified

    def _progressed(self) -> None:
        self._patience.progressed(asyncio.get_running_loop().time())
        self._tell()

    def _is_stuck(self) -> bool:
        return self._patience.is_over(asyncio.get_running_loop().time()) and not self._segments.held

    def _tell(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

    # --- life --------------------------------------------------------------------------------

    async def _run(self) -> None:
        await self._slot.take()
        try:
            await self._fetch()
        finally:
            try:
                await self._swarming.end()
                await self._content.close()
            finally:
                self._slot.leave()

    async def _fetch(self) -> None:
        self._patience.begin(asyncio.get_running_loop().time())
        if self._manifest is not None:
            if await self._assembled(self._manifest):
                return
            if await self._content.resume(self._manifest):
                # What is here of it is had without asking anybody, also beside who wants all of it.
                self._see()
                if not self._replan() and not self._whole:
                    await self._idle()
        found = await self.finder.nearest(self._look)
        last_error: KacheryError | None = None
        while True:
            holders = self._sources.usable(found.holders)
            try:
                if holders and await self._from(holders):
                    return
            except CorruptContent as error:
                last_error = error
            except (LocalError, AccessDenied):
                raise
            except KacheryError as error:
                last_error = error
            else:
                last_error = self._sources.refusal or last_error
            if isinstance(last_error, AccessDenied | NotFound) and not self._begun:
                raise last_error
            refusal = self._sources.refusal
            if refusal is not None and not self._sources.usable(found.holders):
                found = await self.finder.further(self._look)
                continue
            if self._is_stuck():
                what, seconds = f"Loading sha1://{self.sha1}", self._patience.seconds
                said = self._sources.said(found.holders)
                raise Stalled(what=what, seconds=seconds, sources=said) from last_error
            self.progress.waiting = self._sources.waiting_for(found.holders)
            self._tell()
            await asyncio.sleep(_RETRY_SECONDS)
            found = await self.finder.again()

    async def _assembled(self, manifest: str) -> bool:
        size = await assembled(self._content.context, self.sha1, manifest, self._content.label)
        if size is None:
            return False
        self.progress.size = self.progress.verified = size
        self._provide(self.sha1)
        return True

    async def _look(self) -> Found:
        joined, parts = self._joined, self._manifest is not None
        found = await self.finder.look(parts=parts)
        if found.holders or self._joined == joined:
            return found
        # Who joined meanwhile has asked later than the proxies were asked: it may be there by now.
        self._joinable = False
        found = await self.finder.look(parts=parts)
        self._joinable = bool(found.holders) and bool(self._waiters)
        return found

    async def _from(self, holders: list[Holder]) -> bool:
        """Fetch from these, best first. True when everything that was wanted is there."""
        if not self._content.is_open or not self._begun:
            await self._begin(holders)
        if self._came_whole:  # it was small and came with the answer
            return True
        self._begun = True
        while True:
            free = self._replan()
            if self._content.is_whole:
                await self._finish()
                return True
            if free:
                await self._drain(self._chosen())
                if self._replan():
                    await self._doubt()
                    return False
            else:
                await self._idle()

    async def _idle(self) -> None:
        """The parts that were asked for are there. Whoever waited reads them now; the last to leave
        ends the download, and somebody may yet want more."""
        self._tell()
        self._slot.leave()
        self._rests = True
        await self._wanted.wait()
        self._rests = False
        await self._slot.take()
        self._patience.begin(asyncio.get_running_loop().time())

    async def _begin(self, holders: list[Holder]) -> None:
        """Have the best source prepare; without the manifest if those who have the file lack that:
        an old URI names one that older nodes made, and the hash of the file verifies the whole."""
        try:
            await self._sources.first(holders, self._prepare, unsure=not self._wants_manifest)
        except NotFound:
            if not self._lacks_manifest:
                raise
            self._wants_manifest = False
            await self._sources.first(holders, self._prepare, unsure=True)

    def _chosen(self) -> list[Holder]:
        there = self._sources.of_one_channel(self.finder.found.holders, self._content.channel)
        if self._one_source:
            return [h for h in there if h.node == self._prepared_by] or there[:1]
        return there

    def _appeared(self) -> None:
        self._crowd.add(self._chosen())

    async def _doubt(self) -> None:
        """Begin anew if the size, which one source alone has told, may be what the others refuse."""
        if self._doubtful:
            self._doubtful = False
            self._sources.failed(self._prepared_by)
            await self._content.discard()
            self.progress.sources.clear()

    async def _finish(self) -> None:
        try:
            await self._content.finish()
        except CorruptContent as error:
            # Every part fitted what was asked for, and yet the whole is wrong. Without a tree
            # nobody can be blamed but one who gave all of it: so the next try has one source.
            self._one_source = True
            for node, entry in self.progress.sources.items():
                self._sources.failed(node)
                # Without a manifest the size was the word of one, who may have lied about it.
                sized = self._wants_manifest or node == self._prepared_by
                if sized and entry["bytes"] >= self._content.size:
                    self._sources.ban(node, error)
            self._sources.failed(self._prepared_by)
            self.progress.sources.clear()
            raise
        self.progress.verified = self.progress.size
        self._provide(self.sha1)

    # --- what the sources are asked ----------------------------------------------------------

    async def _prepare(self, source: Source) -> None:
        """Learn the size, and the manifest if the URI names one; or the file itself, if small."""
        info = await source.open(self.sha1)
        if info.inline is not None:
            await self._take_whole(source, info.inline)
            return
        manifest = None
        if self._manifest is not None and self._wants_manifest:
            try:
                manifest = await manifest_of(source, self._content, self._manifest, self._provide)
            except NotFound:
                self._lacks_manifest = True
                raise
        size = manifest.size if manifest is not None else info.size
        if info.size != size:
            raise CorruptContent(what=f"The size of sha1://{self.sha1}", source=source.name)
        if manifest is not None and manifest.tree and not await source.proves(self.sha1):
            manifest = None  # the hash of the file verifies the whole, and nothing a part
            if self._content.has_proofs:
                await self._content.discard()
        self._prepared_by = source.holder.node
        await self._content.comes_from(source.holder)
        if not self._content.is_open:
            await self._content.open(size, manifest)
        self._see()
        self._progressed()
        self._replan()

    async def _take_whole(self, source: Source, data: bytes) -> None:
        source.check(data, self.sha1, f"sha1://{self.sha1}")
        await source.afford(len(data))
        self._came_whole = True
        self.progress.size = self.progress.verified = len(data)
        self.progress.credit(source, len(data))
        await self._content.store_whole(data, source.holder)
        if self._content.unsaved is None:
            self._provide(self.sha1)

    async def _drain(self, holders: list[Holder]) -> None:
        """Fetch from these at once, until everything that is wanted is here or all have failed."""
        failed = await self._crowd.run(holders, until=self._segments.settled, stuck=self._is_stuck)
        if not self._content.verifies_parts:
            self._doubtful |= any(
                isinstance(error, RemoteError) and holder.node != self._prepared_by
                for holder, error in failed
            )
