"""Fetches files: one :class:`~kachery_p2p.node.files.download.Download` per content, however many
callers wait for it, and so many at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.gossip.watches import Watches
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.protocol.errors import KacheryError, StorageLimitReached
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    MAX_DOWNLOADS,
    MAX_OPEN_FILES,
    OPEN_SECONDS,
    QUICK_BYTES,
)

from .content import Content, Part
from .download import Download
from .finder import Finder
from .origin_source import OriginSources
from .quick import Room
from .sources import Sources
from .unkept import Memory


class Downloader:
    """``provide`` is called with the hash of each file that has come to be here, ``offer`` with that of
    one of which others on a channel can have a part, or (None) no longer."""

    def __init__(
        self,
        network: Network,
        reach: Reach,
        lookup: Lookup,
        watches: Watches,
        backing: Backing,
        *,
        provide: Callable[[str], None],
        offer: Callable[[str, bytes | None], None],
    ) -> None:
        self.downloads: dict[str, Download] = {}
        self.on_gave: Callable[[Holder], object] | None = None
        """Is told of a source that gives something."""
        self._network = network
        self._reach = reach
        self._lookup = lookup
        self._watches = watches
        self._backing = backing
        self._provide = provide
        self._offer = offer
        self.memory = Memory()
        """Of what the disk has no room for."""
        self._slots = asyncio.Semaphore(MAX_DOWNLOADS)
        self._without_room = asyncio.Lock()
        """One after another tries again: so they do not take the room from each other."""
        self._room = Room()
        self._ready: OrderedDict[Download, asyncio.TimerHandle] = OrderedDict()
        """What stays open for the next reader; the one read least recently first."""

    def part(self, sha1: str, channel: bytes) -> Content | None:
        """What there is of a download in progress on a channel, to serve from on that channel."""
        download = self.downloads.get(sha1)
        return download.part_on(channel) if download is not None else None

    def active(self) -> dict[str, Download]:
        """Those of which somebody wants bytes now, by hash."""
        return {sha1: each for sha1, each in self.downloads.items() if each.wanted}

    async def load(
        self,
        sha1: str,
        manifest: str | None = None,
        *,
        channel: bytes | None = None,
        label: str = "",
        near_only: bool = False,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Fetch a file whole into the storage. Cancelling is safe: what was verified is kept.
        ``label``: what the caller calls it; ``near_only``: from the node's own origins alone.

        Where the limit leaves no room because of what others fetch at this moment, it waits for them:
        what has come may go for it.

        Returns:
            plain values: size, verified, fetched (bytes from the network), seconds, sources.

        Raises:
            NotFound, AccessDenied, CorruptContent, Stalled, Unreachable, StorageFull, ...
        """

        async def load() -> dict[str, Any]:
            download = await self._get(sha1, manifest, channel, label, near_only)
            async with download.waiting(None):
                return await download.wait(None, on_progress)

        try:
            return await load()
        except StorageLimitReached as error:
            if error.fields["needed"] > error.fields["limit"] or not self._others(sha1):
                raise
        async with self._without_room:
            while True:
                others = self._others(sha1)  # before: one of them may end meanwhile
                try:
                    return await load()
                except StorageLimitReached:
                    if not others:
                        raise
                await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)

    def _others(self, sha1: str) -> list[asyncio.Task[None]]:
        """Downloads of other contents, after one of which there may be room."""
        found = (each.task for name, each in self.active().items() if name != sha1)
        return [task for task in found if not task.done()]

    @contextlib.asynccontextmanager
    async def hold(
        self,
        sha1: str,
        manifest: str | None,
        channel: bytes | None,
        parts: Sequence[Part],
        *,
        label: str = "",
        near_only: bool = False,
    ) -> AsyncIterator[Download]:
        """Have byte ranges fetched, and only what they take; without a manifest's tree no range can be
        verified by itself, so that is the whole file.

        Yields the download, to :meth:`Download.wait` for each part and :meth:`Download.read` it. It
        stays ready for more (``OPEN_SECONDS``).
        """
        download = await self._get(sha1, manifest, channel, label, near_only)
        async with download.waiting(parts):
            self._keep(download)
            yield download

    def opened(self, sha1: str, manifest: str | None, channel: bytes | None) -> Download | None:
        """A download that a caller can share now, without waiting for anything."""
        download = self.downloads.get(sha1)
        fits = download is not None and download.serves(channel, manifest)
        return download if fits else None

    @contextlib.asynccontextmanager
    async def at_once(
        self, sha1: str, manifest: str | None, channel: bytes | None, parts: Sequence[Part]
    ) -> AsyncIterator[tuple[int, bytes] | None]:
        """Byte ranges of a file that is ready, in one request; with the size of the file. None: not in
        this way, so :meth:`hold` it. What they take of memory is bounded until the context ends."""
        download = self.opened(sha1, manifest, channel)
        size = 0 if download is None else download.progress.size
        ranges = [(start, size if stop is None else min(stop, size)) for start, stop in parts]
        wanted = sum(max(0, stop - start) for start, stop in ranges)
        if download is None or not 0 < wanted <= QUICK_BYTES or not self._room.take(wanted):
            yield None
            return
        try:
            self._keep(download)
            data = await download.read_quickly([each for each in ranges if each[0] < each[1]])
            yield None if data is None else (size, data)
        finally:
            self._room.give(wanted)

    async def _get(
        self,
        sha1: str,
        manifest: str | None,
        channel: bytes | None,
        label: str = "",
        near_only: bool = False,
    ) -> Download:
        await self.settle(sha1, manifest, channel)
        download = self.downloads.get(sha1)
        if download is None:
            download = self.downloads[sha1] = self._begin(sha1, manifest, channel, label)
            download.finder.near_only = near_only
            mine = download
            download.task.add_done_callback(lambda _: self._forget(sha1, mine))
        download.progress.name = download.progress.name or label
        download.finder.near_only &= near_only
        return download

    async def settle(self, sha1: str, manifest: str | None, channel: bytes | None) -> None:
        """Wait as long as somebody fetches it on another channel or by another manifest: what comes
        there is not for who wants it from this channel."""
        while True:
            download = self.downloads.get(sha1)
            if download is None or download.serves(channel, manifest):
                return
            self._let_go(download)
            await asyncio.wait([download.task])
            self._forget(sha1, download)

    def _begin(
        self, sha1: str, manifest: str | None, channel: bytes | None, label: str
    ) -> Download:
        content = Content(self._network.context, sha1, self._network.spawn, self.memory)
        content.label = label
        near = OriginSources(self._backing, self._network.context, sha1)
        sources = Sources(self._network, self._reach, self._lookup, near, sha1)
        download = Download(
            content,
            sources,
            Finder(self._lookup, self._watches, near, sources, sha1, channel),
            manifest=manifest,
            channel=channel,
            provide=self._provide,
            offer=self._offer,
            slots=self._slots,
        )
        download.progress.gave = self.on_gave
        return download

    def _keep(self, download: Download) -> None:
        """Have it ready for the next reader, for a while."""
        loop = asyncio.get_running_loop()
        if download in self._ready:
            self._ready[download].cancel()
            self._ready.move_to_end(download)
        else:
            download.stay()
        self._ready[download] = loop.call_later(OPEN_SECONDS, self._let_go, download)
        while len(self._ready) > MAX_OPEN_FILES:
            self._let_go(next(iter(self._ready)))

    def _let_go(self, download: Download) -> None:
        timer = self._ready.pop(download, None)
        if timer is not None:
            timer.cancel()
            download.leave()

    def _forget(self, sha1: str, download: Download) -> None:
        if self.downloads.get(sha1) is download:
            del self.downloads[sha1]
        self._let_go(download)
        if not download.task.cancelled():
            download.task.exception()  # its waiters have it; nobody else needs to hear

    async def stop(self, sha1: str) -> None:
        """Nobody is to have it from here any more: end its download, whoever waits for it."""
        download = self.downloads.get(sha1)
        if download is not None:
            download.task.cancel()
            await asyncio.wait([download.task])
            self._forget(sha1, download)

    async def close(self) -> None:
        for download in list(self.downloads.values()):
            download.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, KacheryError):
                await download.task
