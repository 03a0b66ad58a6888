"""Downloads in progress: verified bytes in the file that will become the blob.

A partial is of one of three kinds, by what the manifest offers:

``tree``
    The unit is a 64 KiB block. Every write is proved against the root before it touches the disk,
    and the hashes learned are kept, so what is here can be served with proofs of its own.
``chunks``
    A manifest of old. Bytes are written as they come, in order within a chunk, and the chunk counts
    when its SHA-1 matched.
``whole``
    No manifest. Bytes are written in order, and nothing counts before the whole SHA-1 matched.

Invariants
    * Marks never claim what is not on disk: data and hashes are synced first, then the marks are
      written, every SYNC_AFTER bytes. A crash costs at most DURABLE_WINDOW bytes.
    * The blob appears by rename after the whole SHA-1 matched, whatever the manifest said.
    * There is one copy of the bytes, and memory does not grow with the file (one byte per block).

One thread at a time uses a partial, but for :meth:`Partial.sync`, :meth:`Partial.have`,
:meth:`Partial.read_verified` and :meth:`Partial.proof`, which may run beside it; none may run
beside ``finish``, ``close`` or ``discard``.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Self

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import (
    BadInput,
    Cancelled,
    CorruptContent,
    KacheryError,
    StorageDamaged,
)
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM, Manifest
from kachery_p2p.protocol.limits import BLOCK, DURABLE_WINDOW, MAX_FILE, MIB, SYNC_AFTER
from kachery_p2p.storage import paths
from kachery_p2p.storage.direct import Page
from kachery_p2p.storage.disk import Buffer, disk_error, disk_errors, pread_up_to

from .blobs import BlobStore
from .hashing import RunningHash
from .partial_files import LearnedHashes, PartialFiles
from .sources import never
from .treefile import block_count

Kind = Literal["tree", "chunks", "whole"]

_WHAT: Final = "a download"
_UNKNOWN: Final = bytes(tree.HASH_BYTES)
_READ_BACK: Final = 4 * MIB
_CATCH_UP: Final = 2
"""How many bytes written earlier are hashed for each byte that is written now, at most."""


class Partial:
    """One download's bytes on disk; see the module's text. Made by :meth:`open`."""

    def __init__(
        self, store: BlobStore, sha1: str, size: int, manifest: Manifest | None, kind: Kind
    ) -> None:
        self.sha1, self.size = sha1, size
        self.kind: Final = kind
        self._names, self._starts = list[str](), list[int]()
        self._root, units, plan = b"", 0, ""
        if kind == "tree" and manifest is not None and manifest.tree is not None:
            self._root = manifest.tree.root
            units, plan = block_count(size), self._root.hex()
        elif kind == "chunks" and manifest is not None:
            self._starts = [chunk.start for chunk in manifest.chunks]
            self._names = [chunk.sha1 for chunk in manifest.chunks]
            units, plan = len(self._starts), manifest.name
        self._units = units
        self._hashes = LearnedHashes(units)
        what = {"kind": kind, "sha1": sha1, "size": size, "plan": plan}
        self._files = PartialFiles(store, what, units)
        self._map = self._files.marks
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._broken, self._unsynced = False, 0
        marked = (unit for unit in range(units) if self._map.marks[unit])
        self._verified = sum(self._start(unit + 1) - self._start(unit) for unit in marked)
        # Chunks that are under way: unit -> (bytes of it so far, hash of these).
        self._running: dict[int, tuple[int, hashlib._Hash]] = {}
        self._sha1, self._hashed = RunningHash(), 0

    @classmethod
    def open(cls, store: BlobStore, sha1: str, size: int, manifest: Manifest | None = None) -> Self:
        """Begin a download of ``size`` bytes, or go on with one of the same plan.

        A partial on disk that was for another size, root or manifest is thrown away.

        Raises:
            BadInput: the manifest is about something else, or the size is impossible.
            StorageFull, StorageDamaged: the files could not be made.
        """
        paths.check_sha1(sha1)
        if type(size) is not int or not 0 <= size <= MAX_FILE:
            raise BadInput(what="size", reason=f"{size!r} is not a number from 0 to {MAX_FILE}")
        kind: Kind = "whole"
        if manifest is not None:
            if (manifest.sha1, manifest.size) != (sha1, size):
                raise BadInput(what="manifest", reason=f"it is not about sha1://{sha1}")
            if size:
                kind = "tree" if manifest.tree is not None else "chunks"
        return cls(store, sha1, size, manifest, kind)

    # --- what is here --------------------------------------------------------------------------

    @property
    def verified_bytes(self) -> int:
        """Bytes that were verified; of a download without a manifest, none before the end."""
        return self._verified

    @property
    def received_bytes(self) -> int:
        """Bytes that need not be fetched again if all goes well, verified or not."""
        return self._verified + self._map.watermark + sum(n for n, _ in self._running.values())

    def missing(self, limit: int | None = None) -> list[tuple[int, int]]:
        """Byte ranges still to be fetched, in order, together about ``limit`` bytes if given.

        Of a chunk that is under way, the part that has not come. Ranges of a tree are whole blocks,
        those of chunks end where a chunk ends.
        """
        if self.kind == "whole":
            left = (self._map.watermark, self.size)
            return [left] if left[0] < left[1] else []
        found, total = list[tuple[int, int]](), 0
        for first, last in self._map.gaps(0, self._units):
            for start, stop in self._ranges(first, last):
                if limit is not None and total >= limit:
                    return found
                if limit is not None and self.kind == "tree":
                    stop = min(stop, start + -(-(limit - total) // BLOCK) * BLOCK)
                found.append((start, stop))
                total += stop - start
        return found

    def missing_in(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The blocks, as byte ranges, that [start, stop) of a ``tree`` download lacks."""
        gaps = self._map.gaps(start // BLOCK, block_count(min(stop, self.size)))
        return [(self._start(first), self._start(last)) for first, last in gaps]

    def held(self, most: int) -> list[tuple[int, int]]:
        """Byte ranges that are here: the longest, ``most`` of them, in order."""
        return [(self._start(first), self._start(last)) for first, last in self._map.runs(most)]

    def reserve(self) -> None:
        """See to room for all that is missing. Raises StorageFull: less of it may still fit."""
        self._files.expect(sum(stop - start for start, stop in self.missing()))

    def have(self, start: int, stop: int) -> bool:
        """Whether the bytes [start, stop) are here and verified."""
        if not 0 <= start < stop <= self.size or self.kind == "whole":
            return False
        first, last = self._unit(start), self._unit(stop - 1) + 1
        return self._map.first_missing(first) >= last

    def read_verified(self, start: int, stop: int) -> bytes | None:
        """The bytes [start, stop), or None if they are not all here and verified.

        Blocks of a tree are checked once more; one that the disk changed is forgotten, so that it
        is fetched again.
        """
        if not self.have(start, stop):
            return None
        with disk_errors(_WHAT, self._files.data_path):
            if self.kind != "tree":
                return pread_up_to(self._files.data, stop - start, start)
            first, last = start // BLOCK, block_count(stop)
            offset = first * BLOCK
            data = pread_up_to(self._files.data, min(last * BLOCK, self.size) - offset, offset)
            found = tree.leaf_hashes(TREE_ALGORITHM, data, BLOCK)
            bad = [
                first + at
                for at in range(last - first)
                if found[at : at + 1] != [self._node(0, first + at)]
            ]
        if bad:
            self._forget(bad)
            return None
        return data[start - offset : stop - offset]

    def proof(self, start_block: int, stop_block: int) -> list[bytes] | None:
        """What leads from these blocks to the root, or None if that is not known here."""
        if self.kind != "tree" or not 0 <= start_block < stop_block <= self._units:
            return None
        with disk_errors(_WHAT, self._files.tree_path):
            proof = tree.range_proof(self._node, self._units, start_block, stop_block)
        return None if _UNKNOWN in proof else proof

    # --- taking bytes --------------------------------------------------------------------------

    def write_blocks(
        self, offset: int, data: Buffer | Page, proof: Sequence[bytes], source: str = "a peer"
    ) -> int:
        """Verify and write whole blocks of a ``tree`` download; how many bytes of it were new.

        ``offset`` and the length are multiples of BLOCK, but for the end of the file.

        Raises:
            CorruptContent: data and proof do not lead to the root; nothing was written.
            BadInput: these are not whole blocks of the file.
            StorageFull, StorageDamaged: not written; what was there before is still good.
        """
        page = data if isinstance(data, Page) else None
        view = data.view if isinstance(data, Page) else memoryview(data).cast("B")
        stop = offset + len(view)
        whole = offset % BLOCK == 0 and (stop % BLOCK == 0 or stop == self.size)
        if self.kind != "tree" or not 0 <= offset < stop <= self.size or not whole:
            raise BadInput(what="blocks", reason=f"bytes {offset}-{stop} of {self.size}")
        self._check_usable()
        first = offset // BLOCK
        leaves = tree.leaf_hashes(TREE_ALGORITHM, view, BLOCK)
        try:
            nodes = tree.verify_range(TREE_ALGORITHM, self._root, self._units, first, leaves, proof)
        except tree.ProofError as error:
            raise self._corrupt(offset, stop, source) from error
        with disk_errors(_WHAT, self._files.data_path):
            self._hashes.write(self._files.tree, nodes)
            self._files.write(view, offset, aligned=page is not None)
        new = self._mark(first, first + len(leaves))
        self._hash_along(offset, view, page=page)
        return new

    def append(self, offset: int, data: Buffer, source: str = "a peer") -> int:
        """Write the next bytes of a ``chunks`` or ``whole`` download; how many were new.

        Within a chunk (the whole file, if there is no manifest) bytes come in order; a chunk that
        is under way may be begun again at its start. Bytes of a chunk that is here are ignored.

        Raises:
            CorruptContent: a chunk is complete and wrong; it was forgotten.
            BadInput: there is a gap before ``offset``, or the bytes go beyond the end.
            StorageFull, StorageDamaged: not written; what was there before is still good.
        """
        view = memoryview(data).cast("B")
        if self.kind == "tree" or offset < 0 or offset + len(view) > self.size:
            raise BadInput(what="bytes", reason=f"{offset}-{offset + len(view)} of {self.size}")
        self._check_usable()
        if self.kind == "whole":
            self._append_whole(offset, view)
            return len(view)
        new = 0
        while view:
            unit = self._unit(offset)
            part = view[: self._start(unit + 1) - offset]
            if not self._map.marks[unit]:
                self._append_chunk(unit, offset, part, source)
                new += len(part)
            offset += len(part)
            view = view[len(part) :]
        return new

    def _append_whole(self, offset: int, view: memoryview) -> None:
        if offset != self._map.watermark:
            raise BadInput(what="bytes", reason=f"{offset} is not {self._map.watermark}")
        with disk_errors(_WHAT, self._files.data_path):
            self._files.write(view, offset)
        with self._lock:
            self._map.watermark += len(view)
            self._unsynced += len(view)
        self._hash_along(offset, view)
        self._hold_back()

    def _append_chunk(self, unit: int, offset: int, part: memoryview, source: str) -> None:
        start, stop = self._start(unit), self._start(unit + 1)
        count, sha1 = self._running.get(unit, (0, hashlib.sha1()))
        if offset == start:
            count, sha1 = 0, hashlib.sha1()
        elif offset != start + count:
            raise BadInput(what="bytes", reason=f"{offset} is not {start + count}")
        with disk_errors(_WHAT, self._files.data_path):
            self._files.write(part, offset)
        sha1.update(part)
        self._running[unit] = (count + len(part), sha1)
        if offset + len(part) == stop:
            del self._running[unit]
            if sha1.hexdigest() != self._names[unit]:
                raise self._corrupt(start, stop, source)
            self._mark(unit, unit + 1)
        self._hash_along(offset, part, verified=False)

    # --- durability ----------------------------------------------------------------------------

    def sync_due(self) -> bool:
        """Whether enough is new for :meth:`sync` to be worth its while."""
        return self._unsynced >= SYNC_AFTER

    def sync(self) -> None:
        """Make durable what is marked now. May run beside the thread that writes.

        Raises:
            StorageFull, StorageDamaged: the disk lost bytes. The partial refuses all further use;
                opened again, it has what was durable before.
        """
        with self._sync_lock:
            self._check_usable()
            with self._lock:
                changes = self._map.changes()
                self._unsynced = 0
            try:
                self._files.sync_data()
                self._map.save(changes, self._files.durable)
            except OSError as error:
                # The kernel reports a failed write once and then calls the pages clean: a second
                # try would succeed and mean nothing.
                self._broken = True
                raise disk_error(error, _WHAT, self._files.data_path) from error

    def finish(self, cancelled: Callable[[], bool] = never, source: str = "its sources") -> Path:
        """Check the whole SHA-1 and turn the partial into the blob; its path.

        Raises:
            CorruptContent: the SHA-1 is another; everything was thrown away.
            BadInput: bytes are missing.
            Cancelled, StorageFull, StorageDamaged: the partial is kept.
        """
        self._check_usable()
        if self.missing(1):
            raise BadInput(what="finish", reason=f"bytes of sha1://{self.sha1} are missing")
        while self._hashed < self.size:
            if cancelled():
                raise Cancelled(what=f"Checking sha1://{self.sha1}")
            self._hash_back(_READ_BACK)
        if self._sha1.hexdigest() != self.sha1:
            self.discard()
            raise self._corrupt(0, self.size, source)
        self._sha1.close()
        with self._sync_lock:
            try:
                return self._files.place()
            except OSError as error:
                self._broken = True
                raise disk_error(error, _WHAT, self._files.data_path) from error

    def close(self) -> None:
        """Keep what is here for the next :meth:`open`; a second time does nothing."""
        if self._files.data >= 0:
            # What cannot be synced now is fetched again later; nobody is here to be told.
            with contextlib.suppress(KacheryError):
                self.sync()
        self._sha1.close()
        self._files.close()

    def discard(self) -> None:
        """Throw everything away. Raises StorageDamaged if that is impossible."""
        self._sha1.close()
        with disk_errors(_WHAT, self._files.data_path):
            self._files.remove()

    # --- parts ---------------------------------------------------------------------------------

    def _start(self, unit: int) -> int:
        if self.kind == "tree":
            return min(unit * BLOCK, self.size)
        return self._starts[unit] if unit < len(self._starts) else self.size

    def _unit(self, offset: int) -> int:
        return offset // BLOCK if self.kind == "tree" else bisect_right(self._starts, offset) - 1

    def _ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        if self.kind == "tree":
            return [(self._start(first), self._start(last))]
        begun = {unit: count for unit, (count, _) in self._running.items()}
        return [
            (self._start(unit) + begun.get(unit, 0), self._start(unit + 1))
            for unit in range(first, last)
        ]

    def _node(self, level: int, index: int) -> bytes:
        return self._hashes.read(self._files.tree, level, index)

    def _mark(self, first: int, last: int) -> int:
        with self._lock:
            new = sum(
                self._start(stop) - self._start(start)
                for start, stop in self._map.gaps(first, last)
            )
            self._map.mark(first, last)
            self._verified += new
            self._unsynced += new
        self._hold_back()
        return new

    def _forget(self, units: list[int]) -> None:
        self._hashes.doubt()
        with self._lock:
            for unit in units:
                if self._map.marks[unit]:
                    self._map.mark(unit, unit + 1, 0)
                    self._verified -= self._start(unit + 1) - self._start(unit)

    def _hold_back(self) -> None:
        # Whoever should have synced is late, or absent: what a crash may cost stays bounded.
        if self._unsynced >= DURABLE_WINDOW - SYNC_AFTER:
            self.sync()

    def _hash_along(
        self, offset: int, view: memoryview, verified: bool = True, page: Page | None = None
    ) -> None:
        if verified and offset <= self._hashed < offset + len(view):
            self._sha1.update(view[self._hashed - offset :], page)
            self._hashed = offset + len(view)
        budget = _CATCH_UP * len(view)
        while budget > 0 and (done := self._hash_back(min(budget, _READ_BACK))):
            budget -= done

    def _hash_back(self, most: int) -> int:
        """Hash up to ``most`` bytes of what was written earlier; how many."""
        frontier = self._map.watermark
        if self.kind != "whole":
            frontier = self._start(self._map.first_missing(self._unit(self._hashed)))
        length = min(most, frontier - self._hashed)
        if length <= 0:
            return 0
        with disk_errors(_WHAT, self._files.data_path):
            data = pread_up_to(self._files.data, length, self._hashed)
        if not data:
            raise StorageDamaged(path=str(self._files.data_path), reason="it was cut short")
        self._sha1.update(data)
        self._hashed += len(data)
        return len(data)

    def _check_usable(self) -> None:
        path = str(self._files.data_path)
        if self._files.data < 0:
            raise StorageDamaged(path=path, reason="the download was closed")
        if self._broken:
            raise StorageDamaged(path=path, reason="an earlier write failed; repeat the call")

    def _corrupt(self, start: int, stop: int, source: str) -> CorruptContent:
        return CorruptContent(what=f"Bytes {start}-{stop} of sha1://{self.sha1}", source=source)
