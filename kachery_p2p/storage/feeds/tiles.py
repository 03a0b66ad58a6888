"""The hashes of a log's tree, in tiles of 256, and any node of the tree from them.

Tile ``number`` of tile level ``k`` holds 256 nodes of tree level ``8 k``; those of tile level 0 are
leaves. A tile is written once, when it is full. The *edges* are the incomplete last tile of each
level, as bytes; what is in them can be had again from the messages and the full tiles.

A log that is held from ``base`` on has places in its first tiles for hashes that it does not know.
They hold zeros and nothing ever asks for them: a node that lies wholly before ``base`` is one of the
peaks at ``base``, or is needed for no proof.

Invariant: edges are values. Growing makes new ones, so whoever reads keeps what it has.

Non-goals: where tiles lie (feed_log.py), whether hashes are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from kachery_p2p.protocol.feeds.feed import ALGORITHM
from kachery_p2p.protocol.feeds.frontier import TILE_HEIGHT, left_peaks, right_proof
from kachery_p2p.protocol.limits import TILE
from kachery_p2p.protocol.tree import HASH_BYTES, Nodes, level_above, node_hash

Edges = tuple[bytes, ...]
"""By tile level: the hashes of the incomplete last tile, fewer than 256 of 32 bytes each."""

_TILE_BYTES: Final = TILE * HASH_BYTES


class Tile(NamedTuple):
    """A full tile. ``root`` is the node above all of it, ``hashes`` are 256 of 32 bytes each."""

    level: int
    number: int
    root: bytes
    hashes: bytes


def edge_length(size: int, level: int) -> int:
    """How many hashes the incomplete last tile of a tile level has, in a tree of ``size``."""
    return (size >> TILE_HEIGHT * level) % TILE


def edge_number(size: int, level: int) -> int:
    """The number of the incomplete last tile of a tile level, in a tree of ``size``."""
    return size >> TILE_HEIGHT * (level + 1)


def edge_levels(size: int) -> range:
    """The tile levels that have nodes in a tree of ``size``."""
    return range((max(0, size.bit_length() - 1) // TILE_HEIGHT) + 1)


def unknown_edges(base: int) -> Edges:
    """The edges of a log of which nothing before ``base`` is known, and nothing after it yet."""
    return tuple(bytes(HASH_BYTES * edge_length(base, level)) for level in edge_levels(base))


def grow_edges(
    edges: Edges,
    size: int,
    leaves: Sequence[bytes],
    completed: Iterable[tuple[int, int, bytes]],
) -> tuple[Edges, list[Tile]]:
    """Append leaves.

    Args:
        edges: those at ``size``.
        size: leaves before.
        leaves: 32 bytes each.
        completed: what ``Frontier.extend(leaves)`` gave.

    Returns:
        The edges after, and the tiles that became full.
    """
    nodes = {(level, index): found for level, index, found in completed}
    rows: dict[int, list[bytes]] = {0: list(leaves)}
    for (level, _), found in nodes.items():
        rows.setdefault(level // TILE_HEIGHT, []).append(found)
    grown, full = list(edges), []
    for level, row in sorted(rows.items()):
        if level == len(grown):
            grown.append(b"")
        hashes = b"".join((grown[level], *row))
        number = edge_number(size, level)
        for at in range(0, len(hashes) - _TILE_BYTES + 1, _TILE_BYTES):
            root = nodes[TILE_HEIGHT * (level + 1), number]
            full.append(Tile(level, number, root, hashes[at : at + _TILE_BYTES]))
            number += 1
        grown[level] = hashes[len(hashes) - len(hashes) % _TILE_BYTES :]
    return tuple(grown), full


class TreeNodes:
    """``nodes(level, index)`` of the tree of ``total`` leaves, of which [base, size) are held.

    Args:
        base, size, total: leaves.
        peaks: those at ``base``.
        right: the right-hand proof that belongs to ``size`` and ``total``.
        edges: those at ``size``; of a level that is not there, :attr:`load` is asked.
        load: the hashes of a full tile, by tile level and number.

    Raises:
        ValueError: (from a call) it needs a node that is neither held nor follows from the proofs.
    """

    def __init__(
        self,
        base: int,
        size: int,
        total: int,
        *,
        peaks: Sequence[bytes],
        right: Sequence[bytes],
        edges: Edges,
        load: Callable[[int, int], bytes],
    ) -> None:
        self._base, self._size, self._total = base, size, total
        self._edges = edges
        self._load = load
        self._tiles: dict[tuple[int, int], bytes] = {}
        places: list[tuple[int, int]] = []

        def note(level: int, index: int) -> bytes:
            places.append((level, index))
            return b""

        left_peaks(note, base)
        right_proof(note, total, size)
        self._proven: Nodes = dict(zip(places, (*peaks, *right), strict=True))

    def __call__(self, level: int, index: int) -> bytes:
        """The hash of one node, 32 bytes."""
        found = self._proven.get((level, index))
        if found is not None:
            return found
        first, stop = index << level, (index + 1) << level
        if self._base <= first and stop <= self._size:
            return self._held(level, index)
        if level == 0 or stop <= self._base or first >= self._size:
            raise ValueError(f"node ({level}, {index}) is not known")
        left = self(level - 1, 2 * index)
        if (2 * index + 1) << (level - 1) >= self._total:
            return left
        return node_hash(ALGORITHM, left, self(level - 1, 2 * index + 1))

    def leaves(self, start: int, stop: int) -> list[bytes]:
        """The leaf hashes ``start <= i < stop``, which must be held."""
        if not self._base <= start <= stop <= self._size:
            raise ValueError(f"leaves [{start}, {stop}) are not all held")
        found: list[bytes] = []
        while start < stop:
            at = start % TILE
            count = min(TILE - at, stop - start)
            tile = self._tile(0, start // TILE)
            found += [tile[HASH_BYTES * i : HASH_BYTES * (i + 1)] for i in range(at, at + count)]
            start += count
        return found

    def _held(self, level: int, index: int) -> bytes:
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        at = first % TILE * HASH_BYTES
        hashes = self._tile(tile_level, first // TILE)[at : at + (HASH_BYTES << height)]
        for _ in range(height):
            hashes = level_above(ALGORITHM, hashes)
        return hashes

    def _tile(self, level: int, number: int) -> bytes:
        if number == edge_number(self._size, level) and level < len(self._edges):
            return self._edges[level]
        found = self._tiles.get((level, number))
        if found is None:
            found = self._tiles[level, number] = self._load(level, number)
        return found
