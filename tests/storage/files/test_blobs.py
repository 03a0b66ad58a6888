"""Whatever way content comes in, it is stored whole under its hash, or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    Cancelled,
    CorruptContent,
    NotFound,
    StorageDamaged,
    StorageFull,
    StorageInUse,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage import disk, paths
from kachery_p2p.storage.files import sources
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.writer import Stored
from tests.storage.files.samples import content

SIZES = [0, 1, 70_000, 3 << 20, MANIFEST_CHUNK, MANIFEST_CHUNK + 1, 2 * MANIFEST_CHUNK + 5]


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def by_bytes(store: BlobStore, data: bytes, folder: Path) -> Stored:
    return store.store_bytes(data)


def by_file(store: BlobStore, data: bytes, folder: Path) -> Stored:
    path = folder / "source"
    path.write_bytes(data)
    with open(path, "rb") as file:
        file.seek(3)
        stored = store.store_fd(file.fileno())
        assert file.tell() == 3
    return stored


def by_pipe(store: BlobStore, data: bytes, folder: Path) -> Stored:
    reading, writing = os.pipe()

    def fill() -> None:
        with open(writing, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        return store.store_fd(reading)
    finally:
        os.close(reading)
        thread.join()


def by_stream(store: BlobStore, data: bytes, folder: Path) -> Stored:
    writer = store.begin()
    piece = bytearray(1_000_003)
    for at in range(0, len(data), len(piece)):
        part = data[at : at + len(piece)]
        piece[: len(part)] = part
        writer.write(memoryview(piece)[: len(part)])
        # The buffer is the caller's again.
        piece[:] = bytes(len(piece))
    return writer.finish()


def by_link(store: BlobStore, data: bytes, folder: Path) -> Stored:
    path = folder / "linked"
    path.write_bytes(data)
    with open(path, "rb") as file:
        return store.link_fd(file.fileno(), path)


WAYS = [by_bytes, by_file, by_pipe, by_stream, by_link]


def leftovers(store: BlobStore) -> list[str]:
    return os.listdir(store.temporary)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_in_gives_the_same(tmp_path, way, size):
    data = content(size)
    remembered = []
    root = tmp_path / "storage"
    with BlobStore(
        root, durable=False, on_manifest=lambda *pair: remembered.append(pair)
    ).open() as store:
        stored = way(store, data, tmp_path)
        assert (stored.sha1, stored.size) == (sha1_of(data), size)
        blob = store.find(stored.sha1)
        assert blob is not None
        assert (blob.size, blob.linked) == (size, way is by_link)
        assert store.read(blob, 0, size) == data
        assert store.read(blob, max(0, size - 10), 100) == data[max(0, size - 10) :]
        assert leftovers(store) == []
        tree_path = store.path(stored.sha1, paths.TREE)
        if size <= MANIFEST_CHUNK:
            assert stored.manifest_sha1 is None
            assert remembered == []
            assert not tree_path.exists()
            return
        assert remembered == [(stored.sha1, stored.manifest_sha1)]
        described = store.find(stored.manifest_sha1)
        assert described is not None
        manifest = Manifest.parse(store.read(described, 0, described.size))
        assert (manifest.sha1, manifest.size) == (stored.sha1, size)
        assert manifest.name == stored.manifest_sha1
        for chunk in manifest.chunks:
            assert sha1_of(data[chunk.start : chunk.end]) == chunk.sha1
        levels = tree.levels("blake3", b"".join(tree.leaf_hashes("blake3", data, BLOCK)))
        assert tree_path.read_bytes() == b"".join(levels)
        assert manifest.tree is not None
        assert manifest.tree.root == levels[-1]


@pytest.mark.parametrize("size", [1_000, MANIFEST_CHUNK, MANIFEST_CHUNK + 1])
@pytest.mark.parametrize("way", WAYS)
def test_storing_twice_is_storing_once(store, tmp_path, way, size):
    data = content(size)
    first = way(store, data, tmp_path)
    inode = os.stat(store.find(first.sha1).path).st_ino
    assert way(store, data, tmp_path) == first
    if size <= MANIFEST_CHUNK or way is by_link:
        assert os.stat(store.find(first.sha1).path).st_ino == inode
    kept = {entry.sha1 for entry in store.scan()}
    assert kept == {first.sha1, first.manifest_sha1} - {None}
    assert leftovers(store) == []


@pytest.mark.parametrize("size", [1_000, 3_000_000, MANIFEST_CHUNK + 1])
@pytest.mark.parametrize("way", WAYS)
def test_what_rotted_is_replaced_when_it_is_stored_again(store, tmp_path, way, size):
    """Same size, other bytes: it was acknowledged, and stayed rotten."""
    data = content(size)
    stored = by_bytes(store, data, tmp_path)
    names = {stored.sha1, stored.manifest_sha1} - {None}
    whole = {name: store.path(name).read_bytes() for name in names}
    for name in names:
        rotten = bytearray(whole[name])
        rotten[len(rotten) // 3] ^= 1
        store.path(name).write_bytes(rotten)
    assert way(store, data, tmp_path) == stored
    for name in names:
        blob = store.find(name)
        assert store.read(blob, 0, blob.size) == whole[name]
        assert blob.linked == (way is by_link and name == stored.sha1)
    assert leftovers(store) == []


def test_what_cannot_be_read_is_replaced_when_it_is_stored_again(store, tmp_path):
    data = content(1_000)
    path = store.path(sha1_of(data))
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    store.store_bytes(data)
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [1_000, 3_000_000, MANIFEST_CHUNK + 1])
@pytest.mark.parametrize("way", ["bytes", "file", "stream", "link"])
def test_who_stores_hears_of_each_name_before_anything_appears(store, tmp_path, way, size):
    data = content(size)
    source = tmp_path / "source"
    source.write_bytes(data)
    heard: list[str] = []

    def arriving(sha1s):
        assert not list(store.scan()), "something appeared before it was announced"
        with store.arrivals.halted() as under_way:
            assert set(sha1s) <= set(under_way)
        heard.extend(sha1s)

    def run(arriving):
        if way == "bytes":
            return store.store_bytes(data, arriving)
        if way == "stream":
            writer = store.begin(arriving)
            writer.write(data)
            return writer.finish()
        with open(source, "rb") as file:
            if way == "link":
                return store.link_fd(file.fileno(), source, arriving=arriving)
            return store.store_fd(file.fileno(), arriving=arriving)

    def refuse(sha1s):
        raise StorageFull(what="what it is bound to", path="state")

    with pytest.raises(StorageFull, match="bound to"):
        run(refuse)
    assert list(store.scan()) == []
    stored = run(arriving)
    assert {entry.sha1 for entry in store.scan()} == set(heard)
    assert heard == [name for name in (stored.sha1, stored.manifest_sha1) if name]
    with store.arrivals.halted() as under_way:
        assert not under_way
    assert leftovers(store) == []


@pytest.mark.parametrize("way", [by_bytes, by_file, by_stream])
def test_a_blob_of_the_wrong_size_is_replaced(store, tmp_path, way):
    data = content(1_000_000)
    path = store.path(sha1_of(data))
    path.parent.mkdir(parents=True)
    path.write_bytes(data[:-1])
    way(store, data, tmp_path)
    assert path.read_bytes() == data


def test_a_durable_store_survives_being_dropped(tmp_path):
    data = content(100_000)
    store = BlobStore(tmp_path / "storage").open()
    stored = store.store_bytes(data)
    os.close(store._lock_fd)  # as the kernel does for a process that was killed
    store._lock_fd = -1
    with BlobStore(tmp_path / "storage").open() as again:
        assert again.read(again.find(stored.sha1), 0, 100_000) == data
    store.close()


def test_a_file_that_grows_is_stored_as_it_was_at_the_start(store, tmp_path):
    path = tmp_path / "log"
    data = content(9 << 20)
    path.write_bytes(data)
    with open(path, "rb") as file:

        def grow() -> bool:
            with open(path, "ab") as log:
                log.write(b"one more line\n")
            return False

        stored = store.store_fd(file.fileno(), grow)
    assert stored == Stored(sha1_of(data), len(data))


def test_a_file_without_a_size_is_read_to_its_end(store):
    with open("/proc/self/cmdline", "rb") as file:
        stored = store.store_fd(file.fileno())
        file.seek(0)
        assert stored.sha1 == sha1_of(file.read())


def test_where_the_file_system_clones_the_clone_is_hashed(store, tmp_path, monkeypatch):
    data = content(MANIFEST_CHUNK + 9)

    def clone(source: int, target: int) -> bool:
        os.copy_file_range(source, target, len(data), 0, 0)
        # From here on the source may say what it likes.
        os.pwrite(source, bytes(1000), 0)
        return True

    monkeypatch.setattr(sources, "clone", clone)
    path = tmp_path / "source"
    path.write_bytes(data)
    with open(path, "r+b") as file:
        stored = store.store_fd(file.fileno())
    assert stored.sha1 == sha1_of(data)
    assert store.find(stored.sha1).path.read_bytes() == data


def test_a_cancelled_store_leaves_nothing(store, tmp_path):
    path = tmp_path / "source"
    path.write_bytes(content(9 << 20))
    answers = iter([False, True])
    with open(path, "rb") as file, pytest.raises(Cancelled):
        store.store_fd(file.fileno(), lambda: next(answers))
    assert leftovers(store) == list(store.scan()) == []


def test_a_silent_pipe_can_be_cancelled(store):
    reading, writing = os.pipe()
    answers = iter([False, False, True])
    with pytest.raises(Cancelled):
        store.store_fd(reading, lambda: next(answers))
    os.close(reading)
    os.close(writing)


def test_an_aborted_stream_leaves_nothing(store):
    writer = store.begin()
    writer.write(content(MANIFEST_CHUNK + 1))
    writer.abort()
    writer.abort()
    with pytest.raises(StorageDamaged):
        writer.write(b"more")
    with pytest.raises(StorageDamaged):
        writer.finish()
    assert leftovers(store) == list(store.scan()) == []


def test_devices_folders_and_write_only_files_are_refused(store, tmp_path):
    for path, flags in (
        ("/dev/zero", os.O_RDONLY),
        (tmp_path, os.O_RDONLY),
        (tmp_path / "new", os.O_WRONLY | os.O_CREAT),
    ):
        fd = os.open(path, flags)
        with pytest.raises(BadInput):
            store.store_fd(fd)
        os.close(fd)
    with pytest.raises(BadInput):
        store.store_fd(fd)


# --- links ---------------------------------------------------------------------------------------


def test_a_link_is_kacherys_json(store, tmp_path):
    stored = by_link(store, b"hello", tmp_path)
    path = tmp_path / "linked"
    assert json.loads(store.path(stored.sha1, paths.LINK).read_bytes()) == {
        "path": str(path),
        "manifestSha1": None,
        "stat": {"size": 5, "mtime": path.stat().st_mtime},
    }
    assert not store.path(stored.sha1).exists()


def test_a_link_whose_target_changed_is_absent_and_says_why(store, tmp_path):
    stored = by_link(store, b"hello", tmp_path)
    path = tmp_path / "linked"
    assert store.link_problem(stored.sha1) is None
    blob = store.find(stored.sha1)
    before = path.stat()

    path.write_bytes(b"HELLO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert store.find(stored.sha1) is None
    assert "modified" in store.link_problem(stored.sha1)
    with pytest.raises(NotFound, match="modified"):
        store.read(blob, 0, 5)

    path.write_bytes(b"hello!")
    assert store.find(stored.sha1) is None
    assert "size" in store.link_problem(stored.sha1)

    path.unlink()
    assert store.find(stored.sha1) is None
    assert "No such file" in store.link_problem(stored.sha1)
    with pytest.raises(NotFound):
        store.open_fd(blob)

    os.mkfifo(path)
    assert store.find(stored.sha1) is None
    with pytest.raises(NotFound, match="regular"):
        store.open_fd(blob)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"path": "relative", "size": 1, "mtime": 1.0}',
        b'{"path": "/etc/hostname", "size": "1", "mtime": 1.0}',
        b'{"path": "/etc/hostname", "size": 1}',
        b'{"path": "/etc/hostname", "size": 1, "mtime": true}',
        b'{"path": "/etc/hostname", "size": 1, "mtime": 1' + b"0" * 400 + b"}",
        b'{"path": "/etc/\\u0000", "size": 1, "mtime": 1.0}',
        b'{"path": "/etc/hostname", "stat": [1, 1.0], "size": 1, "mtime": 1.0}',
        b'{"path": "/etc/hostname", "stat": {"size": 1}}',
    ],
)
def test_a_damaged_link_is_absent(store, text):
    path = store.path("ab" * 20, paths.LINK)
    path.parent.mkdir(parents=True)
    path.write_bytes(text)
    assert store.find("ab" * 20) is None
    assert "damaged" in store.link_problem("ab" * 20)


def test_only_the_opened_file_can_be_linked(store, tmp_path):
    path = tmp_path / "mine"
    path.write_bytes(b"mine")
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    with open(path, "rb") as file:
        for wrong in (other, tmp_path / "missing", Path("mine"), Path("/\0")):
            with pytest.raises(BadPath):
                store.link_fd(file.fileno(), wrong)


def test_a_file_that_changes_while_it_is_hashed_is_not_linked(store, tmp_path):
    path = tmp_path / "busy"
    path.write_bytes(content(9 << 20))

    def touch() -> bool:
        os.utime(path, (1, 1))
        return False

    with open(path, "rb") as file, pytest.raises(BadPath, match="changed"):
        store.link_fd(file.fileno(), path, touch)
    assert list(store.scan()) == []


def test_storing_what_was_linked_makes_it_a_blob(store, tmp_path):
    by_link(store, b"hello", tmp_path)
    stored = store.store_bytes(b"hello")
    (tmp_path / "linked").unlink()
    assert store.read(store.find(stored.sha1), 0, 5) == b"hello"
    assert [entry.kind for entry in store.scan()] == ["blob"]


# --- damage --------------------------------------------------------------------------------------


def test_quarantine_takes_content_out_of_use(store, tmp_path):
    for number in (1, 2):
        stored = store.store_bytes(b"hello")
        aside = store.quarantine(stored.sha1)
        assert aside == store.path(stored.sha1, f".corrupt-{number}")
        assert aside.read_bytes() == b"hello"
        assert store.find(stored.sha1) is None
    linked = by_link(store, b"linked", tmp_path)
    assert store.quarantine(linked.sha1) is None
    assert store.find(linked.sha1) is None
    assert (tmp_path / "linked").exists()


def test_a_blob_that_vanished_or_was_cut_short_is_told_apart(store):
    stored = store.store_bytes(b"hello")
    blob = store.find(stored.sha1)
    os.truncate(blob.path, 3)
    with pytest.raises(CorruptContent):
        store.read(blob, 0, 5)
    blob.path.unlink()
    with pytest.raises(NotFound):
        store.read(blob, 0, 5)


@pytest.mark.parametrize("way", [by_bytes, by_stream])
def test_a_full_disk_says_so_and_keeps_nothing_of_the_attempt(small_disk, tmp_path, way):
    with BlobStore(small_disk / "storage").open() as store:
        kept = store.store_bytes(content(1_000_000))
        with pytest.raises(StorageFull):
            way(store, content(6_000_000, seed=2), tmp_path)
        assert leftovers(store) == []
        again = store.store_bytes(content(1_000_000, seed=3))
        for stored in (kept, again):
            assert sha1_of(store.read(store.find(stored.sha1), 0, 1_000_000)) == stored.sha1


def test_a_full_disk_during_a_store_from_a_file(small_disk, tmp_path):
    with BlobStore(small_disk / "storage").open() as store:
        with pytest.raises(StorageFull):
            by_file(store, content(MANIFEST_CHUNK + 1), tmp_path)
        assert leftovers(store) == list(store.scan()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageDamaged, match="file"):
        BlobStore(tmp_path / "file" / "storage").open()
    with pytest.raises(StorageDamaged, match="no such folder"):
        BlobStore(tmp_path / "missing").open(create=False, lock=False)


# --- life ----------------------------------------------------------------------------------------


def test_a_second_daemon_is_kept_out_and_told_by_whom(store):
    with pytest.raises(StorageInUse, match=str(os.getpid())):
        BlobStore(store.root).open()
    with BlobStore(store.root).open(create=False, lock=False) as reader:
        stored = store.store_bytes(b"shared")
        assert reader.read(reader.find(stored.sha1), 0, 6) == b"shared"
    store.close()
    BlobStore(store.root).open().close()


def test_strays_of_a_crash_are_removed_and_nothing_else(tmp_path):
    root = tmp_path / "storage"
    with BlobStore(root, durable=False).open() as store:
        stored = store.store_bytes(b"blob")
        partial = store.path(stored.sha1, paths.PARTIAL)
        partial.write_bytes(b"half")
    stray = root / "tmp" / f"{os.getpid()}-0-aa"
    stray.write_bytes(b"torn")
    dead = root / "tmp" / "99999999-0-bb"
    dead.write_bytes(b"torn")
    alive = root / "tmp" / "1-0-cc"
    holder = disk.create(alive)
    BlobStore(root).open(lock=False).close()
    assert stray.exists()
    with BlobStore(root, durable=False).open() as store:
        assert leftovers(store) == [alive.name]
        os.close(holder)
        assert partial.exists()
        assert store.find(stored.sha1) is not None


def test_who_makes_a_file_and_who_removes_strays_do_not_meet(tmp_path, monkeypatch):
    """A file that was made and is not locked yet is taken for a stray: its maker makes it anew."""
    path = tmp_path / "new"
    really = disk.fcntl.flock
    removed = []

    def flock(fd, how):
        if not removed:
            removed.append(True)
            monkeypatch.setattr(disk.fcntl, "flock", really)
            assert disk.remove_stray(path)
        really(fd, how)

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    fd = disk.create(path)
    assert os.path.samestat(os.fstat(fd), os.stat(path))
    assert not disk.remove_stray(path), "it is locked now"
    os.close(fd)
    assert disk.remove_stray(path)


def test_who_makes_a_file_waits_for_who_is_removing_it(tmp_path, monkeypatch):
    """The name was still taken when its maker made it anew: a store failed with "File exists"."""
    path = tmp_path / "new"
    really, removing = disk.fcntl.flock, []

    def flock(fd, how):
        if not removing:
            other = os.open(path, os.O_RDONLY)
            really(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            removing.append(threading.Timer(0.05, lambda: (os.unlink(path), os.close(other))))
            removing[0].start()
        really(fd, how)

    monkeypatch.setattr(disk.fcntl, "flock", flock)
    fd = disk.create(path)
    removing[0].join()
    assert os.path.samestat(os.fstat(fd), os.stat(path))
    os.close(fd)


@pytest.mark.parametrize(
    "form",
    [
        lambda told: {"manifest_hash": None, "stat": told},
        lambda told: {"manifestSha1": None, "stat": told, "_writingProcess": "daemon"},
        lambda told: told,
    ],
    ids=["kachery_client", "kachery-daemon", "flat"],
)
def test_a_folder_of_kacherys_opens_as_it_is(tmp_path, form):
    root = tmp_path / "kachery-storage"
    data, linked = content(50_000), content(60_000, seed=2)
    big = content(MANIFEST_CHUNK + 77, seed=3)
    chunks = [(0, MANIFEST_CHUNK), (MANIFEST_CHUNK, len(big))]
    old_manifest = json.dumps(
        {
            "size": len(big),
            "sha1": sha1_of(big),
            "chunks": [{"start": a, "end": b, "sha1": sha1_of(big[a:b])} for a, b in chunks],
        },
        indent=4,
    ).encode()
    for item in (data, big, old_manifest):
        path = paths.path_of(root, sha1_of(item))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item)
    target = tmp_path / "recording.dat"
    target.write_bytes(linked)
    link = paths.path_of(root, sha1_of(linked), ".link")
    link.parent.mkdir(parents=True, exist_ok=True)
    status = target.stat()
    told = {"size": status.st_size, "mtime": status.st_mtime}
    link.write_text(json.dumps({"path": str(target), **form(told)}))
    before = sorted(path for path in root.rglob("*") if path.is_file())
    with BlobStore(root, durable=False).open() as store:
        for item in (data, linked, big, old_manifest):
            blob = store.find(sha1_of(item))
            assert blob is not None
            assert store.read(blob, 0, len(item)) == item
        manifest = Manifest.parse(old_manifest)
        assert manifest.tree is None
        assert len(list(store.scan())) == 4
    after = sorted(path for path in root.rglob("*") if path.is_file())
    assert after == sorted([*before, root / ".kachery-p2p.lock"])


def test_many_threads_store_at_once(store):
    items = [content(size, seed=size) for size in (1, 100_000, 5_000_000, MANIFEST_CHUNK + 9)] * 2
    results: list[Stored] = []
    threads = [
        threading.Thread(target=lambda item=item: results.append(by_stream(store, item, Path())))
        for item in items
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {stored.sha1 for stored in results} == {sha1_of(item) for item in items}
    for item in items:
        assert store.read(store.find(sha1_of(item)), 0, len(item)) == item
    assert leftovers(store) == []
