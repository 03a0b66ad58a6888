"""The calls of the local API: what each does, with its parameters.

========================  ====================================================  =====================
method                    parameters                                            result
========================  ====================================================  =====================
``store``                 data (bytes) | a descriptor | pieces; channel?        sha1, size, manifest
                          sends progress, with a descriptor
``link``                  a descriptor, path; sends progress                    sha1, size, manifest
``load``                  sha1, manifest?, channel?; sends progress             size, seconds, sources
``load_bytes``            sha1, manifest?, start, stop?, channel?; sends chunks  size
                          and, before them, progress with their size
``find``                  sha1, channel?                                        local, holders, ...
``damaged``               sha1: the client found it wrong on disk               quarantined
``info``                                                                        everything about it
``status``                see :mod:`.status_calls`
``get`` ``set`` ``delete``  key, value?, update?                                found, value | written
``channel.*``             see :mod:`.channel_calls` and :mod:`.invitation_calls`
``feed.*``                see :mod:`.feed_calls`
``task.*``                see :mod:`.task_calls`
``doctor.*``              see :mod:`.doctor_calls`
``stop``                                                                        (the node stops)
========================  ====================================================  =====================

A call that changes anything asks :meth:`Caller.require_write` first. No parameter is a path that the
node would open on the caller's behalf: files come as descriptors, and ``link`` checks that its
descriptor is the file at its path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from kachery_p2p.node.gossip.lookup import Found
from kachery_p2p.node.workers import open_on_disk
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    DeadlineExceeded,
    KacheryError,
    NotFound,
    to_wire,
)
from kachery_p2p.protocol.gossip import keys as things
from kachery_p2p.protocol.limits import LOCAL_PIECE, MAX_CALL_SECONDS, MAX_FILE, SEGMENT
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.writer import Stored

from .call_table import CallTable, Nothing
from .doctor_calls import DoctorCalls
from .feed_calls import FeedCalls
from .invitation_calls import InvitationCalls
from .live_call import Later, LiveCall
from .status_calls import StatusCalls
from .task_calls import TaskCalls

if TYPE_CHECKING:
    from kachery_p2p.node.node import Node


_TELL_SECONDS = 0.1
"""Between two reports of how much is stored."""


class _Store(msgspec.Struct, frozen=True):
    data: bytes | None = None
    channel: str | None = None


class _Link(msgspec.Struct, frozen=True):
    path: str


class _Content(msgspec.Struct, frozen=True):
    sha1: str
    manifest: str | None = None
    channel: str | None = None
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        for text in (self.sha1, self.manifest):
            if text is not None and (len(text) != 40 or set(text) - set("0123456789abcdef")):
                raise ValueError("not 40 lower-case hex digits")


class _Key(msgspec.Struct, frozen=True):
    key: str
    value: str = ""
    update: bool = True


class _Watch:
    """What a disk thread and the call that it works for tell one another."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.done = 0

    def advanced(self, done: int) -> None:
        self.done = done


class Calls:
    """One instance per node; a method per call."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._calls: CallTable = {
            "store": (_Store, self._store),
            "link": (_Link, self._link),
            "load": (_Content, self._load),
            "load_bytes": (_Content, self._load_bytes),
            "find": (_Content, self._find),
            "damaged": (_Content, self._damaged),
            "info": (Nothing, self._info),
            "get": (_Key, self._get),
            "set": (_Key, self._set),
            "delete": (_Key, self._delete),
            "stop": (Nothing, self._stop),
        }
        self._calls.update(node.administration.calls())
        self._calls.update(FeedCalls(node).calls())
        self._calls.update(TaskCalls(node).calls())
        self._calls.update(DoctorCalls(node).calls())
        self._calls.update(InvitationCalls(node).calls())
        self._calls.update(StatusCalls(node).calls())

    def begin(
        self, method: str, params: dict[str, Any], live: LiveCall
    ) -> Coroutine[Any, Any, Any] | Later:
        """Begin a call: what to run, or what to wait for. Either, and this, may raise KacheryError;
        cancelling is safe."""
        entry = self._calls.get(method)
        if entry is None:
            raise BadInput(
                what=f"call {method[:40]!r}",
                reason="this node does not know it; is the node older than the client?",
            )
        try:
            typed = codec.convert(entry[0], params)
        except KacheryError as error:
            raise BadInput(what=method, reason=str(error.fields.get("reason"))) from error
        return entry[1](typed, live)

    async def wait(self, method: str, begun: Coroutine[Any, Any, Any] | Later) -> Any:
        """The result of what was begun. Raises KacheryError."""
        try:
            async with asyncio.timeout(MAX_CALL_SECONDS):
                if isinstance(begun, Later):
                    return begun.finish(await begun.future)
                return await begun
        except TimeoutError as error:
            raise DeadlineExceeded(what=method, seconds=MAX_CALL_SECONDS) from error

    async def run(self, method: str, params: dict[str, Any], live: LiveCall) -> Any:
        """Do a call from beginning to end. Raises KacheryError."""
        return await self.wait(method, self.begin(method, params, live))

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._node.context.book.resolve(name)

    # --- storing -----------------------------------------------------------------------------

    async def _store(self, params: _Store, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._channel(params.channel)
        disk = self._node.context.workers.disk
        if params.data is not None:
            stored = await disk(self._keep, params.data, channel)
        elif live.descriptor is not None:
            if not stat.S_ISREG(os.fstat(live.descriptor).st_mode):
                # Whoever holds the other end of a pipe would hold a disk thread for as long.
                raise BadInput(what="store", reason="not a regular file; send its bytes in pieces")
            stored = await self._in_thread(self._store_fd, live, channel)
        else:
            stored = await self._store_pieces(live, channel)
        return self._stored(stored)

    def _stored(self, stored: Stored) -> dict[str, Any]:
        self._node.bootstraps.hurry()  # what is stored is about to be asked for
        self._node.announcer.provide(things.file(stored.sha1))
        if stored.manifest_sha1 is not None:
            self._node.announcer.provide(things.file(stored.manifest_sha1))
        return {"sha1": stored.sha1, "size": stored.size, "manifest": stored.manifest_sha1}

    def _keep(self, data: bytes, channel: bytes | None) -> Stored:
        if channel is not None:
            self._restrict(hashlib.sha1(data).hexdigest(), channel)
        stored = self._node.store.store_bytes(data)
        self._release(stored, channel)
        return stored

    def _restrict(self, sha1: str, channel: bytes) -> None:
        """Stored for one channel: it must not look free even for a moment."""
        if self._node.store.find(sha1) is None:
            self._node.state.add_origin(sha1, channel.hex())

    def _release(self, stored: Stored, channel: bytes | None) -> None:
        """What is stored here by the user is the user's to give, wherever else it came from."""
        for sha1 in (stored.sha1, stored.manifest_sha1):
            if sha1 is None:
                continue
            if channel is None:
                self._node.state.clear_origins(sha1)
            elif self._node.state.origins(sha1) or sha1 == stored.sha1:
                self._node.state.add_origin(sha1, channel.hex())

    async def _in_thread(
        self,
        work: Callable[[LiveCall, bytes | None, _Watch], Stored],
        live: LiveCall,
        channel: bytes | None,
    ) -> Stored:
        """Run long blocking work that watches for the caller's going away, and say how far it is."""
        assert live.descriptor is not None
        size = os.fstat(live.descriptor).st_size
        watch = _Watch()
        task = asyncio.ensure_future(self._node.context.workers.disk(work, live, channel, watch))
        try:
            while not (await asyncio.wait([task], timeout=_TELL_SECONDS))[0]:
                live.progress({"size": size, "done": watch.done})
            return task.result()
        except asyncio.CancelledError:
            watch.gone.set()
            await asyncio.wait([task])  # it still uses the caller's descriptor
            if not task.cancelled():
                task.exception()
            raise

    def _store_fd(self, live: LiveCall, channel: bytes | None, watch: _Watch) -> Stored:
        assert live.descriptor is not None
        stored = self._node.store.store_fd(live.descriptor, watch.gone.is_set, watch.advanced)
        self._release(stored, channel)
        return stored

    async def _store_pieces(self, live: LiveCall, channel: bytes | None) -> Stored:
        disk = self._node.context.workers.disk
        workers = self._node.context.workers
        # Who leaves while its file is being made leaves no file.
        writer = await open_on_disk(workers, lambda gone: self._node.store.begin())
        try:
            while (piece := await live.upload.next()) is not None:
                await disk(writer.write, piece)
            stored = await disk(writer.finish)
        except BaseException:
            await asyncio.shield(disk(writer.abort))
            raise
        await disk(self._release, stored, channel)
        return stored

    async def _link(self, params: _Link, live: LiveCall) -> Any:
        live.caller.require_write()
        if live.descriptor is None:
            raise BadInput(what="link", reason="no file descriptor came; is this a TCP connection?")

        def work(live: LiveCall, channel: bytes | None, watch: _Watch) -> Stored:
            assert live.descriptor is not None
            stored = self._node.store.link_fd(
                live.descriptor, Path(params.path), watch.gone.is_set, watch.advanced
            )
            self._release(stored, channel)
            return stored

        return self._stored(await self._in_thread(work, live, None))

    # --- loading -----------------------------------------------------------------------------

    async def _load(self, params: _Content, live: LiveCall) -> Any:
        blob = await self._node.context.workers.disk(self._node.store.find, params.sha1)
        if blob is not None:
            return {"size": blob.size, "fetched": 0, "seconds": 0.0, "sources": []}
        return await self._node.downloader.load(
            params.sha1,
            params.manifest,
            channel=self._channel(params.channel),
            on_progress=live.progress,
        )

    async def _load_bytes(self, params: _Content, live: LiveCall) -> Any:
        """Send [start, stop) verified, fetching no more of the file than that takes."""
        if params.start < 0 or (params.stop is not None and params.stop < params.start):
            raise BadInput(what="range", reason=f"{params.start} to {params.stop}")
        disk = self._node.context.workers.disk
        store = self._node.store
        blob = await disk(store.find, params.sha1)
        if blob is not None:
            return await self._send_range(params, live, _blob_reader(store.read, blob), blob.size)
        position = params.start
        end = MAX_FILE if params.stop is None else params.stop
        size: int | None = None
        while position < end:
            # Part by part: what is wanted may be larger than what should be ready at once.
            part = (position, min(end, position + SEGMENT))
            async with self._node.downloader.hold(
                params.sha1, params.manifest, self._channel(params.channel), part
            ) as download:
                if size is None:
                    size = download.progress.size
                    end = min(end, size)
                    live.progress({"size": max(0, end - params.start)})
                while position < min(part[1], end):
                    stop = min(part[1], end, position + LOCAL_PIECE)
                    await live.send(await download.read(position, stop))
                    position = stop
        return {"size": size}

    async def _send_range(
        self, params: _Content, live: LiveCall, read: Callable[[int, int], bytes], size: int
    ) -> Any:
        stop = size if params.stop is None else min(params.stop, size)
        for position in range(params.start, stop, LOCAL_PIECE):
            length = min(LOCAL_PIECE, stop - position)
            await live.send(await self._node.context.workers.disk(read, position, length))
        return {"size": size}

    async def _find(self, params: _Content, live: LiveCall) -> Any:
        node = self._node
        blob = await node.context.workers.disk(node.store.find, params.sha1)
        thing = things.file(params.sha1)
        found, failure = Found(), None
        try:
            found = await node.lookup.find(thing, self._channel(params.channel))
        except KacheryError as error:
            failure = error
        if failure is None and not found.holders and found.errors:
            reason = node.lookup.not_found(thing, found)
            failure = None if isinstance(reason, NotFound) else reason
        code, fields = ("", {}) if failure is None else to_wire(failure)
        return {
            "local": str(blob.path) if blob else None,
            "holders": [
                {
                    "node": holder.node,
                    "label": holder.label,
                    "channel": node.network.name_of(holder.channel),
                    "direct": holder.direct or bool(holder.urls),
                }
                for holder in found.holders
            ],
            "detail": "" if failure is not None and not found.asked else found.detail(),
            "error": "" if failure is None else str(failure),
            "code": code,
            "fields": fields,
        }

    async def _damaged(self, params: _Content, live: LiveCall) -> Any:
        """A client's hash did not fit. Believe only what we see ourselves."""
        return {"quarantined": await self.put_aside_if_damaged(params.sha1)}

    async def put_aside_if_damaged(self, sha1: str) -> bool:
        """Hash a blob; one that is not what its name says is quarantined and withdrawn."""

        def check() -> bool:
            store = self._node.store
            blob = store.find(sha1)
            if blob is None:
                return False
            digest = hashlib.sha1()
            for offset in range(0, blob.size, LOCAL_PIECE):
                digest.update(store.read(blob, offset, min(LOCAL_PIECE, blob.size - offset)))
            if digest.hexdigest() == sha1:
                return False
            store.quarantine(sha1)
            return True

        damaged: bool = await self._node.context.workers.disk(check)
        if damaged:
            self._node.announcer.withdraw(things.file(sha1))
            error = CorruptContent(what=f"sha1://{sha1}", source="this node's disk")
            self._node.context.warn(str(error))
        return damaged

    # --- the node ----------------------------------------------------------------------------

    async def _info(self, params: Nothing, live: LiveCall) -> Any:
        return self._node.administration.info()

    async def _stop(self, params: Nothing, live: LiveCall) -> Any:
        live.caller.require_write()
        asyncio.get_running_loop().call_later(0.05, self._node.stopping.set)
        return {"pid": os.getpid()}

    async def _get(self, params: _Key, live: LiveCall) -> Any:
        value = await self._node.context.workers.disk(self._node.state.get, params.key)
        return {"found": value is not None, "value": value}

    async def _set(self, params: _Key, live: LiveCall) -> Any:
        live.caller.require_write()
        written = await self._node.context.workers.disk(
            lambda: self._node.state.set(params.key, params.value, update=params.update)
        )
        return {"written": written}

    async def _delete(self, params: _Key, live: LiveCall) -> Any:
        live.caller.require_write()
        return {
            "deleted": await self._node.context.workers.disk(self._node.state.delete, params.key)
        }


def _blob_reader(
    read: Callable[[Blob, int, int], bytes], blob: Blob
) -> Callable[[int, int], bytes]:
    return lambda offset, length: read(blob, offset, length)
