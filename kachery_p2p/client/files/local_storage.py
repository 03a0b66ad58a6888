"""Reading the storage folder directly, without asking the node.

Local content is looked at first: the folder is readable by the node's users. Content up to
``VERIFY_ON_READ`` bytes that is about to be decoded is hashed first; larger files are trusted as
long as they have the right size, since hashing them would take longer than reading them (the node
verified them when they came).
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.limits import VERIFY_ON_READ
from kachery_p2p.storage.files.blobs import Blob, BlobStore


@functools.lru_cache(maxsize=8)
def reader(root: Path) -> BlobStore:
    """A store that is only read from; no lock is taken."""
    return BlobStore(root)


def find(root: Path, sha1: str) -> Blob | None:
    """The blob, if it is here and may be read.

    Raises:
        StorageDamaged: it is here but this user may not read it.
    """
    return reader(root).find(sha1)


def read_checked(root: Path, blob: Blob) -> bytes | None:
    """The content of a blob, or None if it does not match its hash."""
    store = reader(root)
    data = store.read(blob, 0, blob.size)
    if blob.size <= VERIFY_ON_READ and hashlib.sha1(data).hexdigest() != blob.sha1:
        return None
    return data


def read_range(root: Path, blob: Blob, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a blob.

    Raises:
        StorageDamaged: the file is shorter than it was.
    """
    data = reader(root).read(blob, start, stop - start)
    if len(data) != stop - start:
        raise StorageDamaged(path=str(blob.path), reason="the file is shorter than it was")
    return data
