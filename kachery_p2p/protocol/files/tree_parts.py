"""Parts of a hash tree that lies elsewhere: which of its bytes are needed to prove a range.

A flat tree takes a thousandth of its file, which is too much to read for a small part. What a proof
needs besides the upper levels lies in the groups of leaves in which the range begins and ends: from the
leaves of an aligned group follow all nodes above them. So the upper levels are read once, and then
4 KiB of leaves for 8 MiB of the file.

Invariants: what is kept is bounded; nothing here is believed: a proof from a tree that is wrong leads
to another root. Not for several threads at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.limits import TREE_GROUP, TREE_GROUPS_KEPT, TREE_TOP_BYTES

from .manifest import TREE_ALGORITHM

TOP: Final = -1
"""Instead of a group's number: the upper levels."""


class TreePart(NamedTuple):
    """Bytes [start, stop) of the flat tree. ``group``: what they are."""

    group: int
    start: int
    stop: int


class TreeParts:
    """Of a tree of ``count`` leaves, at least one."""

    def __init__(self, count: int) -> None:
        self._count = count
        widths = tree.widths(count)
        height = TREE_GROUP.bit_length() - 1
        while sum(widths[height:]) * tree.HASH_BYTES > TREE_TOP_BYTES:
            height += 1
        self._height: Final = min(height, len(widths) - 1)
        """The level whose nodes are the roots of groups."""
        self._widths = widths
        self._top = b""
        self._groups: OrderedDict[int, list[bytes]] = OrderedDict()

    def needed(self, start: int, stop: int) -> list[TreePart]:
        """What is not here yet of what the proof of the leaves [start, stop) takes."""
        parts = []
        if not self._top:
            first = tree.flat_offset(self._count, self._height, 0)
            parts.append(TreePart(TOP, first, tree.flat_size(self._count)))
        for group in sorted({start >> self._height, (stop - 1) >> self._height}):
            if group in self._groups:
                self._groups.move_to_end(group)
                continue
            first = group << self._height
            last = min(self._count, first + (1 << self._height))
            parts.append(TreePart(group, first * tree.HASH_BYTES, last * tree.HASH_BYTES))
        return parts

    def add(self, part: TreePart, data: bytes) -> None:
        """Take the bytes of a part, all of them."""
        if len(data) != part.stop - part.start:
            raise ValueError(f"{len(data)} bytes of a tree, not {part.stop - part.start}")
        if part.group == TOP:
            self._top = data
            return
        self._groups[part.group] = tree.levels(TREE_ALGORITHM, data)
        while len(self._groups) > TREE_GROUPS_KEPT:
            self._groups.popitem(last=False)

    def proof(self, start: int, stop: int) -> list[bytes]:
        """What leads from the leaves [start, stop) to the root; all parts needed for it are here."""
        return tree.range_proof(self._node, self._count, start, stop)

    def _node(self, level: int, index: int) -> bytes:
        if level >= self._height:
            skipped = sum(self._widths[self._height : level])
            at = (skipped + index) * tree.HASH_BYTES
            return self._top[at : at + tree.HASH_BYTES]
        below = self._height - level
        levels = self._groups[index >> below]
        # The last group may be smaller: its root comes to be on a lower level, and moves up unchanged.
        row = levels[min(level, len(levels) - 1)]
        at = (index - ((index >> below) << below)) * tree.HASH_BYTES
        return row[at : at + tree.HASH_BYTES]
