"""The tree beside a blob is right, or is made right, or the blob is put aside."""

from __future__ import annotations

import hashlib
import os

import pytest

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import BadInput, Cancelled, CorruptContent, NotFound
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.treefile import TreeBuilder, TreeFile, block_count
from kachery_p2p.storage.files.trees import ensure_tree, rebuild_tree
from tests.storage.files.samples import content

DATA = content(MANIFEST_CHUNK + 12_345)
LEVELS = tree.levels("blake3", b"".join(tree.leaf_hashes("blake3", DATA, BLOCK)))


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


@pytest.fixture
def blob(store):
    return store.find(store.store_bytes(DATA).sha1)


def test_the_tree_of_stored_content_is_there_and_proves_it(store, blob):
    with ensure_tree(store, blob) as found:
        assert (found.count, found.root) == (block_count(len(DATA)), LEVELS[-1])
        for start, stop in [(0, 1), (3, 9), (0, found.count), (found.count - 1, found.count)]:
            part = DATA[start * BLOCK : stop * BLOCK]
            assert found.check_blocks(start, part)
            leaves = tree.leaf_hashes("blake3", part, BLOCK)
            tree.verify_range(
                "blake3", found.root, found.count, start, leaves, found.proof(start, stop)
            )
        assert not found.check_blocks(3, DATA[:BLOCK])
        assert not found.check_blocks(found.count - 1, DATA[:BLOCK] * 2)
        with pytest.raises(ValueError, match="no leaves"):
            found.proof(0, found.count + 1)


@pytest.mark.parametrize("damage", ["missing", "short"])
def test_a_missing_tree_is_built(store, blob, damage):
    path = store.path(blob.sha1, paths.TREE)
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, 320)
    ensure_tree(store, blob).close()
    assert path.read_bytes() == b"".join(LEVELS)


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, 5 * BLOCK])
def test_small_content_has_a_tree_if_asked(store, size):
    data = content(size)
    blob = store.find(store.store_bytes(data).sha1)
    with ensure_tree(store, blob) as found:
        leaves = b"".join(tree.leaf_hashes("blake3", data, BLOCK))
        assert found.root == tree.root("blake3", leaves)


def test_empty_content_has_none(store):
    with pytest.raises(BadInput):
        ensure_tree(store, store.find(store.store_bytes(b"").sha1))


def test_a_link_has_its_tree_beside_it(store, tmp_path):
    path = tmp_path / "linked"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        stored = store.link_fd(file.fileno(), path)
    tree_path = store.path(stored.sha1, paths.TREE)
    tree_path.unlink()
    blob = store.find(stored.sha1)
    ensure_tree(store, blob).close()
    assert tree_path.exists()
    tree_path.unlink()
    os.utime(path, (1, 1))
    with pytest.raises(NotFound):
        ensure_tree(store, blob)


def test_content_that_rotted_is_put_aside_when_its_tree_is_built(store, blob):
    store.path(blob.sha1, paths.TREE).unlink()
    flip(blob.path, 10 * BLOCK)
    with pytest.raises(CorruptContent, match="this node's storage"):
        ensure_tree(store, blob)
    assert store.find(blob.sha1) is None
    assert store.path(blob.sha1, ".corrupt-1").exists()
    assert os.listdir(store.temporary) == []


def test_a_bad_block_is_seen_and_settled_by_building_anew(store, blob):
    flip(blob.path, 10 * BLOCK)
    with ensure_tree(store, blob) as found:
        data = store.read(blob, 9 * BLOCK, 3 * BLOCK)
        assert not found.check_blocks(9, data)
        assert found.check_blocks(9, data[:BLOCK])
    with pytest.raises(CorruptContent):
        rebuild_tree(store, blob)
    assert store.find(blob.sha1) is None


def test_a_bad_tree_is_seen_and_repaired_without_harm_to_the_blob(store, blob):
    path = store.path(blob.sha1, paths.TREE)
    for level in (0, 1):
        flip(path, tree.flat_offset(block_count(blob.size), level, 0))
        with ensure_tree(store, blob) as found, pytest.raises(CorruptContent, match="hash tree"):
            found.proof(2, 3) if level else found.proof(1, 2)
        rebuild_tree(store, blob).close()
        assert path.read_bytes() == b"".join(LEVELS)
    assert hashlib.sha1(blob.path.read_bytes()).hexdigest() == blob.sha1


def test_a_tree_with_another_root_is_built_anew(store, blob):
    path = store.path(blob.sha1, paths.TREE)
    flip(path, path.stat().st_size - 1)
    ensure_tree(store, blob, root=LEVELS[-1]).close()
    assert path.read_bytes() == b"".join(LEVELS)
    with pytest.raises(CorruptContent, match="manifest"):
        ensure_tree(store, blob, root=bytes(32))
    assert store.find(blob.sha1) is not None


def test_building_can_be_cancelled(store, blob):
    path = store.path(blob.sha1, paths.TREE)
    path.unlink()
    with pytest.raises(Cancelled):
        ensure_tree(store, blob, cancelled=lambda: True)
    assert not path.exists()


@pytest.mark.parametrize("count", [1, 2, 3, 32_767, 32_768, 32_769, 100_001])
def test_a_tree_larger_than_memory_allows_is_the_same_tree(tmp_path, count):
    leaves = content(32 * count)
    builder = TreeBuilder(tmp_path)
    for at in range(0, len(leaves), 32 * 1_000):
        builder.add(leaves[at : at + 32 * 1_000])
    levels = tree.levels("blake3", leaves)
    assert builder.finish() == levels[-1]
    builder.place(tmp_path / "tree", durable=False)
    builder.abort()
    assert (tmp_path / "tree").read_bytes() == b"".join(levels)
    assert TreeFile.open(tmp_path / "tree", "00" * 20, count + 1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
