"""What is taken out of the store is what its name says, whatever became of the file."""

from __future__ import annotations

import os

import pytest

from kachery_p2p.protocol.errors import Cancelled, CorruptContent
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.files import checking, stamps
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.checking import CheckedReader, check, is_known, read_range
from kachery_p2p.storage.files.partials import Partial
from tests.storage.files.samples import content

SIZE = MANIFEST_CHUNK + 3 * BLOCK + 500
DATA = content(SIZE)


@pytest.fixture
def blob(store):
    return store.find(store.store_bytes(DATA).sha1)


def flip(path, offset):
    path.chmod(0o644)
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    os.utime(path, (1, 1))  # whatever the clock's ticks


def resized(store, blob, size):
    blob.path.chmod(0o644)
    os.truncate(blob.path, size)
    return store.find(blob.sha1)


def by_bytes(store, tmp_path):
    return store.store_bytes(DATA).sha1


def by_file(store, tmp_path):
    path = tmp_path / "a file"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        return store.store_fd(file.fileno()).sha1


def by_link(store, tmp_path):
    path = tmp_path / "linked"
    path.write_bytes(DATA)
    with open(path, "rb") as file:
        return store.link_fd(file.fileno(), path).sha1


def by_download(store, tmp_path):
    with BlobStore(tmp_path / "other", durable=False).open() as other:
        stored = other.store_bytes(DATA)
    partial = Partial.open(store, stored.sha1, SIZE)
    partial.append(0, DATA)
    partial.finish()
    return stored.sha1


@pytest.mark.parametrize("way", [by_bytes, by_file, by_link, by_download])
def test_what_came_in_is_known_until_its_file_changes(store, tmp_path, way):
    blob = store.find(way(store, tmp_path))
    assert is_known(store, blob)
    os.utime(blob.path)  # the inode's own time cannot be set back
    assert not is_known(store, blob)


@pytest.mark.parametrize("size", [0, 5, 100_000, SIZE])
def test_nobody_writes_to_a_blob_by_accident(tmp_path, size):
    with BlobStore(tmp_path / "s").open() as store:
        stored = store.store_bytes(DATA[:size])
        writer = store.begin()
        writer.write(DATA[1 : size + 1])
        streamed = writer.finish()
        for each in (stored, streamed):
            mode = store.find(each.sha1).path.stat().st_mode
            assert mode & 0o777 in (0o444, 0o440, 0o400)


def test_a_download_is_read_only_when_it_is_a_blob(store, tmp_path):
    assert store.find(by_download(store, tmp_path)).path.stat().st_mode & 0o222 == 0


def test_what_a_power_cut_took_comes_back_read_only(tmp_path):
    store = BlobStore(tmp_path / "s").open()
    sha1 = store.store_bytes(b"small").sha1
    journal = (store.root / paths.JOURNAL_FILE).read_bytes()
    store.close()
    store.path(sha1).unlink()
    (store.root / paths.JOURNAL_FILE).write_bytes(journal)
    with BlobStore(tmp_path / "s").open() as again:
        assert again.find(sha1).path.stat().st_mode & 0o222 == 0


def taken(store, blob, start, stop):
    """As a node takes it."""
    with CheckedReader(store, blob) as reader:
        return reader.read(start, stop)


@pytest.mark.parametrize("offset", [0, SIZE // 2, SIZE - 1])
def test_a_changed_byte_is_seen_where_it_is_read(store, blob, offset):
    flip(blob.path, offset)
    assert read_range(store, blob, offset, offset + 1) is None
    with pytest.raises(CorruptContent):
        taken(store, blob, offset, offset + 1)


def test_a_changed_byte_is_seen_though_the_file_looks_as_before(store, blob, monkeypatch):
    flip(blob.path, 5)
    stamps.put_stamp(store.root, blob.sha1, os.stat(blob.path))
    assert read_range(store, blob, 0, 10) is None
    assert read_range(store, blob, 5 * BLOCK, 5 * BLOCK + 10) == DATA[5 * BLOCK : 5 * BLOCK + 10]
    check(store, blob)
    with pytest.raises(CorruptContent):
        check(store, blob, again=True)
    assert store.find(blob.sha1) is None


@pytest.mark.parametrize("size", [SIZE - 1, SIZE - 501, SIZE + 1, SIZE + BLOCK, MANIFEST_CHUNK + 1])
def test_a_size_that_is_wrong_is_seen_by_any_range(store, blob, size):
    blob = resized(store, blob, size)
    assert read_range(store, blob, 0, 10) is None
    with pytest.raises(CorruptContent):
        taken(store, blob, 0, 10)


@pytest.mark.parametrize("size", [0, 1, 1000, MANIFEST_CHUNK])
def test_a_large_file_that_became_small_is_seen(store, blob, size):
    blob = resized(store, blob, size)
    with pytest.raises(CorruptContent):
        check(store, blob)
    with pytest.raises(CorruptContent):
        taken(store, blob, 0, 0)


@pytest.mark.parametrize("damage", [lambda path: flip(path, SIZE // 3), lambda path: flip(path, 0)])
def test_a_large_file_is_compared_once_for_each_change(store, blob, monkeypatch, damage):
    reads = []
    really = checking._fits
    monkeypatch.setattr(checking, "_fits", lambda *a: reads.append(1) or really(*a))
    check(store, blob)
    assert not reads, "it was when it was stored"
    os.utime(blob.path)
    check(store, blob)
    check(store, blob)
    assert len(reads) == 1
    damage(blob.path)
    with pytest.raises(CorruptContent):
        check(store, blob)
    assert store.find(blob.sha1) is None, "put aside"


@pytest.mark.parametrize("suffix", [paths.TREE, paths.CHECKED])
def test_a_damaged_helper_costs_no_content(store, blob, suffix):
    flip(store.path(blob.sha1, suffix), 3)
    os.utime(blob.path)
    check(store, blob)
    assert is_known(store, blob)
    assert read_range(store, blob, 0, 100) == DATA[:100]


def test_of_a_folder_without_trees_a_file_is_read_once(store, blob):
    for suffix in (paths.TREE, paths.CHECKED):
        store.path(blob.sha1, suffix).unlink()
    assert read_range(store, blob, 0, 10) is None, "nothing says whether it is right"
    check(store, blob)
    assert read_range(store, blob, 0, 10) == DATA[:10]
    assert taken(store, blob, SIZE - 5, SIZE) == DATA[-5:]


def test_what_can_write_no_tree_tells_it_all_the_same(store, blob, monkeypatch):
    for suffix in (paths.TREE, paths.CHECKED):
        store.path(blob.sha1, suffix).unlink()
    reader = BlobStore(store.root)  # as one that is not open: it has no way to write
    monkeypatch.setattr(checking, "put_stamp", lambda *_: False)
    check(reader, blob)
    assert is_known(reader, blob)
    assert read_range(reader, blob, 7, 10) == DATA[7:10]
    flip(blob.path, 9)
    assert not is_known(reader, blob)
    with pytest.raises(CorruptContent):
        check(reader, blob)


def test_comparing_can_be_cancelled(store, blob):
    with pytest.raises(Cancelled):
        check(store, blob, again=True, cancelled=lambda: True)
    assert store.find(blob.sha1) is not None


def test_what_is_put_aside_leaves_no_helper(store, blob):
    store.quarantine(blob.sha1)
    assert [path.suffix for path in blob.path.parent.iterdir()] == [".corrupt-1"]
