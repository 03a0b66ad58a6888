"""Offline mode: files in a folder of one's own, without any node.

Set ``KACHERY_P2P_OFFLINE_STORAGE_DIR``. The folder has the same layout as a node's storage, so a
node can be started on it later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import (
    CorruptContent,
    NeedsNode,
    NotFound,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.uri import KacheryUri
from kachery_p2p.storage.files import checking
from kachery_p2p.storage.files.blobs import Blob, BlobStore
from kachery_p2p.storage.files.chunks import assemble, cut
from kachery_p2p.storage.files.writer import Stored


def require_node(what: str) -> None:
    """Raise NeedsNode in offline mode."""
    if places.offline_dir() is not None:
        raise NeedsNode(what=what)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[BlobStore]:
    """To store something, after what others left there that were killed."""
    with BlobStore(folder).open(lock=False) as store:
        with contextlib.suppress(StorageFull, StorageDamaged):  # somebody else's, perhaps
            store.clean()
        yield store


def store_bytes(folder: Path, data: Sequence[memoryview]) -> dict[str, Any]:
    with _opened(folder) as store:
        return _plain(store.store_parts(data))


def store_batch(folder: Path, contents: Sequence[bytes]) -> list[str]:
    """The hashes of many small contents, which are stored."""
    with _opened(folder) as store:
        return store.store_batch(contents)


def store_fd(
    folder: Path, descriptor: int, gone: Callable[[], bool], advanced: Callable[[int], None]
) -> dict[str, Any]:
    with _opened(folder) as store:
        return _plain(store.store_fd(descriptor, gone, advanced))


def link_fd(
    folder: Path,
    descriptor: int,
    path: str,
    gone: Callable[[], bool],
    advanced: Callable[[int], None],
) -> dict[str, Any]:
    with _opened(folder) as store:
        return _plain(store.link_fd(descriptor, Path(path), gone, advanced))


def find_parts(folder: Path, uri: KacheryUri) -> bool:
    """Make a file of its chunks, or a chunk of its file, as the URI says; whether it is there now."""
    with BlobStore(folder).open(lock=False) as store:
        if uri.chunk_of is not None and cut(store, uri.hash, *uri.chunk_of):
            return True
        return uri.manifest is not None and assemble(store, uri.hash, uri.manifest)


def check(
    folder: Path,
    blob: Blob,
    again: bool,
    gone: Callable[[], bool],
    advanced: Callable[[int], None],
) -> bool:
    """Compare a blob with its hash, as a node does; what is wrong is put aside, if that can be."""
    store = BlobStore(folder)
    try:
        store.open(lock=False)
    except (StorageFull, StorageDamaged):
        store.open(create=False, lock=False)
    with store:
        try:
            checking.check(store, blob, again=again, cancelled=gone, advanced=advanced)
        except CorruptContent:
            with contextlib.suppress(StorageFull, StorageDamaged):
                store.quarantine(blob.sha1, blob)
            return False
        except NotFound:  # somebody else has put it aside
            return False
    return True


def _plain(stored: Stored) -> dict[str, Any]:
    return {"sha1": stored.sha1, "size": stored.size, "manifest": stored.manifest_sha1}
