"""Merkle trees as RFC 9162 (and RFC 6962) define them, generic over the hash.

A leaf is ``H(0x00 || data)`` and a node is ``H(0x01 || left || right)``. Levels are built bottom up
and the lone last node of a level moves up unchanged, which gives the same root as the RFC's split
at the largest power of two below the count. Files use BLAKE3 over 64 KiB blocks, feeds SHA-256 or
BLAKE3 over entries.

Invariants: a hash is 32 bytes; level 0 is the leaves, the last level is the root alone; a *flat*
tree is all levels concatenated, leaves first. What :func:`verify_range` returns leads to the root,
every entry of it. The leaf count is never taken from a proof: the caller knows it from a trusted
place, as it knows the root.

Non-goals: consistency proofs between two sizes, sparse trees, storage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import blake3

Buffer = bytes | bytearray | memoryview
Nodes = dict[tuple[int, int], bytes]
"""(level, index within the level) -> hash."""

HASH_BYTES: Final = 32
"""Bytes of one leaf or node, whichever the hash."""
LEAF_PREFIX: Final = b"\x00"
"""What a leaf's data is hashed after."""


class Hasher(Protocol):
    """What :mod:`hashlib` objects and BLAKE3's have in common."""

    def update(self, data: Buffer, /) -> object: ...
    def digest(self) -> bytes: ...


HASHES: Final[dict[str, Callable[[Buffer], Hasher]]] = {
    "blake3": blake3.blake3,
    "sha256": hashlib.sha256,
}
"""Name of a hash -> its constructor, which takes the first bytes."""


class ProofError(ValueError):
    """A proof that does not lead to the root, or does not fit the range."""


def leaf_hash(algorithm: str, data: Buffer) -> bytes:
    """The 32-byte hash of one leaf."""
    hasher = HASHES[algorithm](LEAF_PREFIX)
    hasher.update(data)
    return hasher.digest()


def hashes_of_leaves(algorithm: str, leaves: Sequence[Buffer]) -> list[bytes]:
    """As :func:`leaf_hashes`, of leaves that have ``LEAF_PREFIX`` before their data already: a third
    quicker with BLAKE3, which takes whole kilobytes at a time."""
    make = HASHES[algorithm]
    return [make(leaf).digest() for leaf in leaves]


def leaf_hashes(algorithm: str, data: Buffer, block: int) -> list[bytes]:
    """The leaves of ``data`` cut into pieces of ``block`` bytes; the last may be shorter."""
    view = memoryview(data)
    return [leaf_hash(algorithm, view[at : at + block]) for at in range(0, len(view), block)]


def node_hash(algorithm: str, left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of an inner node."""
    return HASHES[algorithm](b"\x01" + left + right).digest()


def widths(count: int) -> list[int]:
    """How many nodes each level of a tree with ``count`` leaves has; empty for no leaves."""
    if count < 0:
        raise ValueError(f"a tree of {count} leaves")
    found = []
    while count > 1:
        found.append(count)
        count = (count + 1) // 2
    return [*found, count] if count else []


def flat_offset(count: int, level: int, index: int) -> int:
    """Where in the flat tree a node begins, in bytes. Raises IndexError if there is none."""
    below = widths(count)
    if not (0 <= level < len(below) and 0 <= index < below[level]):
        raise IndexError(f"no node ({level}, {index}) in a tree of {count} leaves")
    return (sum(below[:level]) + index) * HASH_BYTES


def flat_size(count: int) -> int:
    """Bytes of the flat tree."""
    return sum(widths(count)) * HASH_BYTES


def levels(algorithm: str, leaves: Buffer) -> list[bytes]:
    """All levels over concatenated leaf hashes, each level's hashes concatenated.

    Level 0 is ``leaves`` itself and the last is the root; no leaves give no levels.
    """
    if len(leaves) % HASH_BYTES:
        raise ValueError("leaves are not a whole number of hashes")
    if not leaves:
        return []
    found = [bytes(leaves)]
    while len(found[-1]) > HASH_BYTES:
        found.append(level_above(algorithm, found[-1]))
    return found


def level_above(algorithm: str, below: bytes) -> bytes:
    """The level over ``below``, or that part of it that lies over an even-aligned part of it."""
    make = HASHES[algorithm]
    pair = 2 * HASH_BYTES
    paired = len(below) - len(below) % pair
    nodes = [make(b"\x01" + below[at : at + pair]).digest() for at in range(0, paired, pair)]
    return b"".join(nodes) + below[paired:]


def root(algorithm: str, leaves: Buffer) -> bytes:
    """The root over concatenated leaf hashes. That of no leaves is the hash of no bytes."""
    found = levels(algorithm, leaves)
    return found[-1] if found else HASHES[algorithm](b"").digest()


def range_proof(
    nodes: Callable[[int, int], bytes], count: int, start: int, stop: int
) -> list[bytes]:
    """The hashes that lead from the leaves [start, stop) to the root of ``count`` leaves.

    Level by level from the leaves up: the left sibling, where there is one, then the right one.
    ``nodes(level, index)`` gives the hashes. Raises ValueError for an empty or impossible range.
    """
    _check_range(count, start, stop)
    proof = []
    first, last = start, stop - 1
    for level, width in enumerate(widths(count)):
        if first & 1:
            proof.append(nodes(level, first - 1))
        if not last & 1 and last + 1 < width:
            proof.append(nodes(level, last + 1))
        first, last = first // 2, last // 2
    return proof


def verify_range(
    algorithm: str,
    root: bytes,
    count: int,
    start: int,
    leaf_hashes: Sequence[bytes],
    proof: Sequence[bytes],
) -> Nodes:
    """Check that leaves ``start``... lead to ``root``; all nodes learned that way.

    ``count`` and ``root`` must come from a trusted place. The result holds the leaves, the inner
    nodes above them and the proof's own hashes, so whoever keeps it can prove every part of the
    range to others.

    Raises:
        ProofError: it does not lead to the root, or has too few, too many or odd-sized hashes.
    """
    try:
        _check_range(count, start, start + len(leaf_hashes))
    except ValueError as error:
        raise ProofError(str(error)) from None
    if any(len(item) != HASH_BYTES for item in (*leaf_hashes, *proof)):
        raise ProofError(f"a hash is not {HASH_BYTES} bytes")
    make = HASHES[algorithm]
    learned: Nodes = {}
    row = list(leaf_hashes)
    first = start
    used = 0
    for level, width in enumerate(widths(count)):
        last = first + len(row) - 1
        left = first & 1
        right = not last & 1 and last + 1 < width
        if used + left + right > len(proof):
            raise ProofError("the proof is too short")
        if left:
            first -= 1
            row.insert(0, proof[used])
            used += 1
        if right:
            row.append(proof[used])
            used += 1
        learned.update(zip(((level, first + at) for at in range(len(row))), row, strict=True))
        if width == 1:
            break
        above = [make(b"\x01" + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        if len(row) & 1:
            above.append(row[-1])
        row, first = above, first // 2
    if used != len(proof):
        raise ProofError("the proof is too long")
    if row != [root]:
        raise ProofError("the proof does not lead to the root")
    return learned


def _check_range(count: int, start: int, stop: int) -> None:
    if not 0 <= start < stop <= count:
        raise ValueError(f"no leaves [{start}, {stop}) in a tree of {count}")
