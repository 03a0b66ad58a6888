"""The files of a download in progress, and the order in which they come and go.

``<hash>.partial`` is the data at its final size, ``.partial.tree`` the hashes learned so far (zeros
where none is known) and ``.partial.map`` the marks. Created, resumed, placed and removed so that a
crash at any point leaves either a partial that tells the truth or none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.direct import DirectFile
from kachery_p2p.storage.disk import (
    Buffer,
    create,
    data_runs,
    disk_errors,
    is_hole,
    make_folders,
    make_read_only,
    pread_up_to,
    pwrite_all,
    remove,
    sync_folder,
)

from .blobs import BlobStore
from .partial_map import PartialMap
from .stamps import put_stamp

_WHAT: Final = "a download"
_NOTED: Final = 4_096
"""Hashes of one level of a tree of which it is noted whether they are in the file."""


class LearnedHashes:
    """The hashes of the tree of a download, in its file. Those near the root come again with each
    piece, and are written once."""

    def __init__(self, units: int) -> None:
        self._widths = tree.widths(units)
        self._levels = [tree.flat_offset(units, level, 0) for level in range(len(self._widths))]
        self.doubt()

    def doubt(self) -> None:
        """What is in the file may not be what was written: from now on it is written again."""
        self._written = [bytearray(w) if w <= _NOTED else None for w in self._widths]

    def read(self, fd: int, level: int, index: int) -> bytes:
        """Zeros where it is not known."""
        return pread_up_to(fd, tree.HASH_BYTES, self._levels[level] + index * tree.HASH_BYTES)

    def write(self, fd: int, nodes: tree.Nodes) -> None:
        """What was learned, which of each level are neighbours: one write each."""
        rows: dict[int, tuple[int, list[bytes]]] = {}
        for (level, index), value in sorted(nodes.items()):
            rows.setdefault(level, (index, []))[1].append(value)
        for level, (index, row) in rows.items():
            written, stop = self._written[level], index + len(row)
            if written is None or written.find(0, index, stop) >= 0:
                pwrite_all(fd, b"".join(row), self._levels[level] + index * tree.HASH_BYTES)
            if written is not None:
                written[index:stop] = b"\1" * len(row)


class PartialFiles:
    """Descriptors and paths of one partial. OSErrors of the syncs are the caller's to name."""

    def __init__(self, store: BlobStore, what: dict[str, Any], units: int) -> None:
        """Resume or create what ``what`` (sha1, size, kind, plan) describes."""
        sha1, size = what["sha1"], what["size"]
        self.data_path = store.path(sha1, paths.PARTIAL)
        self.map_path = store.path(sha1, paths.PARTIAL_MAP)
        self.tree_path = store.path(sha1, paths.PARTIAL_TREE)
        self.final_tree_path = store.path(sha1, paths.TREE)
        self.blob_path = store.path(sha1)
        self.link_path = store.path(sha1, paths.LINK)
        self.durable = store.durable
        self.data = self.tree = -1
        self._map: PartialMap | None = None
        self._writer: DirectFile | None = None
        self._arrivals, self._root, self._sha1 = store.arrivals, store.root, sha1
        self._arrivals.begin(sha1)
        self._listed = True
        tree_size = tree.flat_size(units) if what["kind"] == "tree" else 0
        self._claim = store.ledger.claim("a download")
        self._most = size + tree_size
        self._written = 0
        try:
            with disk_errors(_WHAT, self.data_path):
                if not self._resume(what, units, size, tree_size):
                    self._create(what, units, size, tree_size)
        except BaseException:
            self.close()
            raise

    def _resume(self, what: dict[str, Any], units: int, size: int, tree_size: int) -> bool:
        try:
            found = PartialMap.load(self.map_path, what, units)
            if found is None:
                return False
            self._map = found
            self.data = os.open(self.data_path, os.O_RDWR | os.O_CLOEXEC)
            if tree_size:
                if not self.tree_path.exists():
                    # The machine stopped between the two renames of a finish.
                    os.replace(self.final_tree_path, self.tree_path)
                self.tree = os.open(self.tree_path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        return os.fstat(self.data).st_size == size and (
            not tree_size or os.fstat(self.tree).st_size == tree_size
        )

    def _create(self, what: dict[str, Any], units: int, size: int, tree_size: int) -> None:
        self._clear()
        self.expect(tree_size)
        self._written = tree_size
        make_folders(self.data_path.parent)
        self.data = create(self.data_path)
        os.ftruncate(self.data, size)
        if tree_size:
            self.tree = create(self.tree_path)
            os.ftruncate(self.tree, tree_size)
        self._map = PartialMap.create(self.map_path, what, units)

    @property
    def marks(self) -> PartialMap:
        """Which units are on disk."""
        assert self._map is not None
        return self._map

    def expect(self, more: int) -> None:
        """See to room for so many bytes more. Raises StorageFull."""
        self._claim.grow(min(self._most, self._written + more))

    def write(self, data: Buffer, offset: int, *, aligned: bool = False) -> None:
        """Write data. ``aligned``: it begins where a page of memory begins. Raises OSError, and
        StorageFull."""
        self.expect(len(data))
        self._written += len(data)
        if self._writer is None:
            self._writer = DirectFile(self.data_path, self.data)
        view = memoryview(data).cast("B")
        done = 0
        for start, stop in (*data_runs(view), (len(view), len(view))):
            # Zeros are left out, unless something else was there: a block that rotted, say.
            if done < start and not is_hole(self.data, offset + done, offset + start):
                start = done
            if start < stop:
                self._writer.write(view[start:stop], offset + start, aligned=aligned)
            done = stop

    def sync_data(self) -> None:
        """Make data and hashes durable; the marks are not touched."""
        if self.durable:
            os.fdatasync(self.data)
            if self.tree >= 0:
                os.fdatasync(self.tree)

    def place(self) -> Path:
        """Give everything its final name and close; the path of the blob.

        The tree goes first: if the machine stops in between, the next open takes it back. The marks
        go last, when nobody will ask for them.
        """
        self.sync_data()
        if self.tree >= 0:
            os.replace(self.tree_path, self.final_tree_path)
        os.replace(self.data_path, self.blob_path)
        make_read_only(self.data)
        status = os.fstat(self.data)
        if status.st_size > MANIFEST_CHUNK:
            put_stamp(self._root, self._sha1, status)
        remove(self.map_path)
        remove(self.link_path)
        self.close()
        if self.durable:
            # The three folders above may be as new as the blob.
            for folder in self.blob_path.parents[:4]:
                sync_folder(folder)
        return self.blob_path

    def remove(self) -> None:
        """Close and delete. The marks go first, and durably: they must not outlive the data."""
        self._clear()
        self.close()

    def _clear(self) -> None:
        self._let_go()
        if remove(self.map_path) and self.durable:
            sync_folder(self.map_path.parent)
        remove(self.data_path)
        remove(self.tree_path)

    def close(self) -> None:
        """Close all descriptors; a second time does nothing."""
        self._let_go()
        if self._listed:
            self._listed = False
            self._claim.settle(self._sha1)
            self._arrivals.end(self._sha1)

    def _let_go(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for fd in (self.data, self.tree):
            if fd >= 0:
                os.close(fd)
        self.data = self.tree = -1
        if self._map is not None:
            self._map.close()
