"""Fetches files: one :class:`Download` per content, however many callers wait for it.

What to ask of whom is decided in :mod:`kachery_p2p.protocol.plan`; what has arrived is verified and
written by :class:`kachery_p2p.storage.partials.Partial` before anybody sees a byte of it. This shell
opens the sources, keeps disk and network busy at once, and turns what goes wrong into an error that
says what it was.

A download ends when nobody waits for it any more (its partial is kept), when it is complete, or when
it has made no progress for ``STALL_SECONDS``: sources that fail are retried and looked up anew until
then, so a proxy or a provider that restarts is only a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    Cancelled,
    CorruptContent,
    KacheryError,
    LinkClosed,
    LocalError,
    NotFound,
    ProtocolViolation,
    RemoteError,
    Stalled,
    TransportError,
)
from kachery_p2p.protocol.limits import (
    BLOCK,
    INLINE_FILE,
    MANIFEST_CHUNK,
    MAX_DOWNLOADS,
    MAX_FILE,
    MAX_MANIFEST,
    MAX_SOURCES,
    STALL_SECONDS,
)
from kachery_p2p.protocol.manifest import Manifest
from kachery_p2p.protocol.methods import FILE_OPEN, FILE_READ, FileInfo, Piece
from kachery_p2p.protocol.plan import Holder, Plan, intersect, rank
from kachery_p2p.protocol.session import SealedBody
from kachery_p2p.storage.partials import Partial

from .availability import Availability
from .link import Link
from .lookup import Found, Lookup
from .network import Network

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
"""Between two look-ups of a download that has lost its sources."""
_TELL_SECONDS = 0.1
"""Between two reports of progress to one caller."""
_WRITES_AHEAD = 4
"""Pieces of one source that wait for the disk before the source is held back."""


@dataclass
class Progress:
    """How far a download is, for whoever asked for it."""

    size: int = 0
    verified: int = 0
    fetched: int = 0
    started: float = 0.0
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    def plain(self, now: float) -> dict[str, Any]:
        return {
            "size": self.size,
            "verified": self.verified,
            "fetched": self.fetched,
            "seconds": max(0.0, now - self.started),
            "sources": list(self.sources.values()),
        }


class Downloader:
    def __init__(self, network: Network, lookup: Lookup, availability: Availability) -> None:
        self.network = network
        self.context = network.context
        self.lookup = lookup
        self.availability = availability
        self.downloads: dict[str, Download] = {}
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)

    def partial(self, sha1: str, channel: bytes) -> Partial | None:
        """The partial of a download in progress on a channel, to serve from on that channel."""
        download = self.downloads.get(sha1)
        return download.partial if download is not None and download.is_on(channel) else None

    async def load(
        self,
        sha1: str,
        manifest: str | None = None,
        *,
        channel: bytes | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Fetch a file whole into the storage. Cancelling is safe: what was verified is kept.

        Returns:
            plain values: size, verified, fetched (bytes from the network), seconds, sources.

        Raises:
            NotFound, AccessDenied, CorruptContent, Stalled, Unreachable, StorageFull, ...
        """
        download = await self._get(sha1, manifest, channel)
        async with download.waiting(None):
            return await download.wait(None, on_progress)

    @contextlib.asynccontextmanager
    async def hold(
        self,
        sha1: str,
        manifest: str | None,
        channel: bytes | None,
        part: tuple[int, int | None],
    ) -> AsyncIterator[Download]:
        """Make a byte range available, by fetching only what it takes, and keep it so meanwhile.

        Yields the download, to :meth:`Download.read` from. Without a manifest's tree no range can
        be verified by itself: the whole file is fetched.
        """
        download = await self._get(sha1, manifest, channel)
        async with download.waiting(part):
            await download.wait(part, None)
            yield download

    async def _get(self, sha1: str, manifest: str | None, channel: bytes | None) -> Download:
        download = self.downloads.get(sha1)
        while download is not None and not (
            download.joinable and download.serves(channel, manifest)
        ):
            # Somebody fetches it on another channel or by another manifest: wait, then look.
            await asyncio.wait([download.task])
            self._forget(sha1, download)
            download = self.downloads.get(sha1)
        if download is None:
            download = self.downloads[sha1] = Download(self, sha1, manifest, channel)
            mine = download
            download.task.add_done_callback(lambda _: self._forget(sha1, mine))
        return download

    def _forget(self, sha1: str, download: Download) -> None:
        if self.downloads.get(sha1) is download:
            del self.downloads[sha1]
        if not download.task.cancelled():
            download.task.exception()  # its waiters have it; nobody else needs to hear

    async def close(self) -> None:
        for download in list(self.downloads.values()):
            download.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, KacheryError):
                await download.task


class Download:
    """See the module. Callers share it; each waits for the whole file or for a part."""

    def __init__(
        self, owner: Downloader, sha1: str, manifest: str | None, channel: bytes | None
    ) -> None:
        self.sha1 = sha1
        self.partial: Partial | None = None
        self.progress = Progress(started=asyncio.get_running_loop().time())
        self._owner = owner
        self._network = owner.network
        self._context = owner.context
        self._manifest_sha1 = manifest
        self._channel = channel
        self._waiters = 0
        self._parts: Counter[tuple[int, int | None]] = Counter()
        self.joinable = True
        self._whole = 0
        self._plan: Plan | None = None
        self._write_lock = asyncio.Lock()
        self._syncing: asyncio.Task[None] | None = None
        self._advanced = asyncio.Event()
        self._wanted = asyncio.Event()
        self._last_progress = self.progress.started
        self._banned: dict[str, KacheryError] = {}
        self._failures: dict[str, int] = {}
        self._prepared_by = ""
        self._doubtful = False
        self._one_source = False
        self._used_channels: set[bytes] = set()
        self._active: set[str] = set()
        self.task = asyncio.create_task(self._run(), name=f"download {sha1[:8]}")

    def serves(self, channel: bytes | None, manifest: str | None) -> bool:
        """Whether a new caller can share this download."""
        return self._channel in (None, channel) and manifest in (None, self._manifest_sha1)

    async def wait(
        self,
        part: tuple[int, int | None] | None,
        on_progress: Callable[[dict[str, Any]], None] | None,
    ) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        told = loop.time()
        while not self.task.done():
            if part is not None and self._has(part):
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
        return self.progress.plain(loop.time())

    @contextlib.asynccontextmanager
    async def waiting(self, part: tuple[int, int | None] | None) -> AsyncIterator[None]:
        """Be one of those for whom the download goes on; the last to leave ends it."""
        self._waiters += 1
        if part is None:
            self._whole += 1
        else:
            self._parts[part] += 1
        self._replan()
        try:
            yield
        finally:
            self._waiters -= 1
            if part is None:
                self._whole -= 1
            else:
                self._parts[part] -= 1
            if not self._waiters and not self.task.done():
                self.joinable = False
                self.task.cancel()
                await asyncio.shield(asyncio.wait([self.task]))

    def is_on(self, channel: bytes) -> bool:
        """Whether its bytes come from this channel alone."""
        return self._used_channels == {channel}

    async def read(self, start: int, stop: int) -> bytes:
        """Verified bytes of a part that was waited for; call it inside :meth:`waiting`.

        Raises:
            NotFound: they went away again (the whole turned out to be wrong, say).
        """
        stop = min(stop, self.progress.size)
        if start >= stop:
            return b""
        async with self._write_lock:  # not while the partial becomes the blob
            data = await self._context.workers.disk(self._read, start, stop)
        if data is None:
            raise NotFound(what=f"sha1://{self.sha1}", detail="it went away while it was read")
        return data

    def _read(self, start: int, stop: int) -> bytes | None:
        blob = self._context.store.find(self.sha1)
        if blob is not None:
            return self._context.store.read(blob, start, stop - start)
        if self.partial is None:
            return None
        first = start // BLOCK * BLOCK
        last = min(self.partial.size, -(-stop // BLOCK) * BLOCK)
        data = self.partial.read_verified(first, last)
        return None if data is None else data[start - first : stop - first]

    def _has(self, part: tuple[int, int | None]) -> bool:
        if self.partial is None or self._plan is None or self.partial.kind == "whole":
            return False  # without a manifest even the size is only somebody's word
        start, stop = part[0], self.partial.size if part[1] is None else part[1]
        return start >= self.partial.size or self.partial.have(start, min(stop, self.partial.size))

    def _replan(self) -> None:
        if self.partial is None or self._plan is None:
            return
        size = self.partial.size
        missing = self.partial.missing()
        if not self._whole and self.partial.kind == "tree":
            wanted = []
            for start, stop in +self._parts:
                if start >= size:
                    continue  # nothing lies there, not even the end of the last block
                first = start // BLOCK * BLOCK
                last = min(size, -(-(size if stop is None else stop) // BLOCK) * BLOCK)
                wanted += intersect(missing, first, last)
            missing = wanted
        self._plan.set_missing(missing)
        if self._plan.free:
            self._wanted.set()
        else:
            self._wanted.clear()

    # --- the work ----------------------------------------------------------------------------

    async def _run(self) -> None:
        async with self._owner._slots:
            try:
                await self._fetch()
            finally:
                if self._syncing is not None:
                    with contextlib.suppress(KacheryError, asyncio.CancelledError):
                        await asyncio.shield(self._syncing)
                if self.partial is not None:
                    async with self._write_lock:
                        await asyncio.shield(self._context.workers.disk(self.partial.close))

    async def _fetch(self) -> None:
        loop = asyncio.get_running_loop()
        self._last_progress = loop.time()
        found = await self._owner.lookup.find(self.sha1, self._channel)
        if not found.holders:
            raise self._owner.lookup.not_found(self.sha1, found)
        last_error: KacheryError | None = None
        while True:
            holders = [h for h in found.holders if h.node not in self._banned]
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
                last_error = next(iter(self._banned.values()), last_error)
            if isinstance(last_error, AccessDenied | NotFound) and self.partial is None:
                raise last_error
            if all(h.node in self._banned for h in found.holders) and self._banned:
                raise next(iter(self._banned.values()))
            if loop.time() - self._last_progress > STALL_SECONDS:
                sources = ", ".join(sorted(h.label or h.node[:8] for h in found.holders))
                stalled = Stalled(
                    what=f"Loading sha1://{self.sha1}", seconds=STALL_SECONDS, sources=sources
                )
                raise stalled from last_error
            await asyncio.sleep(_RETRY_SECONDS)
            found = await self._look_again(found)

    async def _look_again(self, before: Found) -> Found:
        try:
            found = await self._owner.lookup.find(self.sha1, self._channel)
        except KacheryError:
            return before
        return found if found.holders else before

    async def _from(self, holders: list[Holder]) -> bool:
        """Fetch from these, best first. True when everything that was wanted is there."""
        if self.partial is None:
            await self._prepare(rank(self._scored(holders)))
        if self.partial is None:  # it was small and came with the answer
            return True
        assert self._plan is not None
        while True:
            self._replan()
            if not self.partial.missing(1):
                await self._finish()
                return True
            if self._plan.free:
                await self._drain_all(self._sources(holders))
                self._replan()
                if self._plan.free:
                    await self._doubt()
                    return False
            else:
                # The parts that were asked for are there. Whoever waited reads them now; the last
                # to leave ends the download, and somebody may yet want more.
                self._tell()
                await self._wanted.wait()
                self._last_progress = asyncio.get_running_loop().time()

    def _sources(self, holders: list[Holder]) -> list[Holder]:
        ranked = rank(self._scored(holders))
        if self._one_source:
            return [h for h in ranked if h.node == self._prepared_by] or ranked[:1]
        return ranked[:MAX_SOURCES]

    async def _doubt(self) -> None:
        """Begin anew if the size, which one source alone has told, may be what the others refuse."""
        if not self._doubtful or self.partial is None:
            return
        self._doubtful = False
        self._failures[self._prepared_by] = self._failures.get(self._prepared_by, 0) + 1
        async with self._write_lock:
            await self._context.workers.disk(self.partial.discard)
            self.partial = None
        self.progress.sources.clear()

    async def _drain_all(self, sources: list[Holder]) -> None:
        tasks = [asyncio.create_task(self._drain(source, len(sources))) for source in sources]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _scored(self, holders: list[Holder]) -> list[Holder]:
        return [
            Holder(
                h.node,
                h.channel,
                linked=h.linked,
                direct=h.direct,
                failures=self._failures.get(h.node, 0),
                label=h.label,
                urls=h.urls,
                rtt=h.rtt,
            )
            for h in holders
        ]

    async def _link(self, holder: Holder) -> Link:
        relays = self._owner.lookup.relays.get((holder.node, holder.channel), set())
        return await self._network.reach(
            holder.node, holder.channel, urls=holder.urls, relays=relays
        )

    async def _prepare(self, holders: list[Holder]) -> None:
        """Learn the size, and the manifest if the URI names one; make the partial."""
        errors: list[KacheryError] = []
        for holder in holders:
            try:
                await self._prepare_from(holder)
                return
            except LocalError:
                raise
            except KacheryError as error:
                errors.append(error)
                self._blame(holder, error)
        # What says most about the cause: a refusal, then bad data, then a broken road.
        for kind in (AccessDenied, CorruptContent, NotFound, KacheryError):
            for failure in errors:
                if isinstance(failure, kind):
                    raise failure

    def _blame(self, holder: Holder, error: KacheryError) -> None:
        self._failures[holder.node] = self._failures.get(holder.node, 0) + 1
        if isinstance(error, CorruptContent | ProtocolViolation | AccessDenied):
            self._banned[holder.node] = error

    async def _prepare_from(self, holder: Holder) -> None:
        link = await self._link(holder)
        info = await self._open(link, holder, self.sha1)
        if info.inline is not None:
            await self._take_inline(link, holder, info)
            return
        manifest = None
        if self._manifest_sha1 is not None:
            manifest = await self._manifest(link, holder)
        size = manifest.size if manifest is not None else info.size
        if info.size != size:
            raise CorruptContent(what=f"The size of sha1://{self.sha1}", source=_name(holder))
        self._used_channels.add(holder.channel)
        self._prepared_by = holder.node
        self.partial = await self._context.workers.disk(
            Partial.open, self._context.store, self.sha1, size, manifest
        )
        units = {"tree": BLOCK, "chunks": MANIFEST_CHUNK, "whole": max(size, 1)}
        self._plan = Plan(size, units[self.partial.kind])
        self.progress.size = size
        self.progress.verified = self.partial.verified_bytes
        self._progressed()
        self._replan()

    async def _open(self, link: Link, holder: Holder, sha1: str) -> FileInfo:
        answer = await link.request(
            FILE_OPEN, {"channel": holder.channel, "sha1": bytes.fromhex(sha1)}
        )
        info = codec.convert(FileInfo, answer)
        too_long = info.inline is not None and len(info.inline) > INLINE_FILE
        if not 0 <= info.size <= MAX_FILE or too_long:
            raise ProtocolViolation(reason=f"a file of {info.size} bytes")
        return info

    async def _take_inline(self, link: Link, holder: Holder, info: FileInfo) -> None:
        data = info.inline or b""
        if hashlib.sha1(data).hexdigest() != self.sha1:
            raise CorruptContent(what=f"sha1://{self.sha1}", source=_name(holder))
        self.progress.size = self.progress.verified = self.progress.fetched = len(data)
        self._source(link, holder, len(data))
        self._used_channels.add(holder.channel)
        await self._context.workers.disk(self._store_small, self.sha1, data, holder.channel)
        self._owner.availability.provide(self.sha1)

    def _store_small(self, sha1: str, data: bytes, channel: bytes) -> None:
        # Before the blob is there: whatever happens, it must not look as if it was stored here.
        if self._context.store.find(sha1) is None:
            self._context.state.add_origin(sha1, channel.hex())
        self._context.store.store_bytes(data)

    async def _manifest(self, link: Link, holder: Holder) -> Manifest:
        sha1 = self._manifest_sha1
        assert sha1 is not None
        data = await self._context.workers.disk(self._local_manifest, sha1)
        if data is None:
            data = await self._small(link, holder, sha1)
            if hashlib.sha1(data).hexdigest() != sha1:
                raise CorruptContent(what=f"The manifest sha1://{sha1}", source=_name(holder))
            await self._context.workers.disk(self._store_small, sha1, data, holder.channel)
            self._owner.availability.provide(sha1)
        manifest = Manifest.parse(data)
        if manifest.sha1 != self.sha1:
            raise BadInput(
                what=f"manifest {sha1}", reason=f"it is of sha1://{manifest.sha1}, another file"
            )
        return manifest

    def _local_manifest(self, sha1: str) -> bytes | None:
        blob = self._context.store.find(sha1)
        if blob is None or blob.size > MAX_MANIFEST:
            return None
        data = self._context.store.read(blob, 0, blob.size)
        return data if hashlib.sha1(data).hexdigest() == sha1 else None

    async def _small(self, link: Link, holder: Holder, sha1: str) -> bytes:
        """A file that fits in memory, unverified."""
        info = await self._open(link, holder, sha1)
        if info.inline is not None:
            return info.inline
        if info.size > MAX_MANIFEST:
            raise ProtocolViolation(reason=f"a manifest of {info.size} bytes")
        data = bytearray()
        stream = link.open(FILE_READ, _read_params(holder.channel, sha1, 0, info.size, False))
        try:
            while (item := await self._receive(stream)) is not None:
                _, body, cost = item
                data += await stream.open_body(body)
                stream.done(cost)
                if len(data) > info.size:
                    raise ProtocolViolation(reason="more bytes than asked for")
        finally:
            stream.end()
        return bytes(data)

    async def _receive(self, stream: Any) -> Any:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                return await stream.receive()
        except TimeoutError as error:
            raise LinkClosed(peer=stream.link.peer[:8], reason="it sent nothing") from error

    async def _drain(self, holder: Holder, sources: int) -> None:
        """Fetch segments from one source until nothing is left or it fails."""
        assert self._plan is not None
        try:
            link = await self._link(holder)
            while (taken := self._plan.take(sources)) is not None:
                await self._segment(link, holder, *taken)
        except LocalError:
            raise
        except NotFound:
            # A source that is itself still downloading: others go on, it may have more later.
            self._failures[holder.node] = self._failures.get(holder.node, 0) + 1
        except KacheryError as error:
            self._blame(holder, error)
            if self.partial is not None and self.partial.kind == "whole":
                self._doubtful |= (
                    isinstance(error, RemoteError) and holder.node != self._prepared_by
                )
            log.info("source %s of %s failed: %s", _name(holder), self.sha1[:8], error)
            if not isinstance(error, TransportError):
                self._context.warn(f"{_name(holder)}: {error}")

    async def _segment(
        self, link: Link, holder: Holder, ticket: int, wanted: tuple[int, int]
    ) -> None:
        assert self._plan is not None
        assert self.partial is not None
        start, stop = wanted
        proofs = self.partial.kind == "tree"
        params = _read_params(holder.channel, self.sha1, start, stop, proofs)
        stream = link.open(FILE_READ, params)
        writes: set[asyncio.Task[None]] = set()
        self._used_channels.add(holder.channel)
        try:
            position = start
            while position < stop:
                item = await self._receive(stream)
                if item is None:
                    raise ProtocolViolation(reason="fewer bytes than asked for")
                meta, body, cost = item
                piece = codec.convert(Piece, meta)
                if not isinstance(body, SealedBody):
                    raise ProtocolViolation(reason="a piece without a body")
                if piece.offset != position or not 0 < len(body) <= stop - position:
                    raise ProtocolViolation(reason="bytes that were not asked for")
                position += len(body)
                while len(writes) >= _WRITES_AHEAD:
                    done, _ = await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                    writes -= done
                write = self._write(stream, link, holder, ticket, piece, body, cost)
                writes.add(asyncio.create_task(write))
            for task in writes:
                await task
        finally:
            stream.end()
            # What is being written is verified or not; either way the thread must be let finish.
            if writes:
                await asyncio.wait(writes)
                for task in writes:
                    if not task.cancelled():
                        task.exception()
            self._plan.give_back(ticket)

    async def _write(
        self,
        stream: Any,
        link: Link,
        holder: Holder,
        ticket: int,
        piece: Piece,
        body: SealedBody,
        cost: int,
    ) -> None:
        assert self._plan is not None
        assert self.partial is not None
        partial = self.partial

        def work() -> None:
            # Decrypt, verify and write in one visit to a worker: each visit costs the loop time.
            data = body.open()
            if partial.kind == "tree":
                partial.write_blocks(piece.offset, data, piece.proof, _name(holder))
            else:
                partial.append(piece.offset, data, _name(holder))

        try:
            async with self._write_lock:
                await self._context.workers.disk(work)
        except ProtocolViolation as error:
            link.close(error)
            raise
        size = len(body)
        self._plan.advance(ticket, piece.offset + size)
        stream.done(cost)
        self._source(link, holder, size)
        self.progress.fetched += size
        self.progress.verified = partial.verified_bytes
        self._progressed()
        self._sync_if_due(partial)

    def _sync_if_due(self, partial: Partial) -> None:
        if partial.sync_due() and (self._syncing is None or self._syncing.done()):
            self._syncing = self._network.spawn(
                self._context.workers.disk(partial.sync), name="sync partial"
            )

    def _source(self, link: Link, holder: Holder, size: int) -> None:
        entry = self.progress.sources.get(holder.node)
        if entry is None:
            entry = {"node": holder.node, "label": holder.label, "via": self._via(link), "bytes": 0}
            self.progress.sources[holder.node] = entry
        entry["bytes"] += size

    def _via(self, link: Link) -> str | None:
        if link.via is None:
            return None
        for other in self._network.links:
            if other.peer == link.via and other.hello is not None and other.hello.label:
                return other.hello.label
        return link.via[:8]

    def _progressed(self) -> None:
        self._last_progress = asyncio.get_running_loop().time()
        self._tell()

    def _tell(self) -> None:
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def _finish(self) -> None:
        assert self.partial is not None
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        async with self._write_lock:
            try:
                await self._context.workers.disk(self._complete, self.partial)
            except CorruptContent as error:
                # Every part fitted what was asked for, and yet the whole is wrong. Without a tree
                # nobody can be blamed but one who gave all of it: so the next try has one source.
                size, self.partial = self.partial.size, None
                self._one_source = True
                for node, source in self.progress.sources.items():
                    self._failures[node] = self._failures.get(node, 0) + 1
                    if source["bytes"] >= size:
                        self._banned[node] = error
                self.progress.sources.clear()
                raise
        self.progress.verified = self.progress.size
        self._owner.availability.provide(self.sha1)

    def _complete(self, partial: Partial) -> None:
        if self._context.store.find(self.sha1) is None:
            for channel in self._used_channels:
                self._context.state.add_origin(self.sha1, channel.hex())
        partial.finish()


def _name(holder: Holder) -> str:
    return f"{holder.label or 'node'} ({holder.node[:8]})"


def _read_params(channel: bytes, sha1: str, start: int, stop: int, proofs: bool) -> dict[str, Any]:
    return {
        "channel": channel,
        "sha1": bytes.fromhex(sha1),
        "start": start,
        "stop": stop,
        "proofs": proofs,
    }
