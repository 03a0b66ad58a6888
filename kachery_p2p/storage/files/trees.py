"""The hash tree of content that is here, made on first need.

Content stored by this package has its tree from the start; a folder that kachery wrote, or a link
of old, has none. Making one reads the whole file once, and checks the whole SHA-1 on the way:
content that fails is put aside and never served.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kachery_p2p.protocol.errors import BadInput, CorruptContent
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.storage import paths

from .blobs import Blob, BlobStore
from .reader import BlobReader
from .sources import copy_from, ignore, never
from .treefile import OWN_STORAGE, TreeFile, block_count
from .writer import ContentWriter, Stored


def ensure_tree(
    store: BlobStore,
    blob: Blob,
    *,
    root: bytes | None = None,
    cancelled: Callable[[], bool] = never,
) -> TreeFile:
    """The blob's tree, open; built if it is missing or, where ``root`` is known, has another root.

    Raises:
        CorruptContent: the content does not match its hash (it was put aside) or, with ``root``,
            the manifest is wrong about it.
        BadInput: the blob is empty, so it has no blocks.
        NotFound, Cancelled, StorageFull, StorageDamaged: it could not be read or written.
    """
    if blob.size == 0:
        raise BadInput(what=f"sha1://{blob.sha1}", reason="an empty file has no hash tree")
    found = find_tree(store, blob)
    if found is not None:
        if root in (None, found.root):
            return found
        found.close()
    return rebuild_tree(store, blob, root=root, cancelled=cancelled)


def rebuild_tree(
    store: BlobStore,
    blob: Blob,
    *,
    root: bytes | None = None,
    cancelled: Callable[[], bool] = never,
    advanced: Callable[[int], None] = ignore,
) -> TreeFile:
    """Build the tree anew from the content, which is checked; raises as :func:`ensure_tree`.

    This is also the answer to a block that does not match its leaf: whichever of the two is damaged
    is repaired or put aside.
    """

    def place(writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None) -> Stored:
        if (sha1, size) != (blob.sha1, blob.size):
            store.quarantine(blob.sha1, blob)
            raise CorruptContent(what=f"sha1://{blob.sha1}", source=OWN_STORAGE)
        if manifest is None:
            writer.tree.finish()
        writer.tree.place(store.path(sha1, paths.TREE), store.durable)
        store.ledger.changed(sha1)
        return Stored(sha1, size)

    fd = store.open_fd(blob)
    try:
        writer = store.hashing_only(place)
        try:
            copy_from(fd, writer, cancelled, advanced)
            writer.finish()
        finally:
            writer.abort()
    finally:
        os.close(fd)
    found = find_tree(store, blob)
    if found is None or root not in (None, found.root):
        if found is not None:
            found.close()
        raise CorruptContent(what=f"The manifest of sha1://{blob.sha1}", source="whoever made it")
    return found


def find_tree(store: BlobReader, blob: Blob) -> TreeFile | None:
    """The blob's tree, open, if there is one with as many leaves as it has blocks."""
    return TreeFile.open(store.path(blob.sha1, paths.TREE), blob.sha1, block_count(blob.size))
