"""What a small store returned is never lost, whatever happens to the blobs it made."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from kachery_p2p.protocol.errors import StorageDamaged, StorageFull
from kachery_p2p.protocol.limits import JOURNAL_LARGEST, JOURNAL_SYNC_EACH
from kachery_p2p.storage import disk, paths
from kachery_p2p.storage.files import journal, journal_file
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.journal_file import HALVES, PAGE, JournalFile
from tests import forked
from tests.storage.files.samples import content

SMALL = 32 * PAGE
"""Bytes of the journals here."""


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def item(number: int, size: int = 100) -> bytes:
    return content(size, seed=number)


def journal_path(root):
    return root / paths.JOURNAL_FILE


def in_journal(root) -> list[bytes]:
    file = JournalFile(journal_path(root))
    try:
        return [bytes(data) for half in HALVES for _, data in file.records(half)]
    finally:
        file.close()


def holds(store: BlobStore, data: bytes) -> bool:
    blob = store.find(sha1_of(data))
    return blob is not None and store.path(blob.sha1).read_bytes() == data


@pytest.fixture
def root(tmp_path):
    return tmp_path / "storage"


@pytest.fixture
def open_store(root):
    return functools.partial(BlobStore, root, journal_bytes=SMALL)


@contextlib.contextmanager
def power_cut(store: BlobStore) -> Iterator[None]:
    """What is in the journal now is there again afterwards; the blobs are not saved."""
    kept = journal_path(store.root).read_bytes()
    store.close()
    yield
    journal_path(store.root).write_bytes(kept)


def delete(store, path):
    path.unlink()


def cut_short(store, path):
    os.truncate(path, os.path.getsize(path) // 2)


def empty(store, path):
    os.truncate(path, 0)


def zero(store, path):
    path.write_bytes(bytes(os.path.getsize(path)))


def replace_by_a_folder_s_absence(store, path):
    shutil.rmtree(store.root / "sha1", ignore_errors=True)


@pytest.mark.parametrize("damage", [delete, cut_short, empty, zero, replace_by_a_folder_s_absence])
def test_what_was_acknowledged_is_back_after_a_power_cut(open_store, damage):
    items = [item(1), item(2, 5_000), b"", item(3, JOURNAL_LARGEST // 2), item(4, PAGE)]
    store = open_store().open()
    for data in items:
        store.store_bytes(data)
        assert holds(store, data)
    with power_cut(store):
        for data in items:
            if store.path(sha1_of(data)).exists():
                damage(store, store.path(sha1_of(data)))
    with open_store().open() as again:
        assert all(holds(again, data) for data in items)
        assert in_journal(again.root) == []
        assert os.listdir(again.temporary) == []


def test_a_reader_without_the_lock_changes_nothing(open_store, root):
    store = open_store().open()
    store.store_bytes(item(1))
    with power_cut(store):
        empty(store, store.path(sha1_of(item(1))))
    with open_store().open(lock=False) as reader:
        assert not holds(reader, item(1))
        reader.store_bytes(item(2))
    assert in_journal(root) == [item(1)]


def test_an_emptied_journal_brings_nothing_back(open_store, root):
    with open_store().open() as store:
        store.store_bytes(item(1))
        assert in_journal(root) == [item(1)]
    assert in_journal(root) == []
    store.path(sha1_of(item(1))).unlink()
    with open_store().open() as store:
        assert store.find(sha1_of(item(1))) is None


def test_offline_and_scratch_stores_have_no_journal(open_store, root):
    with open_store().open(lock=False) as store:
        store.store_bytes(item(1))
    assert not journal_path(root).exists()
    store = open_store().open()
    store.store_bytes(item(2))
    with power_cut(store):
        delete(store, store.path(sha1_of(item(2))))
    with open_store(durable=False).open() as store:
        store.store_bytes(item(3))
        assert all(holds(store, item(number)) for number in (1, 2, 3))
    assert not journal_path(root).exists()


def test_a_journal_of_another_size_is_restored_and_replaced(open_store, root):
    store = open_store().open()
    store.store_bytes(item(1))
    with power_cut(store):
        delete(store, store.path(sha1_of(item(1))))
    with open_store(journal_bytes=2 * SMALL).open() as store:
        assert holds(store, item(1))
    assert journal_path(root).stat().st_size == 2 * SMALL
    os.truncate(journal_path(root), 100)
    open_store().open().close()
    assert journal_path(root).stat().st_size == SMALL


def test_a_journal_of_another_version_is_refused_and_left(open_store, root):
    open_store().open().close()
    changed = b"kachery-journal\xff" + journal_path(root).read_bytes()[16:]
    journal_path(root).write_bytes(changed)
    with pytest.raises(StorageDamaged, match="another version"):
        open_store().open()
    assert journal_path(root).read_bytes() == changed
    journal_path(root).unlink()
    open_store().open().close()


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path):
    file = JournalFile.create(tmp_path / "journal", tmp_path, 12 * PAGE)
    yield file
    file.close()


BATCHES = [[item(1, 10), item(2, 20)], [item(3, 5_000)], [item(4, 4_064)], [b"", item(5, 30)]]
"""They begin at the pages 1, 2, 4 and 5; the last one ends in page 5."""
STARTS = [1, 2, 4, 5]


def write_batches(file: JournalFile, half: int) -> list[tuple[int, int, int, bytes]]:
    """(beginning, end, batch, content) of each record, in bytes from the half's beginning."""
    spans = []
    for number, (batch, page) in enumerate(zip(BATCHES, STARTS, strict=True)):
        file.write(half, page * PAGE, [(sha1_of(data), data) for data in batch])
        at = page * PAGE
        for data in batch:
            stop = at + journal_file.record_size(len(data))
            spans.append((at, stop, number, data))
            at = stop
    return spans


def found_in(file: JournalFile, half: int) -> list[bytes]:
    found = []
    for sha1, data in file.records(half):
        assert sha1_of(data) == sha1
        found.append(data)
    return found


@pytest.mark.parametrize("half", HALVES)
def test_a_write_torn_at_any_byte_keeps_what_is_before_it(file, tmp_path, half):
    spans = write_batches(file, half)
    assert found_in(file, half) == [data for *_, data in spans]
    start = half * file.half_bytes
    with open(tmp_path / "journal", "r+b", buffering=0) as raw:
        # From the end, each byte gets what was there before: zeros.
        for at in range(6 * PAGE - 1, PAGE - 1, -1):
            os.pwrite(raw.fileno(), b"\0", start + at)
            last = next((span for span in spans if span[0] <= at < span[1]), None)
            if at % 97 == 0 or (last is not None and at in (last[0], last[0] + 31, last[1] - 1)):
                assert found_in(file, half) == [
                    data for _, stop, _, data in spans if stop <= at or _is_zero(data, stop, at)
                ]


def _is_zero(data: bytes, stop: int, at: int) -> bool:
    """Whether the bytes of the record from ``at`` on were zeros anyway."""
    return 0 < stop - at <= len(data) and not any(data[len(data) - (stop - at) :])


def test_a_flipped_bit_takes_at_most_the_rest_of_its_batch_with_it(file, tmp_path):
    spans = write_batches(file, 0)
    offsets = {at for start, stop, *_ in spans for at in (*range(start, start + 34), stop - 1)}
    offsets |= set(range(PAGE, 6 * PAGE, 61))
    with open(tmp_path / "journal", "r+b", buffering=0) as raw:
        for at in sorted(offsets):
            byte = os.pread(raw.fileno(), 1, at)
            os.pwrite(raw.fileno(), bytes([byte[0] ^ 4]), at)
            hit = next((span for span in spans if span[0] <= at < span[1]), None)
            assert found_in(file, 0) == [
                span[3] for span in spans if hit is None or span[2] != hit[2] or span[0] < hit[0]
            ]
            os.pwrite(raw.fileno(), byte, at)
        for at in range(24):
            byte = os.pread(raw.fileno(), 1, at)
            os.pwrite(raw.fileno(), bytes([byte[0] ^ 4]), at)
            with contextlib.suppress(StorageDamaged):
                damaged = JournalFile(tmp_path / "journal")
                assert found_in(damaged, 0) == []
                damaged.close()
            os.pwrite(raw.fileno(), byte, at)
    assert len(found_in(file, 0)) == len(spans)


def test_a_generation_that_is_over_counts_no_more(file, tmp_path):
    write_batches(file, 0)
    spans = write_batches(file, 1)
    file.renew(0)
    assert found_in(file, 0) == []
    file.write(0, PAGE, [(sha1_of(item(9)), item(9))])
    # Behind it lie the batches of the generation before.
    assert found_in(file, 0) == [item(9)]
    assert found_in(file, 1) == [data for *_, data in spans]
    again = JournalFile(tmp_path / "journal")
    assert found_in(again, 0) == [item(9)]
    again.close()


def test_what_was_acknowledged_is_never_written_over(open_store, root, monkeypatch):
    writes = []

    def pwrite(fd, data, offset):
        writes.append((offset, offset + len(data)))
        disk.pwrite_all(fd, data, offset)

    with open_store().open() as store:
        monkeypatch.setattr(journal_file, "pwrite_all", pwrite)
        for number in range(8):
            store.store_bytes(item(number, 100 + 900 * number))
        assert len(writes) == 8
        for (start, stop), (following, _) in itertools.pairwise(writes):
            assert start % PAGE == stop % PAGE == 0
            assert following >= stop


# --- group commit --------------------------------------------------------------------------------


class Arrivals(threading.Condition):
    """Tells who waits for the sync that runs."""

    def __init__(self, lock):
        super().__init__(lock)
        self.arrived = threading.Semaphore(0)

    def wait(self, timeout=None):
        self.arrived.release()
        return super().wait(timeout)


def test_threads_that_come_while_a_sync_runs_share_the_next(open_store, root, monkeypatch):
    syncs = []
    first = threading.Event()

    def sync(fd):
        syncs.append(fd)
        if len(syncs) == 1:
            first.set()
            for _ in range(7):
                assert turn.arrived.acquire(timeout=30)
        disk.sync_data(fd)

    with open_store().open() as store:
        turn = store._journal._turn = Arrivals(store._journal._lock)
        monkeypatch.setattr(journal_file, "sync_data", sync)
        threads = [
            threading.Thread(target=store.store_bytes, args=(item(number),)) for number in range(8)
        ]
        threads[0].start()
        assert first.wait(30)
        for thread in threads[1:]:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(syncs) == 2
        assert sorted(in_journal(root)) == sorted(item(number) for number in range(8))
        assert all(holds(store, item(number)) for number in range(8))


def test_storing_what_is_there_costs_no_sync(open_store, root, monkeypatch):
    syncs = []
    with open_store().open() as store:
        store.store_bytes(item(1))
        for name in ("sync_data", "sync_folder"):
            monkeypatch.setattr(disk, name, syncs.append)
            for module in (journal_file, journal, sys.modules[BlobStore.__module__]):
                monkeypatch.setattr(module, name, syncs.append, raising=False)
        assert store.store_bytes(item(1)).sha1 == sha1_of(item(1))
        assert syncs == []
        # One that vanished is written again, and is durable again.
        store.path(sha1_of(item(1))).unlink()
        store.store_bytes(item(1))
        assert len(syncs) == 1
        assert holds(store, item(1))
        monkeypatch.undo()


def test_content_too_large_for_the_journal_takes_the_other_road(open_store, root):
    with open_store().open() as store:
        for size in (JOURNAL_LARGEST + 1, SMALL // 2):
            store.store_bytes(item(size, size))
            assert holds(store, item(size, size))
        assert in_journal(root) == []


# --- checkpoints ---------------------------------------------------------------------------------


def test_many_generations_and_threads_lose_nothing(open_store, root, monkeypatch):
    durable: set[str] = set()
    checkpoints = []
    really = journal.sync_blobs

    def sync_blobs(root, sha1s, file):
        really(root, sha1s, file)
        assert all(paths.path_of(root, sha1).exists() for sha1 in sha1s)
        checkpoints.append(len(sha1s))
        durable.update(sha1s)

    def write_file(path, data, folder, durable_now, mode):
        disk.write_file(path, data, folder, durable=durable_now, mode=mode)
        if durable_now:
            durable.add(path.name)

    monkeypatch.setattr(journal, "sync_blobs", sync_blobs)
    monkeypatch.setattr(
        journal,
        "write_file",
        lambda path, data, folder, durable, mode: write_file(path, data, folder, durable, mode),
    )
    items = [item(number, 50 + number * 37 % 9_000) for number in range(240)]
    store = open_store(journal_bytes=16 * PAGE).open()
    lost = []

    def run(part):
        for data in part:
            sha1 = store.store_bytes(data).sha1
            if sha1 not in durable and sha1 not in store._journal and sha1 not in durable:
                lost.append(sha1)

    threads = [threading.Thread(target=run, args=(items[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == []
    acknowledged = {sha1_of(data) for data in items}
    assert acknowledged <= durable | {sha1_of(data) for data in in_journal(root)}
    assert len(checkpoints) > 2
    store.close()
    assert acknowledged == durable
    assert in_journal(root) == []
    assert all(holds(store, data) for data in items)


def test_an_idle_journal_is_emptied(open_store, root, monkeypatch):
    monkeypatch.setattr(journal, "JOURNAL_IDLE_SECONDS", 0.0)
    emptied = threading.Event()
    really = JournalFile.renew

    def renew(file, half):
        really(file, half)
        emptied.set()

    with open_store().open() as store:
        monkeypatch.setattr(JournalFile, "renew", renew)
        for number in range(3):
            store.store_bytes(item(number))
            assert emptied.wait(30)
            emptied.clear()
        assert in_journal(root) == []
        assert all(holds(store, item(number)) for number in range(3))


@pytest.mark.parametrize("count", [JOURNAL_SYNC_EACH, JOURNAL_SYNC_EACH + 1])
@pytest.mark.parametrize("whole", [True, False])
def test_few_blobs_are_synced_one_by_one_and_many_together(root, monkeypatch, count, whole):
    files, folders = [], []
    if not whole:
        monkeypatch.setattr(disk, "_syncfs", lambda: None)
    elif disk._syncfs() is None:
        pytest.skip("file systems cannot be synced as a whole here")
    store = BlobStore(root).open()
    sha1s = {store.store_bytes(item(number)).sha1 for number in range(count)}
    gone = store.store_bytes(item(count)).sha1
    store.path(gone).unlink()
    monkeypatch.setattr(journal, "sync_file", lambda path: files.append(disk.sync_file(path)))
    monkeypatch.setattr(journal, "sync_folder", folders.append)
    with contextlib.closing(JournalFile(journal_path(root))) as file:
        journal.sync_blobs(root, sha1s | {gone}, file)
    if whole:
        assert files == folders == []
    else:
        assert len(files) == count
        assert root / "sha1" in folders
        assert {store.path(sha1).parent for sha1 in sha1s} <= set(folders)
    monkeypatch.undo()
    store.close()


# --- a disk that fails ---------------------------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_sync_that_fails_ends_the_journal_and_stores_go_on_without(open_store, root, monkeypatch):
    store = open_store().open()
    store.store_bytes(item(1))
    monkeypatch.setattr(journal_file, "sync_data", fail)
    store.store_bytes(item(2))
    assert sha1_of(item(1)) in store._journal
    assert sha1_of(item(2)) not in store._journal
    monkeypatch.undo()
    store.store_bytes(item(3))
    assert sha1_of(item(3)) not in store._journal
    assert all(holds(store, item(number)) for number in (1, 2, 3))
    store.close()
    assert in_journal(root) == []


def test_blobs_that_cannot_be_synced_are_written_again_from_the_journal(
    open_store, root, monkeypatch
):
    store = open_store().open()
    store.store_bytes(item(1))
    before = store.path(sha1_of(item(1))).stat().st_ino
    monkeypatch.setattr(journal, "sync_file", fail)
    store.close()
    assert holds(store, item(1))
    assert store.path(sha1_of(item(1))).stat().st_ino != before
    assert in_journal(root) == []


def test_a_journal_that_cannot_be_emptied_waits_for_the_next_start(open_store, root, monkeypatch):
    store = open_store().open()
    store.store_bytes(item(1))
    monkeypatch.setattr(journal, "sync_file", fail)
    monkeypatch.setattr(journal, "write_file", fail)
    store.close()
    monkeypatch.undo()
    assert in_journal(root) == [item(1)]
    empty(store, store.path(sha1_of(item(1))))
    with open_store().open() as store:
        assert holds(store, item(1))


def fill(folder) -> None:
    with open(folder / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(PAGE))


def test_a_disk_without_space_for_a_journal_still_stores_and_reads(small_disk):
    with BlobStore(small_disk / "storage").open() as store:
        store.store_bytes(item(1))
        assert holds(store, item(1))
        assert not journal_path(store.root).exists()
        assert os.listdir(store.temporary) == []


def test_a_full_disk_loses_nothing(small_disk):
    root = small_disk / "storage"
    store = BlobStore(root, journal_bytes=SMALL).open()
    store.store_bytes(item(1, 5_000))
    fill(small_disk)
    with pytest.raises(StorageFull):
        store.store_bytes(item(2, 5_000))
    assert holds(store, item(1, 5_000))
    assert not store.path(sha1_of(item(2, 5_000))).exists()
    with power_cut(store):
        delete(store, store.path(sha1_of(item(1, 5_000))))
        fill(small_disk)
    # Not enough space to restore it: the journal is kept, and what there is can be read.
    with BlobStore(root, journal_bytes=SMALL).open() as store:
        assert not holds(store, item(1, 5_000))
        with pytest.raises(StorageFull):
            store.store_bytes(item(3, 5_000))
    (small_disk / "ballast").unlink()
    with BlobStore(root, journal_bytes=SMALL).open() as store:
        assert holds(store, item(1, 5_000))
        store.store_bytes(item(3, 5_000))
        assert sha1_of(item(3, 5_000)) in store._journal


# --- processes that are killed -------------------------------------------------------------------

STORES = """
import sys
from pathlib import Path
from threading import Thread
from kachery_p2p.storage.files.blobs import BlobStore

store = BlobStore(Path(sys.argv[1])).open()


def run(thread):
    for number in range(400):
        sha1 = store.store_bytes(b"%s %d %d" % (sys.argv[2].encode(), thread, number)).sha1
        sys.stdout.write(sha1 + "\\n")
        sys.stdout.flush()


for thread in range(2):
    Thread(target=run, args=(thread,)).start()
"""


def test_a_process_that_is_killed_loses_nothing_it_acknowledged(root):
    for attempt, after in enumerate((1, 40, 300)):
        process = forked.Popen(
            [sys.executable, "-c", STORES, str(root), str(attempt)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().decode().strip() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [line.strip() for line in process.stdout.read().decode().split("\n")[:-1]]
        process.wait()
        process.stdout.close()
        # The page cache outlives a process: take away what a power cut might.
        shutil.rmtree(root / "sha1")
        with BlobStore(root).open() as store:
            for sha1 in acknowledged:
                assert sha1_of(store.path(sha1).read_bytes()) == sha1


def test_a_batch_is_one_commit_and_survives_like_any_other(root, monkeypatch):
    """What a batch stores is in the journal with one write, and comes back from there."""
    store = BlobStore(root).open()
    writes = []
    real = JournalFile.write
    monkeypatch.setattr(
        JournalFile, "write", lambda *args: (writes.append(len(args[3])), real(*args))
    )
    items = [item(number, 900) for number in range(300)]
    there = store.store_bytes(items[0]).sha1
    writes.clear()
    sha1s = store.store_batch([*items, items[1]])
    assert sha1s == [sha1_of(data) for data in [*items, items[1]]]
    assert sha1s[0] == there
    assert writes == [300], "one commit, and not for what was there"
    for sha1, data in zip(sha1s, items, strict=False):
        assert store.path(sha1).read_bytes() == data
        assert store.in_journal(sha1)
        assert store.path(sha1).stat().st_mode & 0o222 == 0
    assert {sha1_of(data) for data in in_journal(root)} == set(sha1s)
    assert os.listdir(store.temporary) == []
    store.close()


def test_a_batch_heals_and_goes_without_the_journal_if_that_takes_it_not(root):
    store = BlobStore(root, journal_bytes=4 * PAGE).open()
    items = [item(number, 3_000) for number in range(8)]
    sha1s = [sha1_of(data) for data in items]
    store.store_bytes(items[3])
    store.path(sha1s[3]).chmod(0o644)
    store.path(sha1s[3]).write_bytes(b"rotten")
    store.path(sha1s[4], ".link").parent.mkdir(parents=True)
    store.path(sha1s[4], ".link").write_text("{}")
    assert store.store_batch(items) == sha1s
    assert [store.path(sha1).read_bytes() for sha1 in sha1s] == items
    assert not store.path(sha1s[4], ".link").exists()
    assert store.store_batch([]) == []
    store.close()
