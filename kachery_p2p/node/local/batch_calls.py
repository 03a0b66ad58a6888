"""The calls of the local API about many files at once.

===================  ====================================================  ============================
method               parameters                                            result
===================  ====================================================  ============================
``store_batch``      data (bytes, ...), labels?, channel?                  sha1s (20 bytes, ...)
``store_known``      stamps; channel?, linked?                             files: null, or sha1 and
                                                                           manifest?
``remember``         files: stamp, sha1, manifest?                         nothing
``load_batch``       files: sha1, manifest?; channel?, only?; sends an     nothing
                     item for each, as it comes: its place, size, error?
===================  ====================================================  ============================

A batch has ``BATCH_FILES`` at most. A stamp is :func:`~kachery_p2p.storage.file_stamps.file_stamp` of a
file of the caller's. ``store_known`` stores files that have not changed since the caller, as the same
user, had them remembered, and whose content is still here: a link to it counts if ``linked``. ``only``
is that of :mod:`.file_calls`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from kachery_p2p.node.batches.loader import Wanted
from kachery_p2p.node.files.storing import own_many, store_many
from kachery_p2p.protocol.errors import BadInput, KacheryError, to_wire
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import BATCH_FILES
from kachery_p2p.protocol.local.messages import pack_item
from kachery_p2p.storage.file_stamps import KnownFile, stamped_size

from .call_table import CallTable
from .live_call import LiveCall
from .services import Services

_Sha1 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{40}$")]
_Few = msgspec.Meta(max_length=BATCH_FILES)


class _StoreBatch(msgspec.Struct, frozen=True):
    data: Annotated[list[bytes], _Few]
    labels: Annotated[list[str], _Few] = []
    channel: str | None = None


class _StoreKnown(msgspec.Struct, frozen=True):
    stamps: Annotated[list[bytes], _Few]
    channel: str | None = None
    linked: bool = False


class _Remember(msgspec.Struct, frozen=True):
    files: Annotated[list[tuple[bytes, _Sha1, _Sha1 | None]], _Few]


class _LoadBatch(msgspec.Struct, frozen=True):
    files: Annotated[list[tuple[_Sha1, _Sha1 | None]], _Few]
    channel: str | None = None
    only: bool = False


class BatchCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._context = services.context
        self._looking = asyncio.Lock()
        """Looking up what is known waits for nothing but the processor: side by side, threads hand the
        interpreter's lock to and fro for each row, and take three times as long."""

    def calls(self) -> CallTable:
        return {
            "store_batch": (_StoreBatch, self._store_batch),
            "store_known": (_StoreKnown, self._store_known),
            "remember": (_Remember, self._remember),
            "load_batch": (_LoadBatch, self._load_batch),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._context.book.resolve(name)

    async def _store_batch(self, params: _StoreBatch, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._channel(params.channel)
        labels = params.labels or [""] * len(params.data)
        if len(labels) != len(params.data):
            raise BadInput(what="labels", reason=f"{len(labels)} for {len(params.data)} contents")
        disk = self._context.workers.disk
        sha1s = await disk(store_many, self._context, params.data, labels, channel)
        self._provide(sha1s, channel)
        return {"sha1s": [bytes.fromhex(sha1) for sha1 in sha1s]}

    def _provide(self, sha1s: Sequence[str], channel: bytes | None) -> None:
        self._services.bootstraps.hurry()  # what is stored is about to be asked for
        self._services.announcer.provide_many([file_key(sha1) for sha1 in sha1s], channel)

    async def _store_known(self, params: _StoreKnown, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._channel(params.channel)
        async with self._looking:
            known = await self._context.workers.disk(
                self._known, live.caller.uid, params.stamps, channel, params.linked
            )
        found = [each for each in known if each is not None]
        self._provide([sha1 for each in found for sha1 in _names(each)], channel)
        return {"files": known}

    def _known(
        self, user: int, stamps: list[bytes], channel: bytes | None, linked: bool
    ) -> list[KnownFile | None]:
        now = self._context.clock()
        known = self._services.state.known_files(user, stamps, now)
        here = [
            each if each is not None and self._is_here(each, stamped_size(stamp), linked) else None
            for stamp, each in zip(stamps, known, strict=True)
        ]
        names = [sha1 for each in here if each is not None for sha1 in _names(each)]
        if names:
            own_many(self._context, names, channel)
        return here

    def _is_here(self, known: KnownFile, size: int, linked: bool) -> bool:
        store = self._services.store
        blob = store.find(known.sha1)
        if blob is None or blob.size != size or (blob.linked and not linked):
            return False
        return known.manifest is None or store.find(known.manifest) is not None

    async def _remember(self, params: _Remember, live: LiveCall) -> Any:
        live.caller.require_write()
        files = [(stamp, KnownFile(sha1, manifest)) for stamp, sha1, manifest in params.files]
        for stamp, _ in files:
            stamped_size(stamp)
        remember = self._services.state.remember_files
        await self._context.workers.disk(remember, live.caller.uid, files, self._context.clock())

    async def _load_batch(self, params: _LoadBatch, live: LiveCall) -> Any:
        channel = self._channel(params.channel)
        if params.only and channel is None:
            raise BadInput(what="only", reason="it needs a channel")
        come: asyncio.Queue[tuple[int, int, KacheryError | None] | None] = asyncio.Queue()
        wanted = [Wanted(place, *file) for place, file in enumerate(params.files)]
        loading = asyncio.ensure_future(
            self._services.batch_loader.load(
                wanted, channel, only=params.only, done=lambda *one: come.put_nowait(one)
            )
        )
        loading.add_done_callback(lambda _: come.put_nowait(None))
        try:
            while (one := await come.get()) is not None:
                place, size, error = one
                item = pack_item([place, size, None if error is None else to_wire(error)], b"")
                while not live.offer(item):
                    live.flush()
                    await live.room()
                if come.empty():
                    live.flush()
            await loading
        finally:
            loading.cancel()
            await asyncio.wait([loading])


def _names(known: KnownFile) -> list[str]:
    return [name for name in known if name is not None]
