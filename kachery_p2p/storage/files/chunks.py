"""Files of which a folder holds the chunks alone, and chunks of which it holds the whole file.

kachery's daemon stored each chunk of a large file as a blob of its own, and put the file together
from these; where it was stopped before, or where only a range was asked for, they are all there is.
Its URIs of chunks say ``?chunkOf=<file>~<start>~<end>``, and it cut them from the file if that was
what it had.

Invariant: what appears under a hash has it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from kachery_p2p.protocol.errors import BadInput, CorruptContent
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MAX_MANIFEST

from .blobs import Arriving, Blob, BlobStore, nothing
from .partials import Partial
from .sources import PIECE, never
from .treefile import OWN_STORAGE


def anything(sha1: str) -> bool:
    """The ``usable`` of who has no channels to keep apart."""
    return True


def assemble(
    store: BlobStore,
    sha1: str,
    manifest: str,
    usable: Callable[[str], bool] = anything,
    cancelled: Callable[[], bool] = never,
) -> bool:
    """Make a blob of its chunks, if these and the manifest are all here; whether it is there now.

    Args:
        manifest: the hash of the manifest.
        usable: whether the blob of a hash may be used for it.

    Raises:
        Cancelled, StorageFull, StorageDamaged
    """
    plan = _manifest(store, sha1, manifest) if usable(manifest) else None
    if plan is None or not plan.chunks:
        return False
    blobs: list[Blob] = []
    for chunk in plan.chunks:
        blob = store.find(chunk.sha1) if usable(chunk.sha1) else None
        if blob is None or blob.size != chunk.end - chunk.start:
            return False
        blobs.append(blob)
    # Each chunk has its own hash to be verified by; the blocks' tree is not needed for that.
    partial = Partial.open(store, sha1, plan.size, replace(plan, tree=None))
    try:
        for chunk, blob in zip(plan.chunks, blobs, strict=True):
            for offset in range(0, blob.size, PIECE):
                data = store.read(blob, offset, min(PIECE, blob.size - offset))
                partial.append(chunk.start + offset, data, OWN_STORAGE)
        partial.finish(cancelled, OWN_STORAGE)
    except CorruptContent:
        return False  # one of them rotted: somebody else may have the file
    finally:
        partial.close()
    return True


def _manifest(store: BlobStore, sha1: str, name: str) -> Manifest | None:
    blob = store.find(name)
    if blob is None or blob.size > MAX_MANIFEST:
        return None
    data = store.read(blob, 0, blob.size)
    if hashlib.sha1(data).hexdigest() != name:
        return None
    try:
        manifest = Manifest.parse(data)
    except BadInput:
        return None
    return manifest if manifest.sha1 == sha1 else None


def cut(
    store: BlobStore, sha1: str, whole: str, start: int, end: int, arriving: Arriving = nothing
) -> bool:
    """Make a blob of bytes [start, end) of another, if that is here and they have this hash; whether
    it is there now. Raises StorageFull, StorageDamaged, and what ``arriving`` raises."""
    blob = store.find(whole)
    if blob is None or not start < end <= blob.size or end - start > MANIFEST_CHUNK:
        return False
    data = store.read(blob, start, end - start)
    if hashlib.sha1(data).hexdigest() != sha1:
        return False
    store.store_bytes(data, arriving)
    return True
