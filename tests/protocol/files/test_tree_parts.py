"""Proofs from parts of a hash tree are those from the whole of it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.files.manifest import TREE_ALGORITHM
from kachery_p2p.protocol.files.tree_parts import TreeParts
from kachery_p2p.protocol.limits import TREE_GROUP, TREE_GROUPS_KEPT


def flat(count: int) -> bytes:
    leaves = b"".join(bytes([at % 256, at // 256 % 256]) + bytes(30) for at in range(count))
    return b"".join(tree.levels(TREE_ALGORITHM, leaves))


def proved(parts: TreeParts, data: bytes, start: int, stop: int) -> tuple[list[bytes], int]:
    """The proof, and how many bytes had to be read for it."""
    read = 0
    for part in parts.needed(start, stop):
        parts.add(part, data[part.start : part.stop])
        read += part.stop - part.start
    return parts.proof(start, stop), read


@given(st.integers(1, 700), st.data())
def test_a_proof_from_parts_is_the_proof_from_the_whole(count: int, draw: st.DataObject) -> None:
    data, parts = flat(count), TreeParts(count)
    levels = tree.widths(count)

    def node(level: int, index: int) -> bytes:
        at = (sum(levels[:level]) + index) * tree.HASH_BYTES
        return data[at : at + tree.HASH_BYTES]

    for _ in range(3):
        start = draw.draw(st.integers(0, count - 1))
        stop = draw.draw(st.integers(start + 1, count))
        proof, _ = proved(parts, data, start, stop)
        assert proof == tree.range_proof(node, count, start, stop)
        leaves = [node(0, at) for at in range(start, stop)]
        root = node(len(levels) - 1, 0)
        tree.verify_range(TREE_ALGORITHM, root, count, start, leaves, proof)


def test_a_small_part_of_a_large_file_takes_little_of_its_tree() -> None:
    count = 80_000  # 5 GB
    parts = TreeParts(count)
    needed = parts.needed(40_000, 40_016)
    top, group = needed
    assert group.stop - group.start == TREE_GROUP * tree.HASH_BYTES
    assert top.stop - top.start < 48 * 1024
    whole = TreeParts(1 << 34).needed(5, 6)  # the largest file there can be
    assert sum(part.stop - part.start for part in whole) < 40 * 1024 * 1024


def test_what_is_kept_of_a_tree_is_bounded_and_may_be_read_again() -> None:
    count = TREE_GROUP * (TREE_GROUPS_KEPT + 3)
    data, parts = flat(count), TreeParts(count)
    for group in range(TREE_GROUPS_KEPT + 3):
        _, read = proved(parts, data, group * TREE_GROUP, group * TREE_GROUP + 1)
        assert read >= TREE_GROUP * tree.HASH_BYTES
    assert proved(parts, data, count - 1, count)[1] == 0
    assert proved(parts, data, 0, 1)[1] == TREE_GROUP * tree.HASH_BYTES


def test_bytes_that_are_not_all_of_a_part_are_refused() -> None:
    parts = TreeParts(1_000)
    with pytest.raises(ValueError, match="bytes of a tree"):
        parts.add(parts.needed(0, 1)[1], os.urandom(32))
