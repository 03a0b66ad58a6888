"""Offline mode: files in a folder of one's own, without any node.

Set ``KACHERY_P2P_OFFLINE_STORAGE_DIR``. The folder has the same layout as a node's storage, so a
node can be started on it later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kachery_p2p.local import places
from kachery_p2p.protocol.errors import NeedsNode
from kachery_p2p.protocol.uri import KacheryUri
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.chunks import assemble, cut
from kachery_p2p.storage.files.writer import Stored


def require_node(what: str) -> None:
    """Raise NeedsNode in offline mode."""
    if places.offline_dir() is not None:
        raise NeedsNode(what=what)


def store_bytes(folder: Path, data: memoryview) -> dict[str, Any]:
    with BlobStore(folder).open(lock=False) as store:
        return _plain(store.store_bytes(data))


def store_fd(
    folder: Path, descriptor: int, gone: Callable[[], bool], advanced: Callable[[int], None]
) -> dict[str, Any]:
    with BlobStore(folder).open(lock=False) as store:
        return _plain(store.store_fd(descriptor, gone, advanced))


def link_fd(
    folder: Path,
    descriptor: int,
    path: str,
    gone: Callable[[], bool],
    advanced: Callable[[int], None],
) -> dict[str, Any]:
    with BlobStore(folder).open(lock=False) as store:
        return _plain(store.link_fd(descriptor, Path(path), gone, advanced))


def find_parts(folder: Path, uri: KacheryUri) -> bool:
    """Make a file of its chunks, or a chunk of its file, as the URI says; whether it is there now."""
    with BlobStore(folder).open(lock=False) as store:
        if uri.chunk_of is not None and cut(store, uri.hash, *uri.chunk_of):
            return True
        return uri.manifest is not None and assemble(store, uri.hash, uri.manifest)


def _plain(stored: Stored) -> dict[str, Any]:
    return {"sha1": stored.sha1, "size": stored.size, "manifest": stored.manifest_sha1}
