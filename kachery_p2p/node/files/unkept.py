"""Verified blocks that the disk has no room for: kept in memory for those who read them now.

A full disk does not keep anybody from reading: what cannot be written is passed through. Bounded by
``UNKEPT_BYTES`` for all files together; what was put in longest ago goes first, and is fetched again if
need be.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import BadInput, CorruptContent, StorageFull
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM, Manifest
from kachery_p2p.protocol.files.ranges import Range, merge
from kachery_p2p.protocol.limits import BLOCK, UNKEPT_BYTES
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.files.treefile import block_count


class Memory:
    """The blocks of all files, by hash and number. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def put(self, sha1: str, number: int, data: bytes) -> None:
        """Keep a block, in the place of the oldest ones if need be."""
        with self._lock:
            self._blocks.pop((sha1, number), None)
            self._blocks[sha1, number] = data
            while len(self._blocks) > UNKEPT_BYTES // BLOCK:
                self._blocks.popitem(last=False)

    def get(self, sha1: str, number: int) -> bytes | None:
        """A block, if it is here."""
        return self._blocks.get((sha1, number))

    def drop(self, sha1: str) -> None:
        """Nobody reads that file any more."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == sha1]:
                del self._blocks[key]


class Unkept:
    """Of one file that a manifest with a tree describes. ``under``: what of it is on disk; ``error``:
    why there cannot be more."""

    def __init__(
        self, memory: Memory, manifest: Manifest, under: Partial | None, error: StorageFull
    ) -> None:
        if manifest.tree is None:
            raise error
        self.error = error
        self._sha1, self._size, self._root = manifest.sha1, manifest.size, manifest.tree.root
        self._under = under
        self._memory = memory

    def write_blocks(self, offset: int, data: bytes, proof: Sequence[bytes], source: str) -> None:
        """Verify whole blocks, and keep them. Raises CorruptContent, BadInput."""
        stop = offset + len(data)
        whole = offset % BLOCK == 0 and (stop % BLOCK == 0 or stop == self._size)
        if not 0 <= offset < stop <= self._size or not whole:
            raise BadInput(what="blocks", reason=f"bytes {offset}-{stop} of {self._size}")
        first, count = offset // BLOCK, block_count(self._size)
        leaves = tree.leaf_hashes(TREE_ALGORITHM, data, BLOCK)
        try:
            tree.verify_range(TREE_ALGORITHM, self._root, count, first, leaves, proof)
        except tree.ProofError as error:
            what = f"Bytes {offset}-{stop} of sha1://{self._sha1}"
            raise CorruptContent(what=what, source=source) from error
        for at in range(0, len(data), BLOCK):
            self._memory.put(self._sha1, first + at // BLOCK, data[at : at + BLOCK])

    def missing_in(self, start: int, stop: int) -> list[Range]:
        """The blocks, as byte ranges, that [start, stop) lacks."""
        found = []
        for number in range(start // BLOCK, block_count(min(stop, self._size))):
            begin, end = number * BLOCK, min(self._size, (number + 1) * BLOCK)
            here = self._memory.get(self._sha1, number) is not None
            if not here and not self._on_disk(begin, end):
                found.append((begin, end))
        return merge(found)

    def read(self, start: int, stop: int) -> bytes | None:
        """Bytes [start, stop), or None if not all of them are here."""
        parts = []
        for number in range(start // BLOCK, block_count(stop)):
            begin, end = number * BLOCK, min(self._size, (number + 1) * BLOCK)
            data = self._memory.get(self._sha1, number)
            if data is None and self._under is not None:
                data = self._under.read_verified(begin, end)
            if data is None:
                return None
            parts.append(data)
        first = start // BLOCK * BLOCK
        return b"".join(parts)[start - first : stop - first]

    def _on_disk(self, start: int, stop: int) -> bool:
        return self._under is not None and self._under.have(start, stop)
