"""Merkle trees agree with the RFC's vectors and with its recursive definition."""

from __future__ import annotations

import hashlib

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from kachery_p2p.protocol import tree

# The inputs and roots of the Certificate Transparency reference test tree (RFC 6962's hash).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
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
PLAIN = {
    "sha256": lambda data: hashlib.sha256(data).digest(),
    "blake3": lambda d: blake3(d).digest(),
}

algorithms = st.sampled_from(["sha256", "blake3"])
counts = st.integers(1, 70)


def recursive_root(algorithm: str, data: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not data:
        return PLAIN[algorithm](b"")
    if len(data) == 1:
        return PLAIN[algorithm](b"\x00" + data[0])
    split = 1
    while split * 2 < len(data):
        split *= 2
    left = recursive_root(algorithm, data[:split])
    right = recursive_root(algorithm, data[split:])
    return PLAIN[algorithm](b"\x01" + left + right)


def entries(count: int) -> list[bytes]:
    return [b"entry %d" % number for number in range(count)]


def built(algorithm: str, count: int) -> list[bytes]:
    return tree.levels(
        algorithm, b"".join(tree.leaf_hash(algorithm, item) for item in entries(count))
    )


def node_of(found: list[bytes]):
    return lambda level, index: found[level][32 * index : 32 * index + 32]


@pytest.mark.parametrize("count", range(1, 9))
def test_the_ct_reference_tree_has_its_published_roots(count):
    leaves = b"".join(tree.leaf_hash("sha256", item) for item in CT_LEAVES[:count])
    assert tree.root("sha256", leaves).hex() == CT_ROOTS[count - 1]


def test_the_ct_reference_inclusion_proof_of_the_first_leaf_is_the_published_one():
    leaves = b"".join(tree.leaf_hash("sha256", item) for item in CT_LEAVES)
    proof = tree.range_proof(node_of(tree.levels("sha256", leaves)), 8, 0, 1)
    assert [item.hex() for item in proof] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


def test_the_root_of_nothing_is_the_hash_of_nothing():
    assert tree.root("sha256", b"") == hashlib.sha256(b"").digest()
    assert tree.levels("sha256", b"") == tree.widths(0) == []
    assert tree.flat_size(0) == 0


@given(algorithms, counts)
@settings(deadline=None, max_examples=60)
def test_levels_agree_with_the_recursive_definition(algorithm, count):
    found = built(algorithm, count)
    assert found[-1] == recursive_root(algorithm, entries(count))
    assert [len(level) // 32 for level in found] == tree.widths(count)


@given(counts)
@settings(deadline=None, max_examples=30)
def test_flat_offsets_find_every_node_of_the_concatenated_levels(count):
    found = built("blake3", count)
    flat = b"".join(found)
    assert len(flat) == tree.flat_size(count)
    for level, row in enumerate(found):
        for index in range(len(row) // 32):
            at = tree.flat_offset(count, level, index)
            assert flat[at : at + 32] == node_of(found)(level, index)
        with pytest.raises(IndexError):
            tree.flat_offset(count, level, len(row) // 32)


@given(algorithms, counts, st.data())
@settings(deadline=None, max_examples=100)
def test_every_range_is_proved_and_what_is_learned_is_true(algorithm, count, data):
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    found = built(algorithm, count)
    node = node_of(found)
    proof = tree.range_proof(node, count, start, stop)
    leaves = [node(0, index) for index in range(start, stop)]
    learned = tree.verify_range(algorithm, found[-1], count, start, leaves, proof)
    assert all(node(*place) == value for place, value in learned.items())
    # What was learned proves every part of the range to somebody else.
    low = data.draw(st.integers(start, stop - 1))
    high = data.draw(st.integers(low + 1, stop))
    again = tree.range_proof(lambda level, index: learned[level, index], count, low, high)
    tree.verify_range(algorithm, found[-1], count, low, leaves[low - start : high - start], again)


@given(counts, st.data())
@settings(deadline=None, max_examples=150)
def test_nothing_but_the_truth_is_accepted(count, data):
    start = data.draw(st.integers(0, count - 1))
    stop = data.draw(st.integers(start + 1, count))
    found = built("sha256", count)
    node = node_of(found)
    proof = tree.range_proof(node, count, start, stop)
    leaves = [node(0, index) for index in range(start, stop)]
    root = found[-1]

    def flipped(value: bytes) -> bytes:
        at = data.draw(st.integers(0, 255))
        changed = bytearray(value)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    kind = data.draw(st.sampled_from(["leaf", "proof", "more", "less", "root", "short", "shift"]))
    if kind == "leaf":
        at = data.draw(st.integers(0, len(leaves) - 1))
        leaves[at] = flipped(leaves[at])
    elif kind == "proof" and proof:
        at = data.draw(st.integers(0, len(proof) - 1))
        proof[at] = flipped(proof[at])
    elif kind == "less" and proof:
        proof.pop(data.draw(st.integers(0, len(proof) - 1)))
    elif kind == "root":
        root = flipped(root)
    elif kind == "short":
        leaves[-1] = leaves[-1][:-1]
    elif kind == "shift":
        start += 1
    else:
        proof.insert(data.draw(st.integers(0, len(proof))), bytes(32))
    with pytest.raises(tree.ProofError):
        tree.verify_range("sha256", root, count, start, leaves, proof)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (2, 2), (3, 2), (0, 6), (5, 6)])
def test_impossible_ranges_are_refused(start, stop):
    with pytest.raises(ValueError, match="no leaves"):
        tree.range_proof(lambda level, index: bytes(32), 5, start, stop)
    with pytest.raises(tree.ProofError):
        tree.verify_range("sha256", bytes(32), 5, start, [bytes(32)] * (stop - start), [])


def test_leaf_hashes_cut_the_data_into_blocks():
    data = bytes(range(200))
    assert tree.leaf_hashes("blake3", data, 64) == [
        tree.leaf_hash("blake3", data[at : at + 64]) for at in (0, 64, 128, 192)
    ]
    assert tree.leaf_hashes("blake3", b"", 64) == []


def test_half_a_hash_is_no_leaf():
    with pytest.raises(ValueError, match="whole number"):
        tree.levels("sha256", bytes(33))
