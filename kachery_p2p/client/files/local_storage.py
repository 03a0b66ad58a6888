"""Reading the storage folder directly, without asking the node.

Local content is looked at first: the folder is readable by the node's users. It is compared with its
hash before it is handed out, as :mod:`kachery_p2p.storage.files.checking` says. What takes long, or
writes to the folder, is the node's to do; offline it is done here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from kachery_p2p.protocol.errors import CorruptContent
from kachery_p2p.protocol.limits import VERIFY_ON_READ
from kachery_p2p.storage import paths
from kachery_p2p.storage.files import checking
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


def was_put_aside(root: Path, sha1: str) -> bool:
    """Whether content of that name was found to be damaged."""
    return reader(root).path(sha1, f"{paths.CORRUPT}1").exists()


def read_checked(root: Path, blob: Blob) -> bytes | None:
    """The content of a small blob, or None if it does not match its hash."""
    try:
        return checking.read_small(reader(root), blob)
    except CorruptContent:
        return None


def read_range(root: Path, blob: Blob, start: int, stop: int | None) -> bytes | None:
    """Bytes [start, stop) of a large blob; None if they are not what they should be, or if there is no
    tree that says so."""
    stop = blob.size if stop is None else min(stop, blob.size)
    try:
        return checking.read_range(reader(root), blob, min(start, stop), stop)
    except CorruptContent:  # it was cut short a moment ago
        return None


def to_remember(blob: Blob) -> Callable[[Path], None]:
    """What to call, with its folder, if a large blob turns out to be right as it is now."""
    status = os.stat(blob.path) if blob.size > VERIFY_ON_READ else None
    return lambda root: None if status is None else checking.remember(reader(root), blob, status)


def remember_small(root: Path, blob: Blob) -> bool:
    """Compare a small blob with its hash, and remember that it is right as it is now; whether it is."""
    try:
        status = os.stat(blob.path)
    except OSError:
        return False
    if read_checked(root, blob) is None:
        return False
    checking.remember(reader(root), blob, status)
    return True


def still_right(root: Path, blob: Blob, source: int, copy: int) -> bool:
    """Whether a blob that was right, and was copied from one descriptor to another, was right until
    then."""
    if blob.size > VERIFY_ON_READ:
        return checking.is_known(reader(root), replace(blob, fd=source))
    return checking.sha1_of(copy) == blob.sha1


def is_known(root: Path, blob: Blob) -> bool:
    """Whether a blob was compared with its hash, and remembered, since it last changed."""
    return checking.is_known(reader(root), blob)
