"""The frontier agrees with the whole tree: at every size, along every way to it, against any proof."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.feeds.frontier import (
    TILE_HEIGHT,
    Frontier,
    left_peaks,
    right_proof,
    root_at,
)
from kachery_p2p.protocol.limits import TILE
from kachery_p2p.protocol.tree import HASHES, ProofError

MOST = 600
LEAVES = [hashlib.sha256(b"\x00%d" % number).digest() for number in range(2 * TILE + 100)]
counts = st.integers(1, MOST)

# The Certificate Transparency reference tree: its leaves and its roots at every size.
CT_LEAVES = [
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]  # fmt: skip
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@cache
def levels(count: int) -> list[bytes]:
    return tree.levels("sha256", b"".join(LEAVES[:count]))


def nodes(count: int) -> Callable[[int, int], bytes]:
    found = levels(count)

    def node(level: int, index: int) -> bytes:
        value = found[level][32 * index : 32 * index + 32]
        assert len(value) == 32, f"there is no node ({level}, {index}) in a tree of {count}"
        return value

    return node


def root_of(count: int) -> bytes:
    return tree.root("sha256", b"".join(LEAVES[:count]))


def grown(count: int) -> Frontier:
    frontier = Frontier("sha256")
    frontier.extend(LEAVES[:count])
    return frontier


def pieces(count: int, cuts: list[int]) -> Iterator[list[bytes]]:
    at = 0
    for cut in [*sorted(cuts), count]:
        yield LEAVES[at:cut]
        at = cut


# --- growing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", range(1, 9))
def test_the_ct_reference_tree_has_its_published_roots(count: int) -> None:
    frontier = Frontier("sha256")
    frontier.extend(tree.leaf_hash("sha256", bytes.fromhex(text)) for text in CT_LEAVES[:count])
    assert frontier.root().hex() == CT_ROOTS[count - 1]


def test_one_leaf_after_another_gives_the_root_of_the_whole_tree_at_every_size() -> None:
    frontier = Frontier("sha256")
    assert frontier.root() == root_of(0) == hashlib.sha256(b"").digest()
    for size in range(1, MOST + 1):
        frontier.extend([LEAVES[size - 1]])
        assert frontier.size == size
        assert frontier.root() == root_of(size)
        assert len(frontier.peaks) == size.bit_count()


@pytest.mark.parametrize("algorithm", sorted(HASHES))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 255, 256, 257, 511, 600])
def test_all_leaves_at_once_give_the_same_with_either_hash(algorithm: str, count: int) -> None:
    frontier = Frontier(algorithm)
    frontier.extend(iter(LEAVES[:count]))
    assert frontier.root() == tree.root(algorithm, b"".join(LEAVES[:count]))


@given(counts, st.lists(st.integers(0, MOST), max_size=8))
@settings(deadline=None, max_examples=100)
def test_how_the_leaves_are_cut_up_does_not_matter(count: int, cuts: list[int]) -> None:
    whole, found = Frontier("sha256"), []
    completed = whole.extend(LEAVES[:count])
    part = Frontier("sha256")
    for piece in pieces(count, [min(cut, count) for cut in cuts]):
        found += part.extend(piece)
    assert part == whole
    assert part.peaks == whole.peaks
    assert sorted(found) == sorted(completed)


@given(st.integers(0, MOST), st.integers(0, MOST))
@settings(deadline=None, max_examples=100)
def test_it_goes_on_from_the_peaks_that_were_kept(start: int, count: int) -> None:
    start, count = sorted((start, count))
    frontier = Frontier("sha256", start, grown(start).peaks)
    assert frontier == grown(start)
    frontier.extend(LEAVES[start:count])
    assert frontier == grown(count)
    assert frontier.root() == root_of(count)


@pytest.mark.parametrize("start", [0, 1, 255, 256, 257, 300, 511, 512])
@pytest.mark.parametrize("count", [1, 255, 256, 257, 511, 512, 513, 612])
def test_the_hashes_of_higher_tiles_come_out_once_and_when_they_are_complete(
    start: int, count: int
) -> None:
    if start > count:
        start, count = count, start
    frontier = grown(start)
    found = frontier.extend(LEAVES[start:count])
    expected = [
        (TILE_HEIGHT, index, nodes(count)(TILE_HEIGHT, index))
        for index in range(start // TILE, count // TILE)
    ]
    assert found == expected


def test_the_hash_of_the_third_row_of_tiles_comes_out_too() -> None:
    count = TILE * TILE
    leaf = LEAVES[0]
    frontier = Frontier("sha256")
    found = frontier.extend([leaf] * (count - 1))
    assert [(level, index) for level, index, _ in found] == [(8, at) for at in range(TILE - 1)]
    node = leaf
    for _ in range(16):
        node = tree.node_hash("sha256", node, node)
    last = frontier.extend([leaf])
    assert [(level, index) for level, index, _ in last] == [(8, TILE - 1), (16, 0)]
    assert last[-1][2] == frontier.root() == node
    assert frontier.peaks == (node,)


def test_a_far_away_frontier_numbers_its_nodes_as_the_whole_tree_does() -> None:
    size = (1 << 40) - TILE
    frontier = Frontier("sha256", size, [bytes([n]) * 32 for n in range(size.bit_count())])
    found = frontier.extend(LEAVES[:TILE])
    assert [(level, index) for level, index, _ in found] == [
        (8, (1 << 32) - 1), (16, (1 << 24) - 1), (24, (1 << 16) - 1), (32, 255), (40, 0),
    ]  # fmt: skip
    assert frontier.size == 1 << 40
    assert frontier.peaks == (frontier.root(),)


def test_a_copy_goes_its_own_way() -> None:
    one = grown(5)
    other = one.copy()
    assert one == other
    other.extend(LEAVES[5:9])
    assert (one.size, one.root()) == (5, root_of(5))
    assert (other.size, other.root()) == (9, root_of(9))
    assert one != other


def test_nothing_appended_changes_nothing() -> None:
    frontier = grown(6)
    assert frontier.extend([]) == []
    assert frontier == grown(6)


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "peaks"),
    [
        (0, [bytes(32)]),
        (1, []),
        (3, [bytes(32)]),
        (3, [bytes(32)] * 3),
        (4, [bytes(32)] * 2),
        (-1, []),
        (-1, [bytes(32)]),
        (1, [bytes(31)]),
        (1, [bytes(33)]),
        (3, [bytes(31), bytes(33)]),
        (3, [bytes(32), b""]),
    ],
)
def test_peaks_that_do_not_fit_the_size_are_refused(size: int, peaks: list[bytes]) -> None:
    with pytest.raises(ValueError, match=r"peaks for a tree|not 32 bytes"):
        Frontier("sha256", size, peaks)


def test_an_unknown_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="md5"):
        Frontier("md5")


@pytest.mark.parametrize("bad", [[b""], [bytes(31)], [bytes(31), bytes(33)], [bytes(64)]])
@pytest.mark.parametrize("size", [0, 1, 6])
def test_an_odd_sized_leaf_is_refused_and_nothing_is_appended(size: int, bad: list[bytes]) -> None:
    frontier = grown(size)
    with pytest.raises(ValueError, match="not 32 bytes"):
        frontier.extend([*LEAVES[size : size + 3], *bad])
    assert frontier == grown(size)


# --- beginnings of larger trees ------------------------------------------------------------------


@pytest.mark.parametrize("count", [*range(1, 34), 63, 64, 65, 255, 256, 257, 600])
def test_every_beginning_of_a_tree_leads_to_its_root(count: int) -> None:
    node = nodes(count)
    for stop in range(1, count + 1):
        frontier = Frontier("sha256", stop, left_peaks(node, stop))
        assert frontier == grown(stop)
        proof = right_proof(node, count, stop)
        assert frontier.root_within(count, proof) == root_of(count)
        assert len(proof) <= len(tree.widths(count))
        assert bool(proof) == (stop < count)


@given(counts, st.data())
@settings(deadline=None, max_examples=150)
def test_the_right_hand_proof_is_that_half_of_a_range_proof(
    count: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(1, count))
    # A range from the first leaf on has no left siblings.
    assert right_proof(nodes(count), count, stop) == tree.range_proof(nodes(count), count, 0, stop)


@given(counts, st.data())
@settings(deadline=None, max_examples=300)
def test_only_the_truth_leads_to_the_root(count: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    node = nodes(count)
    peaks, leaves = left_peaks(node, start), LEAVES[start:stop]
    proof = right_proof(node, count, stop)
    parts = {"peaks": peaks, "leaves": leaves, "proof": proof}
    kind = data.draw(st.sampled_from(sorted(name for name, part in parts.items() if part)))
    part = parts[kind]
    at = data.draw(st.integers(0, len(part) - 1))
    change = data.draw(st.sampled_from(["flip", "less", "more", "swap"]))
    if change == "flip":
        part[at] = bytes([part[at][0] ^ 1]) + part[at][1:]
    elif change == "less":
        del part[at]
    elif change == "more":
        part.insert(at, part[at])
    else:
        part[at] = data.draw(st.sampled_from([LEAVES[-1], part[at][:-1], part[at] + b"x"]))
    try:
        frontier = Frontier("sha256", start, peaks)
        frontier.extend(leaves)
        found = frontier.root_within(count, proof)
    except ValueError:
        found = None
    assert found != root_of(count)


@given(counts, st.integers(0, 5), st.data())
@settings(deadline=None, max_examples=100)
def test_a_proof_of_another_length_is_a_proof_error(
    count: int, more: int, data: st.DataObject
) -> None:
    stop = data.draw(st.integers(1, count))
    proof = right_proof(nodes(count), count, stop)
    for wrong in ([*proof, bytes(32)], *([proof[:-1]] if proof else [])):
        with pytest.raises(ProofError, match=r"too long|too short"):
            grown(stop).root_within(count, wrong)
    with pytest.raises(ProofError, match="cannot begin"):
        grown(stop).root_within(stop - 1 - more, proof)


@pytest.mark.parametrize("size", [31, 33, 0])
def test_a_proof_of_odd_sized_hashes_is_a_proof_error(size: int) -> None:
    with pytest.raises(ProofError, match="not 32 bytes"):
        grown(1).root_within(2, [bytes(size)])


def test_nothing_is_the_beginning_of_nothing_only() -> None:
    assert Frontier("sha256").root_within(0, []) == root_of(0)
    with pytest.raises(ProofError, match="too long"):
        Frontier("sha256").root_within(0, [bytes(32)])
    with pytest.raises(ProofError, match="cannot begin"):
        Frontier("sha256").root_within(1, [LEAVES[0]])


def test_the_proof_of_a_small_tree_is_these_very_nodes() -> None:
    #        root            six leaves; the beginning is the first three
    #     a        b
    #   c   d    e         c = (0 1), d = (2 3), e = (4 5) moves up to be b
    node = nodes(6)
    assert right_proof(node, 6, 3) == [LEAVES[3], node(1, 2)]
    assert left_peaks(node, 3) == [node(1, 0), LEAVES[2]]
    assert left_peaks(node, 6) == [node(2, 0), node(1, 2)]
    assert left_peaks(node, 0) == right_proof(node, 6, 6) == []


@pytest.mark.parametrize(("count", "stop"), [(5, 0), (5, 6), (5, -1), (0, 1), (-1, -1), (-1, 0)])
def test_impossible_beginnings_are_refused(count: int, stop: int) -> None:
    with pytest.raises(ValueError, match="no beginning"):
        right_proof(lambda level, index: bytes(32), count, stop)


def test_the_beginning_of_no_leaves_needs_no_proof() -> None:
    assert right_proof(lambda level, index: bytes(32), 0, 0) == []
    with pytest.raises(ValueError, match="-1 leaves"):
        left_peaks(lambda level, index: bytes(32), -1)


@given(st.integers(1, 1 << 40))
def test_the_peaks_asked_for_cover_every_leaf_once(start: int) -> None:
    asked: list[tuple[int, int]] = []

    def node(level: int, index: int) -> bytes:
        asked.append((level, index))
        return bytes(32)

    left_peaks(node, start)
    at = 0
    for level, index in asked:
        assert index << level == at
        at += 1 << level
    assert at == start
    assert [level for level, _ in asked] == sorted({level for level, _ in asked}, reverse=True)


@given(st.integers(1, 1 << 40), st.data())
def test_proofs_in_the_largest_trees_are_short_and_fit(count: int, data: st.DataObject) -> None:
    stop = data.draw(st.integers(1, count))
    proof = right_proof(lambda level, index: bytes(32), count, stop)
    assert len(proof) <= 40
    frontier = Frontier("sha256", stop, [bytes(32)] * stop.bit_count())
    assert len(frontier.root_within(count, proof)) == 32
    with pytest.raises(ProofError):
        frontier.root_within(count, [*proof, bytes(32)])


# --- earlier roots -------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 64, 100, 257, 600])
def test_an_inclusion_proof_tells_the_root_at_that_size(count: int) -> None:
    node = nodes(count)
    for size in range(1, count + 1):
        proof = tree.range_proof(node, count, size - 1, size)
        learned = tree.verify_range(
            "sha256", root_of(count), count, size - 1, [LEAVES[size - 1]], proof
        )
        assert root_at("sha256", learned, size) == root_of(size)


@given(counts, st.data())
@settings(deadline=None, max_examples=60)
def test_the_proof_of_a_range_that_ends_there_will_do(count: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, count))
    start = data.draw(st.integers(0, size - 1))
    proof = tree.range_proof(nodes(count), count, start, size)
    learned = tree.verify_range("sha256", root_of(count), count, start, LEAVES[start:size], proof)
    assert root_at("sha256", learned, size) == root_of(size)


def test_what_was_not_learned_tells_nothing() -> None:
    proof = tree.range_proof(nodes(100), 100, 10, 11)
    learned = tree.verify_range("sha256", root_of(100), 100, 10, [LEAVES[10]], proof)
    with pytest.raises(ProofError, match="not known"):
        root_at("sha256", learned, 13)
    for size in (0, -1):
        with pytest.raises(ProofError, match="no leaves"):
            root_at("sha256", learned, size)


def test_a_frontier_shows_what_it_is_and_compares_with_frontiers_only() -> None:
    assert "5 leaves" in repr(grown(5))
    assert grown(5) != 5
    assert grown(5) != Frontier("blake3", 5, grown(5).peaks)
    with pytest.raises(TypeError):
        hash(grown(5))
