"""A file's Merkle tree on disk: all levels concatenated, leaves first, 32 bytes a hash.

Invariants: a tree file was either written whole or is not there under its final name; its size
says how many leaves it has. Memory does not grow with the file: leaves go to disk as they come, and
upper levels are made from there.

The hashes read from disk are not believed: a proof is checked against the root before it is given
out, and whoever knows the root from a manifest compares it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import CorruptContent
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM
from kachery_p2p.protocol.limits import BLOCK, MIB
from kachery_p2p.storage.closing import Closing
from kachery_p2p.storage.disk import (
    Buffer,
    create,
    disk_errors,
    move,
    pread_up_to,
    remove,
    temporary_path,
    write_all,
)

OWN_STORAGE: Final = "this node's storage"
"""The ``source`` of a :class:`CorruptContent` whose bytes came from the local disk."""

_SLICE: Final = 1 * MIB
_WHAT: Final = "a hash tree"


def block_count(size: int) -> int:
    """How many leaves a file of ``size`` bytes has."""
    return -(-size // BLOCK)


class TreeBuilder:
    """Collects leaves and turns them into a tree file. The temporary file is made when needed."""

    def __init__(self, folder: Path) -> None:
        self._path = temporary_path(folder)
        self._fd = -1
        self._waiting = bytearray()
        self._count = 0

    def add(self, leaves: Buffer) -> None:
        """Append concatenated leaf hashes."""
        self._waiting += leaves
        self._count += len(leaves) // tree.HASH_BYTES
        if len(self._waiting) >= _SLICE:
            self._flush()

    def finish(self) -> bytes:
        """Write the upper levels; the root."""
        self._flush()
        with disk_errors(_WHAT, self._path):
            start = 0
            for width in tree.widths(self._count)[:-1]:
                length = width * tree.HASH_BYTES
                for at in range(0, length, _SLICE):
                    part = pread_up_to(self._fd, min(_SLICE, length - at), start + at)
                    # A slice is a whole number of pairs, but for the end of the level.
                    self._waiting += tree.level_above(TREE_ALGORITHM, part)
                    self._flush()
                start += length
            return pread_up_to(self._fd, tree.HASH_BYTES, start)

    def place(self, target: Path, durable: bool) -> None:
        """Give the finished file its name; it replaces an older one."""
        with disk_errors(_WHAT, target):
            if durable:
                os.fsync(self._fd)
            move(self._path, target, durable)
        # Not before: what was not placed is still to be removed.
        os.close(self._fd)
        self._fd = -1

    def abort(self) -> None:
        """Leave nothing behind; harmless after :meth:`place`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            remove(self._path)

    def _flush(self) -> None:
        with disk_errors(_WHAT, self._path):
            if self._fd < 0:
                self._fd = create(self._path)
            write_all(self._fd, self._waiting)
        self._waiting = bytearray()


class TreeFile(Closing):
    """A tree file that is open for reading. May be used by several threads until it is closed."""

    def __init__(self, fd: int, sha1: str, count: int) -> None:
        self.sha1 = sha1
        self.count = count
        self._fd = fd
        self._offsets = [tree.flat_offset(count, at, 0) for at in range(len(tree.widths(count)))]
        self.root = self.node(len(self._offsets) - 1, 0)

    @classmethod
    def open(cls, path: Path, sha1: str, count: int) -> TreeFile | None:
        """The tree of ``count`` leaves at ``path``; None if there is none of that size."""
        with disk_errors(_WHAT, path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                if os.fstat(fd).st_size == tree.flat_size(count):
                    return cls(fd, sha1, count)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
            return None

    def node(self, level: int, index: int) -> bytes:
        """One hash."""
        return pread_up_to(
            self._fd, tree.HASH_BYTES, self._offsets[level] + index * tree.HASH_BYTES
        )

    def leaves(self, start: int, stop: int) -> list[bytes]:
        """The leaf hashes of the blocks [start, stop)."""
        length = tree.HASH_BYTES
        data = pread_up_to(self._fd, (stop - start) * length, start * length)
        return [data[at : at + length] for at in range(0, len(data), length)]

    def proof(self, start: int, stop: int) -> list[bytes]:
        """What leads from the blocks [start, stop) to the root.

        Raises:
            CorruptContent: the tree file itself is damaged; it must be rebuilt.
            ValueError: there is no such range.
        """
        proof = tree.range_proof(self.node, self.count, start, stop)
        try:
            tree.verify_range(
                TREE_ALGORITHM, self.root, self.count, start, self.leaves(start, stop), proof
            )
        except tree.ProofError as error:
            what = f"the hash tree of sha1://{self.sha1}"
            raise CorruptContent(what=what, source=OWN_STORAGE) from error
        return proof

    def check_blocks(self, start_block: int, data: Buffer) -> bool:
        """Whether ``data``, which begins with ``start_block``, has the leaf hashes stored here."""
        hashes = tree.leaf_hashes(TREE_ALGORITHM, data, BLOCK)
        return self.leaves(start_block, start_block + len(hashes)) == hashes

    def check_leaves(self, start_block: int, leaves: Sequence[Buffer]) -> bool:
        """The same of whole blocks, each with ``LEAF_PREFIX`` before it."""
        hashes = tree.hashes_of_leaves(TREE_ALGORITHM, leaves)
        return self.leaves(start_block, start_block + len(hashes)) == hashes

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
