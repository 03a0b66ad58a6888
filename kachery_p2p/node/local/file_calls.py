"""The calls of the local API about files: loading, finding, checking. Storing is in
:mod:`.storage_calls`.

===================  ====================================================  ============================
method               parameters                                            result
===================  ====================================================  ============================
``load``             sha1, manifest?, channel?, only?, chunk_of?, local?,  size, seconds, sources
                     label?; sends progress
``load_bytes``       sha1, manifest?, ranges, channel?, only?; sends chunks  size, sources?
                     and, before them, progress with their size
``here``             sha1, channel                                         here
``find``             sha1, channel?                                        local, holders, ...
``check``            sha1, again?; sends progress                          good
===================  ====================================================  ============================

``label`` is remembered here, for listings.

``only``: what is here counts if it may go out on the channel, and not if it is bound to others; a task
that runs for a member of a channel loads so. ``here`` says whether it is here in that sense.

``chunk_of`` (sha1, start, end): these bytes of that file will do, if they have the hash. ``local``: of
what is not here, look only for its parts here, or for the file that it is a part of.

``check`` compares what is here with its hash (:mod:`kachery_p2p.storage.files.checking`), and all of it
``again`` if the client found something wrong. What is not right is put aside and withdrawn.

No parameter is a path that the node would open on the caller's behalf: files come as descriptors, and
``link`` checks that its descriptor is the file at its path.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from kachery_p2p.node.files.content import Part
from kachery_p2p.node.files.download import Download
from kachery_p2p.node.files.reading import Reading
from kachery_p2p.node.files.reading import cut as pieces_of
from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.node.workers import open_on_disk
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    KacheryError,
    NotFound,
    to_wire,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import LOCAL_PIECE, MAX_RANGES
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.checking import CheckedReader, check, read_small
from kachery_p2p.storage.files.chunks import assemble, cut

from .call_table import CallTable
from .live_call import LiveCall, Watch, watched
from .services import Services


class _Content(msgspec.Struct, frozen=True):
    sha1: str
    manifest: str | None = None
    channel: str | None = None
    ranges: tuple[Part, ...] = ((0, None),)
    only: bool = False
    chunk_of: tuple[str, int, int] | None = None
    local: bool = False
    label: str = ""

    def __post_init__(self) -> None:
        whole = None if self.chunk_of is None else self.chunk_of[0]
        for text in (self.sha1, self.manifest, whole):
            if text is not None and (len(text) != 40 or set(text) - set("0123456789abcdef")):
                raise ValueError("not 40 lower-case hex digits")


class _Check(msgspec.Struct, frozen=True):
    sha1: str
    again: bool = False


class FileCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._checks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Large content that is being compared, by hash."""

    def calls(self) -> CallTable:
        return {
            "load": (_Content, self._load),
            "load_bytes": (_Content, self._load_bytes),
            "here": (_Content, self._is_here),
            "find": (_Content, self._find),
            "check": (_Check, self._check),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._services.context.book.resolve(name)

    # --- loading -----------------------------------------------------------------------------

    async def _load(self, params: _Content, live: LiveCall) -> Any:
        channel = self._channel(params.channel)
        blob = await self._here(params, channel)
        if blob is None:
            blob = await self._cut(params, channel)
        if blob is None and params.local:
            blob = await self._assembled(params)
        if blob is not None:
            touch = self._services.context.inventory.touch
            await self._services.context.workers.disk(touch, params.sha1, params.label)
            return {"size": blob.size, "fetched": 0, "seconds": 0.0, "sources": []}
        asked = await self._ask(params, channel)
        if asked is not None:
            return asked
        load = self._services.downloader.load
        try:
            return await load(
                params.sha1,
                params.manifest,
                channel=channel,
                label=params.label,
                on_progress=live.progress,
            )
        except NotFound:
            if params.chunk_of is None:
                raise
            loaded = await load(params.chunk_of[0], channel=channel, on_progress=live.progress)
            if await self._cut(params, channel) is None:
                raise
            return loaded

    async def _ask(self, params: _Content, channel: bytes | None) -> dict[str, Any] | None:
        """A small file, of who gave the last ones; see :mod:`kachery_p2p.node.batches.asker`."""
        if params.manifest is not None or params.sha1 in self._services.downloader.downloads:
            return None
        return await self._services.asker.fetch(params.sha1, channel, params.label)

    async def _cut(self, params: _Content, channel: bytes | None) -> Blob | None:
        """A chunk of a file that is here."""
        if params.chunk_of is None:
            return None
        whole, start, end = params.chunk_of
        of = msgspec.structs.replace(params, sha1=whole, chunk_of=None)
        store, bindings = self._services.store, self._services.context.bindings

        def work() -> Blob | None:
            if self._find_for(of, channel) is None:
                return None
            self._services.context.inventory.storing([params.sha1], params.label)
            made = cut(store, params.sha1, whole, start, end, bindings.arriving_like(whole))
            return store.find(params.sha1) if made else None

        blob = await self._services.context.workers.disk(work)
        if blob is not None:
            self._services.announcer.provide(file_key(params.sha1))
        return blob

    async def _assembled(self, params: _Content) -> Blob:
        """A file of whose chunks all are here. Raises NotFound."""
        name = params.manifest
        store, free = self._services.store, self._services.context.bindings.is_free
        disk = self._services.context.workers.disk
        if name is not None and await disk(assemble, store, params.sha1, name, free):
            self._services.announcer.provide(file_key(params.sha1))
            blob = await disk(store.find, params.sha1)
            if blob is not None:
                return blob
        raise NotFound(what=f"sha1://{params.sha1}", detail="only this node was to be looked at")

    async def _here(self, params: _Content, channel: bytes | None) -> Blob | None:
        """What is here of it for this caller, once nobody fetches it for others."""
        await self._settled(params, channel)
        return await self._services.context.workers.disk(self._find_for, params, channel)

    async def _settled(self, params: _Content, channel: bytes | None) -> None:
        if params.only and channel is None:
            raise BadInput(what="only", reason="it needs a channel")
        await self._services.downloader.settle(params.sha1, params.manifest, channel)

    def _find_for(self, params: _Content, channel: bytes | None) -> Blob | None:
        blob = self._services.store.find(params.sha1)
        if blob is None:
            inventory = self._services.context.inventory
            if inventory.thing(params.sha1) is not None:
                inventory.look(params.sha1)  # somebody may have taken it away
        if blob is None or not params.only or channel is None:
            return blob
        return blob if self._services.context.may_leave(params.sha1, channel) else None

    async def _is_here(self, params: _Content, live: LiveCall) -> Any:
        only = msgspec.structs.replace(params, only=True)
        channel = self._channel(params.channel)
        if channel is None:
            raise BadInput(what="here", reason="it needs a channel")
        blob = await self._services.context.workers.disk(self._find_for, only, channel)
        return {"here": blob is not None}

    async def _load_bytes(self, params: _Content, live: LiveCall) -> Any:
        """Send these ranges verified, fetching no more of the file than that takes."""
        if not 1 <= len(params.ranges) <= MAX_RANGES:
            raise BadInput(what="ranges", reason=f"{len(params.ranges)}, not 1 to {MAX_RANGES}")
        for start, stop in params.ranges:
            if start < 0 or (stop is not None and stop < start):
                raise BadInput(what="range", reason=f"{start} to {stop}")
        channel = self._channel(params.channel)
        downloader = self._services.downloader
        if not params.only:
            named = params.sha1, params.manifest, channel, params.ranges
            async with downloader.at_once(*named) as found:
                if found is not None:
                    size, data = found
                    await live.send_all(data)
                    return {"size": size}
        if downloader.opened(params.sha1, params.manifest, channel) is None:
            sent = await self._send_here(params, channel, live)
            if sent is None and await self._ask(params, channel) is not None:
                sent = await self._send_here(params, channel, live)
            if sent is not None:
                return sent
        return await self._send_fetched(params, channel, params.ranges, live)

    async def _send_here(self, params: _Content, channel: bytes | None, live: LiveCall) -> Any:
        """Send what is here, if it is; None if it is not."""
        await self._settled(params, channel)
        disk = self._services.context.workers.disk
        blob: Blob | None = None

        async def read() -> bytes | None:
            nonlocal blob
            blob, data = await disk(self._read_small, params, channel)
            return data

        left = deque(params.ranges)
        try:
            if not await live.send_piece(read, last=True) and blob is not None:
                await self._send_stored(blob, left, live)
        except CorruptContent as error:
            await self._put_aside(params.sha1, blob)
            try:
                return await self._send_fetched(params, channel, left, live)
            except NotFound:
                raise error from None
        return None if blob is None else {"size": blob.size}

    def _read_small(
        self, params: _Content, channel: bytes | None
    ) -> tuple[Blob | None, bytes | None]:
        """What is here of it, and of a small file what is asked for, compared: all that in one visit to
        a worker. Raises CorruptContent: it is to be put aside."""
        blob = self._find_for(params, channel)
        if blob is None or blob.size > LOCAL_PIECE:
            return blob, None
        pieces = list(pieces_of(params.ranges, blob.size))
        if sum(stop - start for start, stop in pieces) > LOCAL_PIECE:  # some of it several times
            return blob, None
        store = self._services.store
        try:
            with store.held(blob) as held:
                content = read_small(store, held)
        except NotFound:  # it has just gone
            return None, None
        self._services.context.inventory.touch(params.sha1, params.label)
        return blob, b"".join(content[start:stop] for start, stop in pieces)

    async def _send_fetched(
        self, params: _Content, channel: bytes | None, ranges: Iterable[Part], live: LiveCall
    ) -> Any:
        named = (params.sha1, params.manifest, channel, ranges)
        reading = Reading(
            self._services.downloader, *named, label=params.label, on_progress=live.progress
        )
        last: Download | None = None
        async with contextlib.aclosing(reading.pieces()) as pieces:
            async for download, some in pieces:
                last = download
                if params.only and channel is not None and not await download.may_leave(channel):
                    raise NotFound(
                        what=f"sha1://{params.sha1}", detail="parts of it came by another channel"
                    )
                await live.send_piece(partial(download.read, some))
        sources = [] if last is None else list(last.progress.sources.values())
        return {"size": reading.size, "sources": sources}

    async def _send_stored(self, blob: Blob, left: deque[Part], live: LiveCall) -> None:
        """Send what is here, checked; what is ``left`` becomes less with each piece."""
        workers, store = self._services.context.workers, self._services.store
        with store.held(blob) as blob:
            reader = await open_on_disk(workers, lambda gone: CheckedReader(store, blob, gone))
            try:
                # It has the right size, now that it is open.
                pieces = list(pieces_of(left, blob.size))
                left.clear()
                left.extend(pieces)
                for start, stop in pieces:
                    await live.send_piece(partial(workers.disk, reader.read, start, stop))
                    left.popleft()
            finally:
                await asyncio.shield(workers.disk(reader.close))
        await workers.disk(self._services.context.inventory.touch, blob.sha1)

    async def _find(self, params: _Content, live: LiveCall) -> Any:
        services = self._services
        blob = await services.context.workers.disk(services.store.find, params.sha1)
        content = file_key(params.sha1)
        found, failure = Found(), None
        try:
            found = await services.lookup.find(content, self._channel(params.channel))
        except KacheryError as error:
            failure = error
        if failure is None and not found.holders and found.errors:
            reason = services.lookup.not_found(content, found)
            failure = None if isinstance(reason, NotFound) else reason
        code, fields = ("", {}) if failure is None else to_wire(failure)
        return {
            "local": os.fsencode(blob.path) if blob else None,
            "holders": [
                {
                    "node": holder.node,
                    "label": holder.label,
                    "channel": services.network.name_of(holder.channel),
                    "direct": holder.direct or bool(holder.urls),
                }
                for holder in found.holders
            ],
            "detail": "" if failure is not None and not found.asked else found.detail(),
            "error": "" if failure is None else str(failure),
            "code": code,
            "fields": fields,
        }

    async def _check(self, params: _Check, live: LiveCall) -> Any:
        blob = await self._services.context.workers.disk(self._services.store.find, params.sha1)
        good = blob is not None and await self._is_good(blob, params.again, live)
        return {"good": good}

    async def put_aside_if_damaged(self, sha1: str) -> bool:
        """Compare a blob; one that is not what its name says is put aside and withdrawn."""
        disk = self._services.context.workers.disk
        blob: Blob | None = await disk(self._services.store.find, sha1)
        if blob is None:
            return False
        try:
            await disk(partial(check, self._services.store, blob, again=True))
        except CorruptContent:
            return await self._put_aside(sha1, blob)
        return False

    async def _is_good(self, blob: Blob, again: bool, live: LiveCall) -> bool:
        def work(watch: Watch) -> None:
            check(
                self._services.store,
                blob,
                again=again,
                cancelled=watch.gone.is_set,
                advanced=watch.advanced,
            )

        # Whoever comes while somebody else's is under way waits for it, and finds it done.
        lock = self._checks.setdefault(blob.sha1, asyncio.Lock())
        try:
            async with lock:
                await watched(self._services.context.workers, live, blob.size, work)
        except CorruptContent:
            await self._put_aside(blob.sha1, blob)
            return False
        except NotFound:  # it has just been put aside
            return False
        return True

    async def _put_aside(self, sha1: str, blob: Blob | None) -> bool:
        """Put aside what was found to be wrong; whether nothing right came in its place meanwhile."""
        store = self._services.store

        def work() -> bool:
            if blob is None and store.is_good(sha1):  # it was small
                return False
            store.quarantine(sha1, blob)
            return store.find(sha1) is None

        if not await self._services.context.workers.disk(work):
            return False
        self._services.announcer.withdraw(file_key(sha1))
        error = CorruptContent(what=f"sha1://{sha1}", source="this node's disk")
        self._services.context.warn(str(error))
        return True
