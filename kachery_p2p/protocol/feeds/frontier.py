"""The right edge of a growing RFC 9162 tree, which is all that appending to it takes.

A tree of ``size`` leaves falls into complete subtrees, one for each set bit of ``size``; their roots
are the *peaks*, also called a compact range. They give the root, take more leaves, and prove that a
longer tree begins with this one: whoever extends its own frontier with what it is sent, and so
arrives at the root that was signed, has both checked the new leaves and that nothing before them was
changed.

Invariants: peaks are 32 bytes each, the largest subtree first; their number and places follow from
``size``, which never comes from a proof. An extension that is refused changes nothing.

Non-goals: keeping nodes (whoever extends is handed those that belong to tiles), proofs of ranges
(tree.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from kachery_p2p.protocol.limits import TILE
from kachery_p2p.protocol.tree import (
    HASH_BYTES,
    HASHES,
    Nodes,
    ProofError,
    level_above,
    node_hash,
    widths,
)

TILE_HEIGHT: Final = TILE.bit_length() - 1
"""Levels that a tile of ``TILE`` hashes spans: its root is so many levels above its hashes."""

_HASH_SIZES: Final = frozenset((HASH_BYTES,))


class Frontier:
    """The peaks of a tree.

    Args:
        algorithm: a key of :data:`.tree.HASHES`.
        size: how many leaves.
        peaks: 32 bytes for each set bit of ``size``, the largest subtree first.

    Raises:
        ValueError: the peaks do not fit the size, or there is no such hash.
    """

    __slots__ = ("_algorithm", "_levels", "size")

    size: int
    """How many leaves the tree has."""

    def __init__(self, algorithm: str, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        if algorithm not in HASHES:
            raise ValueError(f"no hash is called {algorithm!r}")
        if size < 0 or len(peaks) != size.bit_count():
            raise ValueError(f"{len(peaks)} peaks for a tree of {size} leaves")
        _check_hashes(peaks)
        self._algorithm = algorithm
        self.size = size
        # By level; empty where that bit of the size is not set.
        self._levels = [b""] * size.bit_length()
        for level, peak in zip(_peak_levels(size), peaks, strict=True):
            self._levels[level] = bytes(peak)

    @property
    def peaks(self) -> tuple[bytes, ...]:
        """The roots of the complete subtrees, the largest first."""
        return tuple(filter(None, reversed(self._levels)))

    def extend(self, leaves: Iterable[bytes]) -> list[tuple[int, int, bytes]]:
        """Append leaf hashes.

        Args:
            leaves: 32 bytes each.

        Returns:
            The nodes (level, index within the level, hash) that were completed and whose level is a
            positive multiple of ``TILE_HEIGHT``: the hashes of the tiles above the leaves. By level,
            then by index.

        Raises:
            ValueError: a leaf is not 32 bytes; nothing was appended.
        """
        row = list(leaves)
        _check_hashes(row)
        found: list[tuple[int, int, bytes]] = []
        levels = self._levels
        first, last, level = self.size, self.size + len(row), 0
        self.size = last
        below = b"".join(row)
        while below:
            if level == len(levels):
                levels.append(b"")
            if level and level % TILE_HEIGHT == 0:
                found += [
                    (level, index, below[at : at + HASH_BYTES])
                    for index, at in enumerate(range(0, len(below), HASH_BYTES), first)
                ]
            if first & 1:
                below = levels[level] + below
                levels[level] = b""
            if last & 1:
                levels[level] = below[-HASH_BYTES:]
                below = below[:-HASH_BYTES]
            below = level_above(self._algorithm, below)
            first, last, level = first >> 1, last >> 1, level + 1
        return found

    def root(self) -> bytes:
        """The root of the tree; that of no leaves is the hash of no bytes."""
        return self.root_within(self.size, ())

    def root_within(self, count: int, right: Sequence[bytes]) -> bytes:
        """The root of a larger tree that begins with this one.

        Args:
            count: the leaves of the larger tree, from a trusted place.
            right: what :func:`right_proof` gives there for ``size``.

        Returns:
            A root, which is the larger tree's only if both the peaks and the proof are true: compare
            it with one that is trusted.

        Raises:
            ProofError: the proof has too few, too many or odd-sized hashes, or ``count`` is less
                than ``size``, or more although ``size`` is 0.
        """
        size = self.size
        if count < size or (size == 0 and count):
            raise ProofError(f"a tree of {count} leaves cannot begin with one of {size}")
        _check_hashes(right, ProofError)
        if size == 0:
            if right:
                raise ProofError("the proof is too long")
            return HASHES[self._algorithm](b"").digest()
        algorithm, levels = self._algorithm, self._levels
        node = b""
        used = 0
        for level, width in enumerate(widths(count)):
            last = size - 1 >> level
            peak = levels[level] if level < len(levels) else b""
            if not node:
                node = peak
            elif peak:
                node = node_hash(algorithm, peak, node)
            if node and not last & 1 and last + 1 < width:
                if used == len(right):
                    raise ProofError("the proof is too short")
                node = node_hash(algorithm, node, right[used])
                used += 1
        if used != len(right):
            raise ProofError("the proof is too long")
        return node

    def copy(self) -> Frontier:
        """Another one, to try an extension on."""
        return Frontier(self._algorithm, self.size, self.peaks)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Frontier):
            return NotImplemented
        mine = self._algorithm, self.size, self.peaks
        return mine == (other._algorithm, other.size, other.peaks)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Frontier of {self.size} leaves, {self._algorithm}>"


def right_proof(nodes: Callable[[int, int], bytes], count: int, stop: int) -> list[bytes]:
    """The right siblings of leaf ``stop - 1`` on its way to the root of ``count`` leaves.

    Args:
        nodes: gives the hash at (level, index), those at the incomplete right edge of the tree of
            ``count`` leaves included.
        count: leaves of the whole tree.
        stop: leaves of its beginning.

    Returns:
        From the leaves up, at most one hash for each level; none if ``stop`` is ``count``.

    Raises:
        ValueError: ``stop`` is not between 1 and ``count``; 0 of 0 is allowed.
    """
    if not 0 <= stop <= count or (stop == 0 and count):
        raise ValueError(f"no beginning of {stop} leaves in a tree of {count}")
    proof = []
    last = stop - 1
    for level, width in enumerate(widths(count)):
        if not last & 1 and last + 1 < width:
            proof.append(nodes(level, last + 1))
        last >>= 1
    return proof


def left_peaks(nodes: Callable[[int, int], bytes], start: int) -> list[bytes]:
    """The peaks of the first ``start`` leaves, the largest first.

    ``nodes(level, index)`` gives the hashes; only complete subtrees are asked for. Raises ValueError
    if ``start`` is negative.
    """
    if start < 0:
        raise ValueError(f"a tree of {start} leaves")
    # The subtree of a set bit ends where the bits from it upwards put it.
    return [nodes(level, (start >> level) - 1) for level in _peak_levels(start)]


def root_at(algorithm: str, learned: Nodes, size: int) -> bytes:
    """The root that a tree had when it was ``size`` leaves long.

    Args:
        algorithm: a key of :data:`.tree.HASHES`.
        learned: what :func:`.tree.verify_range` gave for leaf ``size - 1`` of the longer tree (or
            for a range of which that is the last one).
        size: from 1.

    Raises:
        ProofError: ``learned`` does not hold that leaf and the nodes left of its way to the root.
    """
    if size < 1:
        raise ProofError("no leaf is the last one of no leaves")
    try:
        peaks = left_peaks(lambda level, index: learned[level, index], size)
    except KeyError as error:
        raise ProofError(f"node {error} is not known") from None
    return Frontier(algorithm, size, peaks).root()


def _peak_levels(size: int) -> list[int]:
    """The levels of the peaks, the largest first: where ``size`` has its bits."""
    return [level for level in reversed(range(size.bit_length())) if size >> level & 1]


def _check_hashes(hashes: Sequence[bytes], error: type[ValueError] = ValueError) -> None:
    if not _HASH_SIZES.issuperset(map(len, hashes)):
        raise error(f"a hash is not {HASH_BYTES} bytes")
