"""The manifest of a file that is fetched, from here or from a source; the file made of its chunks."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable
from typing import Protocol

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import BadInput, StorageFull
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import MAX_MANIFEST
from kachery_p2p.storage.files.chunks import assemble

from .sources import Source


async def stored_manifest(context: Context, sha1: str) -> bytes | None:
    """The manifest of that name, if it is here and whole."""

    def work() -> bytes | None:
        blob = context.store.find(sha1)
        if blob is None or blob.size > MAX_MANIFEST:
            return None
        data = context.store.read(blob, 0, blob.size)
        return data if hashlib.sha1(data).hexdigest() == sha1 else None

    return await context.workers.disk(work)


class Fetching(Protocol):
    """Who fetches the file that a manifest is of."""

    @property
    def context(self) -> Context: ...
    @property
    def sha1(self) -> str: ...
    @property
    def wants_whole(self) -> bool:
        """Whether there must be room on the disk."""

    async def store_small(self, sha1: str, data: bytes, holder: Holder) -> None: ...


async def manifest_of(
    source: Source, keeper: Fetching, name: str, provide: Callable[[str], None]
) -> Manifest:
    """The manifest of that name, from here, or from a source and kept; ``provide`` is called with its
    hash then.

    Raises:
        NotFound: the source has none. BadInput: it is of another file.
    """
    data = await stored_manifest(keeper.context, name)
    if data is None:
        data = await source.manifest(name)
        await source.afford(len(data))
        try:
            await keeper.store_small(name, data, source.holder)
        except StorageFull:
            if keeper.wants_whole:
                raise
        else:
            provide(name)
    manifest = Manifest.parse(data)
    if manifest.sha1 != keeper.sha1:
        raise BadInput(
            what=f"manifest {name}", reason=f"it is of sha1://{manifest.sha1}, another file"
        )
    return manifest


async def assembled(context: Context, sha1: str, manifest: str, label: str) -> int | None:
    """Make a file of its chunks, if all lie here and are nobody's alone; its size, or None."""
    gone = threading.Event()

    def work() -> int | None:
        store, free = context.store, context.bindings.is_free
        context.inventory.storing([sha1], label)
        if not assemble(store, sha1, manifest, free, gone.is_set):
            return None
        blob = store.find(sha1)
        return None if blob is None else blob.size

    working = asyncio.ensure_future(context.workers.disk(work))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        gone.set()
        await asyncio.wait([working])
        raise
