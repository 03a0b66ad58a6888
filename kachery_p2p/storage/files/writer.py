"""Writing new content: bytes in, one temporary file and all hashes out, in one pass.

What is hashed is what was written: both come from the same buffer (or, for a cloned file, from the
clone), so a source that changes meanwhile gives an odd snapshot but never a wrong hash. A writer
ends in :meth:`ContentWriter.finish` or :meth:`ContentWriter.abort`, and leaves nothing behind
unless the store placed it. Zeros are left out as holes, so that a sparse file stays one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import BadInput, StorageDamaged
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM, Manifest, Tree
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK, MAX_FILE
from kachery_p2p.protocol.tree import flat_size
from kachery_p2p.storage.direct import DirectFile
from kachery_p2p.storage.disk import (
    Buffer,
    create,
    data_runs,
    disk_errors,
    remove,
    temporary_path,
)

from .arrivals import Claim, Uncounted
from .hashing import ContentHasher
from .treefile import TreeBuilder, block_count

_WHAT: Final = "content being stored"


@dataclass(frozen=True, slots=True)
class Stored:
    """What was stored: hash, bytes, and the manifest's hash if the content has one."""

    sha1: str
    size: int
    manifest_sha1: str | None = None


class ContentWriter:
    """Hashes what it is given and, with ``keep``, writes it to a temporary file.

    Used by one thread. ``place`` is the store's: it turns the finished writer into a blob or link.
    """

    def __init__(
        self,
        folder: Path,
        pool: Executor,
        place: Callable[[ContentWriter, str, int, Manifest | None], Stored],
        *,
        keep: bool,
        claim: Claim | None = None,
    ) -> None:
        """``claim``: what sees to room for the bytes; None: there is room."""
        self._claim = claim or Uncounted()
        self.path = temporary_path(folder)
        self.tree = TreeBuilder(folder)
        self.fd = -1
        self._hasher = ContentHasher(pool)
        self._place = place
        self._open = True
        if keep:
            with disk_errors(_WHAT, self.path):
                self.fd = create(self.path)
        self._file = DirectFile(self.path, self.fd)

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._hasher.size

    def write(self, data: Buffer) -> None:
        """Take the next bytes; ``data`` may be reused when this returns.

        Raises:
            StorageFull: no space is left. The writer is aborted.
            StorageDamaged: the disk refused for another reason, or the writer was used up.
        """
        self.feed(data)
        self._hasher.settle()

    def feed(self, data: Buffer, *, written: bool = False, aligned: bool = False) -> None:
        """Like :meth:`write`, but ``data`` is read until the next call.

        ``written``: only hash. ``aligned``: ``data`` begins where a page of memory begins.
        """
        self._check_open()
        try:
            self._hasher.settle()
            self.tree.add(self._hasher.take_leaves())
            if self._hasher.size + len(data) > MAX_FILE:
                raise BadInput(what=_WHAT, reason=f"it has more than {MAX_FILE} bytes")
            start = self._hasher.size
            self.expect(start + len(data))
            self._hasher.feed(data)
            if self.fd >= 0 and not written:
                view = memoryview(data).cast("B")
                with disk_errors(_WHAT, self.path):
                    for first, last in data_runs(view):
                        self._file.write(view[first:last], start + first, aligned=aligned)
        except BaseException:
            self.abort()
            raise

    def expect(self, size: int) -> None:
        """See to room for a file of so many bytes, and for its hash tree. Raises StorageFull."""
        tree = flat_size(block_count(size)) if size > MANIFEST_CHUNK else 0
        self._claim.grow((size if self.fd >= 0 else 0) + tree)

    def finish(self) -> Stored:
        """Make it durable content of the store; the writer is used up."""
        self._check_open()
        try:
            hashed = self._hasher.finish()
            self.tree.add(self._hasher.take_leaves())
            if self.fd >= 0:
                with disk_errors(_WHAT, self.path):
                    if os.fstat(self.fd).st_size < hashed.size:  # it ends with a hole
                        os.ftruncate(self.fd, hashed.size)
            manifest = None
            if hashed.size > MANIFEST_CHUNK:
                root = Tree(TREE_ALGORITHM, BLOCK, self.tree.finish())
                manifest = Manifest(hashed.size, hashed.sha1, hashed.chunks, root)
            stored = self._place(self, hashed.sha1, hashed.size, manifest)
            self._claim.settle(stored.sha1)
            return stored
        finally:
            self.abort()

    def abort(self) -> None:
        """Leave nothing behind; harmless after :meth:`finish`."""
        self._open = False
        self._claim.settle()
        self._hasher.settle()
        self.tree.abort()
        self._file.close()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            remove(self.path)

    def close(self) -> None:
        """As :meth:`abort`: what was not finished is not kept."""
        self.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise StorageDamaged(path=str(self.path), reason="this writer was used up")
