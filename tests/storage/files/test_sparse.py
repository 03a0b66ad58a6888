"""Holes stay holes, and whatever is there, the bytes are right."""

from __future__ import annotations

import hashlib
import os

import pytest

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK, MIB
from kachery_p2p.storage.disk import HOLE, data_runs
from kachery_p2p.storage.files.partials import Partial
from tests.storage.files.samples import content

SIZE = MANIFEST_CHUNK + 40 * MIB + 77
MIDDLE = content(3 * BLOCK + 5)
AT = 30 * MIB + 9


@pytest.fixture
def sparse(tmp_path):
    """A file of holes, with a few bytes at its beginning and in the middle."""
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(b"head")
        file.seek(AT)
        file.write(MIDDLE)
        file.truncate(SIZE)
    if used(path) > SIZE // 2:
        pytest.skip("this file system has no holes")
    return path


def used(path) -> int:
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", bytes(5), bytes(HOLE), bytes(HOLE + 1), b"x" + bytes(3 * HOLE) + b"y",
        bytes(HOLE) + b"x" + bytes(HOLE), content(3 * HOLE + 5),
        bytes(9) + b"x" + bytes(HOLE - 11) + b"\0",
    ],
)  # fmt: skip
def test_what_is_left_out_is_zeros(data):
    view = memoryview(data)
    rebuilt = bytearray(len(data))
    for start, stop in data_runs(view):
        assert start % HOLE == 0
        rebuilt[start:stop] = view[start:stop]
    assert bytes(rebuilt) == data


def test_a_sparse_file_is_stored_sparse(store, sparse):
    with open(sparse, "rb") as file:
        stored = store.store_fd(file.fileno())
    path = store.find(stored.sha1).path
    assert stored.sha1 == hashlib.sha1(sparse.read_bytes()).hexdigest()
    assert path.read_bytes() == sparse.read_bytes()
    assert used(path) < MIB


@pytest.mark.parametrize("size", [MANIFEST_CHUNK + 5, 2 * MIB + 5])
def test_a_file_of_zeros_alone_has_its_size(store, tmp_path, size):
    path = tmp_path / "zeros"
    with open(path, "wb") as file:
        file.truncate(size)
    with open(path, "rb") as file:
        stored = store.store_fd(file.fileno())
    assert store.find(stored.sha1).size == size
    assert used(store.find(stored.sha1).path) < MIB


@pytest.mark.parametrize("kind", ["tree", "whole"])
def test_a_sparse_file_arrives_sparse(store, sparse, kind):
    data = sparse.read_bytes()
    stored = store.store_bytes(data)
    manifest = Manifest.parse(store.find(stored.manifest_sha1).path.read_bytes())
    store.path(stored.sha1).unlink()
    partial = Partial.open(store, stored.sha1, SIZE, manifest if kind == "tree" else None)
    levels = tree.levels("blake3", b"".join(tree.leaf_hashes("blake3", data, BLOCK)))
    count = -(-SIZE // BLOCK)

    def node(level, index):
        return levels[level][index * 32 : index * 32 + 32]

    for at in range(0, SIZE, 16 * BLOCK):
        piece = data[at : at + 16 * BLOCK]
        if kind == "tree":
            last = min(at // BLOCK + 16, count)
            partial.write_blocks(at, piece, tree.range_proof(node, count, at // BLOCK, last))
        else:
            partial.append(at, piece)
    path = partial.finish()
    assert path.read_bytes() == data
    assert used(path) < MIB


def test_zeros_replace_what_was_there(store):
    """A block that rotted, say, and is fetched again."""
    data = bytes(2 * MIB)
    sha1 = hashlib.sha1(data).hexdigest()
    partial = Partial.open(store, sha1, len(data))
    with open(store.path(sha1, ".partial"), "r+b") as file:
        file.seek(MIB)
        file.write(b"rotten" * 20_000)
    partial.append(0, data)
    assert partial.finish().read_bytes() == data
