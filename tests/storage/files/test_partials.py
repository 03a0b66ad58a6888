"""A download keeps what was verified through every accident, and nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import (
    BadInput,
    Cancelled,
    CorruptContent,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.files.manifest import Chunk, Manifest, Tree
from kachery_p2p.protocol.limits import BLOCK, DURABLE_WINDOW, SYNC_AFTER
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.hashing import RunningHash
from kachery_p2p.storage.files.partials import Partial
from tests.storage.files.samples import content

CHUNK = 3 * BLOCK + 17


class Source:
    """A file somewhere else, that can prove what it has."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.sha1 = hashlib.sha1(data).hexdigest()
        self.count = -(-len(data) // BLOCK)
        self.levels = tree.levels("blake3", b"".join(tree.leaf_hashes("blake3", data, BLOCK)))

    def manifest(self, kind: str) -> Manifest | None:
        if kind == "whole":
            return None
        chunks = tuple(
            Chunk(at, min(at + CHUNK, len(self.data)), self._sha1(at))
            for at in range(0, len(self.data), CHUNK)
        )
        root = Tree("blake3", BLOCK, self.levels[-1]) if kind == "tree" else None
        return Manifest(len(self.data), self.sha1, chunks, root)

    def _sha1(self, at: int) -> str:
        return hashlib.sha1(self.data[at : at + CHUNK]).hexdigest()

    def node(self, level: int, index: int) -> bytes:
        return self.levels[level][32 * index : 32 * index + 32]

    def blocks(self, start: int, stop: int) -> tuple[int, bytes, list[bytes]]:
        proof = tree.range_proof(self.node, self.count, start, stop)
        return start * BLOCK, self.data[start * BLOCK : stop * BLOCK], proof

    def give(self, partial: Partial, start: int, stop: int) -> int:
        """Bytes [start, stop) of a download of any kind."""
        if partial.kind == "tree":
            return partial.write_blocks(*self.blocks(start // BLOCK, -(-stop // BLOCK)))
        return partial.append(start, self.data[start:stop])

    def give_rest(self, partial: Partial) -> None:
        for start, stop in partial.missing():
            self.give(partial, start, stop)

    def open(self, store: BlobStore, kind: str) -> Partial:
        return Partial.open(store, self.sha1, len(self.data), self.manifest(kind))


SOURCE = Source(content(10 * BLOCK + 333))
SIZE = len(SOURCE.data)
KINDS = ["tree", "chunks", "whole"]


def crash(partial: Partial) -> None:
    """What the kernel does for a process that was killed: descriptors close, nothing else."""
    partial._files.close()


def files(store: BlobStore) -> list[str]:
    folder = store.path(SOURCE.sha1).parent
    return sorted(path.name[40:] for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("durable", [True, False])
def test_a_download_becomes_the_blob(tmp_path, kind, durable):
    with BlobStore(tmp_path, durable=durable).open() as store:
        partial = SOURCE.open(store, kind)
        assert partial.kind == kind
        assert partial.missing()[0][0] == 0
        SOURCE.give_rest(partial)
        assert partial.received_bytes == SIZE
        assert partial.verified_bytes == (0 if kind == "whole" else SIZE)
        assert partial.missing() == []
        path = partial.finish()
        assert path.read_bytes() == SOURCE.data
        assert store.find(SOURCE.sha1).path == path
        assert files(store) == (["", ".tree"] if kind == "tree" else [""])
        if kind == "tree":
            assert store.path(SOURCE.sha1, paths.TREE).read_bytes() == b"".join(SOURCE.levels)
        with pytest.raises(StorageDamaged, match="closed"):
            partial.finish()
        partial.close()


@pytest.mark.parametrize("size", [0, 1, BLOCK, BLOCK + 1, CHUNK, CHUNK + 1])
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_works(store, kind, size):
    source = Source(content(size, seed=size))
    partial = source.open(store, kind if size else "whole")
    source.give_rest(partial)
    assert partial.finish().read_bytes() == source.data


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_kept_is_not_fetched_again(store, kind):
    partial = SOURCE.open(store, kind)
    SOURCE.give(partial, 0, 6 * BLOCK)
    kept = {"tree": 6 * BLOCK, "chunks": CHUNK, "whole": 6 * BLOCK}[kind]
    partial.close()
    again = SOURCE.open(store, kind)
    assert again.received_bytes == kept
    assert again.missing()[0][0] == kept
    SOURCE.give_rest(again)
    assert again.finish().read_bytes() == SOURCE.data


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_costs_what_was_not_synced_and_no_more(store, kind):
    partial = SOURCE.open(store, kind)
    SOURCE.give(partial, 0, 2 * CHUNK if kind != "tree" else 6 * BLOCK)
    partial.sync()
    kept = partial.received_bytes
    SOURCE.give(partial, kept, SIZE)
    crash(partial)
    again = SOURCE.open(store, kind)
    assert again.received_bytes == kept
    SOURCE.give_rest(again)
    assert again.finish().read_bytes() == SOURCE.data


def test_marks_are_written_after_the_data_they_claim(store, monkeypatch):
    order = []
    partial = SOURCE.open(store, "tree")
    partial._files.durable = True
    fds = {partial._files.data: "data", partial._files.tree: "hashes", partial._map._fd: "marks"}
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (order.append(fds[fd]), real(fd)))
    real_save = type(partial._map).save

    def save(*args):
        order.append("write marks")
        real_save(*args)

    monkeypatch.setattr(type(partial._map), "save", save)
    SOURCE.give(partial, 0, BLOCK)
    partial.sync()
    assert order == ["data", "hashes", "write marks", "marks"]


def test_marks_made_during_a_sync_wait_for_the_next(store, monkeypatch):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, BLOCK)
    real = partial._files.sync_data

    def sync_data() -> None:
        real()
        SOURCE.give(partial, BLOCK, 3 * BLOCK)

    monkeypatch.setattr(partial._files, "sync_data", sync_data)
    partial.sync()
    crash(partial)
    again = SOURCE.open(store, "tree")
    assert again.missing() == [(BLOCK, SIZE)]
    SOURCE.give(again, BLOCK, 3 * BLOCK)
    again.sync()
    crash(again)
    assert SOURCE.open(store, "tree").missing() == [(3 * BLOCK, SIZE)]


def test_a_failed_sync_ends_the_use_of_the_partial_but_not_the_partial(store, monkeypatch):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, BLOCK)
    partial.sync()
    SOURCE.give(partial, BLOCK, SIZE)

    def fail() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(partial._files, "sync_data", fail)
    with pytest.raises(StorageDamaged, match="Input/output"):
        partial.finish()
    monkeypatch.undo()
    for use in (partial.sync, partial.finish, lambda: SOURCE.give(partial, 0, BLOCK)):
        with pytest.raises(StorageDamaged, match="earlier write failed"):
            use()
    partial.close()
    again = SOURCE.open(store, "tree")
    assert again.missing() == [(BLOCK, SIZE)]


def test_a_sync_is_due_and_a_late_one_is_made_up_for(store):
    source = Source(content(2 * DURABLE_WINDOW))
    partial = Partial.open(store, source.sha1, len(source.data))
    partial.append(0, memoryview(source.data)[: SYNC_AFTER - 1])
    assert not partial.sync_due()
    partial.append(SYNC_AFTER - 1, b"%c" % source.data[SYNC_AFTER - 1])
    assert partial.sync_due()
    late = DURABLE_WINDOW - SYNC_AFTER
    partial.append(SYNC_AFTER, memoryview(source.data)[SYNC_AFTER:late])
    assert not partial.sync_due()
    crash(partial)
    again = Partial.open(store, source.sha1, len(source.data))
    assert again.received_bytes == late
    source.give_rest(again)
    assert again.finish().stat().st_size == len(source.data)


@pytest.mark.parametrize("kind", KINDS)
def test_another_plan_starts_anew(store, kind):
    partial = SOURCE.open(store, kind)
    SOURCE.give_rest(partial)
    partial.close()
    for other in KINDS:
        if other != kind:
            again = SOURCE.open(store, other)
            assert again.received_bytes == 0
            again.close()
            # and back to the first, which is gone for good
            back = SOURCE.open(store, kind)
            assert back.received_bytes == 0
            back.discard()
    lie = Source(content(SIZE, seed=5)).manifest("tree")
    partial = SOURCE.open(store, "tree")
    SOURCE.give_rest(partial)
    partial.close()
    again = Partial.open(store, SOURCE.sha1, SIZE, Manifest(SIZE, SOURCE.sha1, (), lie.tree))
    assert again.received_bytes == 0


@pytest.mark.parametrize("suffix", [".partial", ".partial.map", ".partial.tree"])
@pytest.mark.parametrize("damage", ["gone", "cut", "long"])
def test_a_partial_with_a_file_amiss_starts_anew(store, suffix, damage):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, 5 * BLOCK)
    partial.close()
    path = store.path(SOURCE.sha1, suffix)
    if damage == "gone":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size + (1 if damage == "long" else -1))
    again = SOURCE.open(store, "tree")
    assert again.received_bytes == 0
    SOURCE.give_rest(again)
    assert again.finish().read_bytes() == SOURCE.data


def test_a_crash_between_the_renames_of_a_finish_is_taken_back(store):
    partial = SOURCE.open(store, "tree")
    SOURCE.give_rest(partial)
    partial.close()
    store.path(SOURCE.sha1, ".partial.tree").rename(store.path(SOURCE.sha1, ".tree"))
    again = SOURCE.open(store, "tree")
    assert again.missing() == []
    assert again.finish().read_bytes() == SOURCE.data
    assert files(store) == ["", ".tree"]


def test_discarding_leaves_nothing(store):
    for kind in KINDS:
        partial = SOURCE.open(store, kind)
        SOURCE.give(partial, 0, BLOCK)
        partial.discard()
        partial.close()
        assert files(store) == []


# --- what is refused ---------------------------------------------------------------------------


def test_nothing_unproved_touches_the_disk(store):
    partial = SOURCE.open(store, "tree")
    offset, data, proof = SOURCE.blocks(3, 5)
    wrong = bytearray(data)
    wrong[70_000] ^= 1
    for lie in (
        (offset, bytes(wrong), proof),
        (offset, data, proof[:-1]),
        (offset, data, [*proof, bytes(32)]),
        (offset + BLOCK, data, proof),
        (offset, data, [bytes(32)] * len(proof)),
        (offset, data, [b"short"] * len(proof)),
    ):
        with pytest.raises(CorruptContent, match="a liar"):
            partial.write_blocks(*lie, source="a liar")
    assert partial.verified_bytes == 0
    assert store.path(SOURCE.sha1, ".partial").read_bytes() == bytes(SIZE)
    assert not any(store.path(SOURCE.sha1, ".partial.tree").read_bytes())
    assert partial.write_blocks(offset, data, proof) == 2 * BLOCK
    assert partial.write_blocks(offset, data, proof) == 0


@pytest.mark.parametrize(
    ("offset", "length"),
    [(1, BLOCK), (0, BLOCK - 1), (0, 0), (-BLOCK, BLOCK), (10 * BLOCK, BLOCK), (11 * BLOCK, BLOCK)],
)
def test_what_is_no_whole_block_is_refused(store, offset, length):
    partial = SOURCE.open(store, "tree")
    with pytest.raises(BadInput):
        partial.write_blocks(offset, bytes(length), [])
    with pytest.raises(BadInput):
        partial.append(0, b"x")


def test_a_chunk_counts_when_its_hash_matched(store):
    partial = SOURCE.open(store, "chunks")
    data = SOURCE.data
    assert partial.append(0, data[:1000]) == 1000
    assert (partial.verified_bytes, partial.received_bytes) == (0, 1000)
    assert partial.missing()[0] == (1000, CHUNK)
    with pytest.raises(BadInput, match="is not 1000"):
        partial.append(2000, data[2000:3000])
    partial.append(1000, data[1000 : CHUNK + 5])
    assert (partial.verified_bytes, partial.received_bytes) == (CHUNK, CHUNK + 5)
    assert partial.append(10, data[10:CHUNK]) == 0
    assert partial.have(0, CHUNK)
    assert partial.read_verified(5, 500) == data[5:500]
    assert not partial.have(CHUNK, CHUNK + 5)
    # Another source begins the second chunk again, and lies at its end.
    partial.append(CHUNK, data[CHUNK : 2 * CHUNK - 1])
    with pytest.raises(CorruptContent, match="a liar"):
        partial.append(2 * CHUNK - 1, b"%c" % (data[2 * CHUNK - 1] ^ 1), source="a liar")
    assert partial.received_bytes == CHUNK
    assert partial.missing()[0] == (CHUNK, 2 * CHUNK)
    # One gets a part of it right; another begins once more, and that part is forgotten.
    partial.append(CHUNK, data[CHUNK : CHUNK + 100])
    partial.append(CHUNK, data[CHUNK : 2 * CHUNK])
    assert partial.verified_bytes == 2 * CHUNK
    SOURCE.give_rest(partial)
    assert partial.finish().read_bytes() == data


def test_without_a_manifest_a_lie_is_found_at_the_end_and_thrown_away(store):
    partial = SOURCE.open(store, "whole")
    with pytest.raises(BadInput):
        partial.append(1, b"x")
    with pytest.raises(BadInput):
        partial.append(0, bytes(SIZE + 1))
    partial.append(0, bytes(SIZE))
    assert not partial.have(0, 1)
    assert partial.read_verified(0, 1) is None
    with pytest.raises(CorruptContent, match="a liar"):
        partial.finish(source="a liar")
    assert files(store) == []


@pytest.mark.parametrize("kind", ["tree", "chunks"])
def test_a_manifest_that_lies_about_the_whole_is_found_out(store, kind):
    other = Source(content(SIZE, seed=9))
    true = other.manifest(kind)
    lie = Manifest(SIZE, SOURCE.sha1, true.chunks, true.tree)
    partial = Partial.open(store, SOURCE.sha1, SIZE, lie)
    other.give_rest(partial)
    with pytest.raises(CorruptContent):
        partial.finish()
    assert files(store) == []
    assert store.find(SOURCE.sha1) is None


def test_a_manifest_of_something_else_is_refused(store):
    with pytest.raises(BadInput):
        Partial.open(store, "ab" * 20, SIZE, SOURCE.manifest("tree"))
    with pytest.raises(BadInput):
        Partial.open(store, SOURCE.sha1, SIZE + 1, SOURCE.manifest("tree"))
    for size in (-1, 1 << 60, True):
        with pytest.raises(BadInput):
            Partial.open(store, SOURCE.sha1, size)


@pytest.mark.parametrize("kind", KINDS)
def test_finishing_early_or_cancelled_keeps_the_partial(store, kind):
    partial = SOURCE.open(store, kind)
    SOURCE.give(partial, 0, BLOCK)
    with pytest.raises(BadInput, match="missing"):
        partial.finish()
    SOURCE.give_rest(partial)
    partial.close()
    again = SOURCE.open(store, kind)
    if again.missing():
        SOURCE.give_rest(again)
    again._hashed, again._sha1 = 0, RunningHash()
    with pytest.raises(Cancelled):
        again.finish(cancelled=lambda: True)
    assert again.finish().read_bytes() == SOURCE.data


def test_missing_is_in_whole_blocks_and_about_the_limit(store):
    partial = SOURCE.open(store, "tree")
    for block in (1, 4, 10):
        SOURCE.give(partial, block * BLOCK, min(block * BLOCK + BLOCK, SIZE))
    assert partial.missing() == [
        (0, BLOCK),
        (2 * BLOCK, 4 * BLOCK),
        (5 * BLOCK, 10 * BLOCK),
    ]
    assert partial.missing(BLOCK + 1) == [(0, BLOCK), (2 * BLOCK, 3 * BLOCK)]
    assert partial.missing(1) == [(0, BLOCK)]
    assert partial.missing(0) == []
    chunks = SOURCE.open(store, "chunks")
    assert chunks.missing(CHUNK + 1) == [(0, CHUNK), (CHUNK, 2 * CHUNK)]


# --- serving from it ---------------------------------------------------------------------------


def test_what_is_here_can_be_proved_to_others(store):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 2 * BLOCK, 7 * BLOCK)
    SOURCE.give(partial, 10 * BLOCK, SIZE)
    for start, stop in [(2, 7), (3, 4), (6, 7), (10, 11)]:
        end = min(stop * BLOCK, SIZE)
        data = partial.read_verified(start * BLOCK, end)
        assert data == SOURCE.data[start * BLOCK : end]
        leaves = tree.leaf_hashes("blake3", data, BLOCK)
        proof = partial.proof(start, stop)
        tree.verify_range("blake3", SOURCE.levels[-1], SOURCE.count, start, leaves, proof)
    assert (
        partial.read_verified(3 * BLOCK + 5, 5 * BLOCK - 5)
        == (SOURCE.data[3 * BLOCK + 5 : 5 * BLOCK - 5])
    )
    assert partial.read_verified(BLOCK, 3 * BLOCK) is None
    assert partial.read_verified(0, 0) is None
    assert partial.read_verified(10 * BLOCK, SIZE + 1) is None
    assert partial.proof(7, 8) is not None or not partial.have(7 * BLOCK, 8 * BLOCK)
    assert partial.proof(0, 12) is partial.proof(3, 3) is None
    assert SOURCE.open(store, "whole").proof(0, 1) is None


def test_an_unknown_hash_is_no_proof(store):
    assert SOURCE.open(store, "tree").proof(0, 1) is None


def test_a_block_that_rotted_is_not_served_and_is_fetched_again(store):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, 4 * BLOCK)
    with open(store.path(SOURCE.sha1, ".partial"), "r+b") as file:
        file.seek(2 * BLOCK + 9)
        file.write(b"rot")
    assert partial.read_verified(0, 4 * BLOCK) is None
    assert partial.read_verified(0, 2 * BLOCK) == SOURCE.data[: 2 * BLOCK]
    assert partial.missing() == [(2 * BLOCK, 3 * BLOCK), (4 * BLOCK, SIZE)]
    assert partial.verified_bytes == 3 * BLOCK
    partial.close()
    again = SOURCE.open(store, "tree")
    assert again.missing() == [(2 * BLOCK, 3 * BLOCK), (4 * BLOCK, SIZE)]
    SOURCE.give_rest(again)
    assert again.finish().read_bytes() == SOURCE.data


def test_a_hash_that_rotted_is_learned_again_with_its_block(store):
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, 4 * BLOCK)
    with open(store.path(SOURCE.sha1, ".partial.tree"), "r+b") as file:
        file.write(b"rot")
    assert partial.read_verified(0, BLOCK) is None
    SOURCE.give(partial, 0, BLOCK)
    assert partial.read_verified(0, 4 * BLOCK) == SOURCE.data[: 4 * BLOCK]
    assert partial.proof(0, 1) is not None


def test_hashes_near_the_root_are_written_once(store, monkeypatch):
    written = []
    pwrite = os.pwrite
    monkeypatch.setattr(
        os, "pwrite", lambda fd, data, at: written.append(len(data)) or pwrite(fd, data, at)
    )
    partial = SOURCE.open(store, "tree")
    SOURCE.give(partial, 0, BLOCK)
    first = len(written)
    written.clear()
    SOURCE.give(partial, BLOCK, 2 * BLOCK)  # its neighbour, which has come with it, and all above
    assert written == [BLOCK]
    assert first > 2
    partial.close()
    again = SOURCE.open(store, "tree")
    assert again.proof(0, 2) is not None


def test_a_partial_that_rotted_while_nobody_looked_does_not_become_a_blob(store):
    partial = SOURCE.open(store, "tree")
    SOURCE.give_rest(partial)
    partial.close()
    with open(store.path(SOURCE.sha1, ".partial"), "r+b") as file:
        file.write(b"rot")
    again = SOURCE.open(store, "tree")
    with pytest.raises(CorruptContent):
        again.finish()
    assert files(store) == []


def test_syncs_and_reads_run_beside_the_writer(store):
    source = Source(content(60 * BLOCK))
    partial = source.open(store, "tree")
    done = threading.Event()
    problems: list[BaseException] = []

    def beside() -> None:
        try:
            while not done.is_set():
                partial.sync()
                data = partial.read_verified(0, BLOCK)
                assert data in (None, source.data[:BLOCK])
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=beside)
    thread.start()
    for block in range(59, -1, -1):
        source.give(partial, block * BLOCK, block * BLOCK + BLOCK)
    done.set()
    thread.join()
    assert problems == []
    assert partial.finish().read_bytes() == source.data


def give_in_steps(source: Source, partial: Partial) -> None:
    while missing := partial.missing(4 * BLOCK):
        start, stop = missing[0]
        source.give(partial, start, min(stop, start + 4 * BLOCK))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_keeps_what_was_verified(small_disk, kind):
    source = Source(content(6 << 20))
    with BlobStore(small_disk / "storage").open() as store:
        partial = source.open(store, kind)
        with pytest.raises(StorageFull):
            give_in_steps(source, partial)
        kept = partial.received_bytes if kind != "chunks" else partial.verified_bytes
        assert kept > 0
        partial.close()
        again = source.open(store, kind)
        assert again.received_bytes == kept
        again.close()


# --- any order, any accident -------------------------------------------------------------------


class Downloads(RuleBasedStateMachine):
    """Writes in any order, lies, crashes and restarts; a model of what must be known."""

    @initialize(kind=st.sampled_from(KINDS), extra=st.sampled_from([0, 1, BLOCK - 1]))
    def begin(self, kind: str, extra: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = BlobStore(self.folder, durable=False).open()
        self.source = Source(content(7 * BLOCK + extra, seed=extra))
        self.kind = kind
        self.partial = self.source.open(self.store, kind)
        self.synced = 0

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.partial.close()
            self.store.close()
            shutil.rmtree(self.folder)

    @precondition(lambda self: self.kind == "tree")
    @rule(data=st.data())
    def write_blocks(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.source.count - 1))
        stop = data.draw(st.integers(start + 1, self.source.count))
        before = self.partial.verified_bytes
        new = self.partial.write_blocks(*self.source.blocks(start, stop))
        assert self.partial.verified_bytes == before + new
        assert self.partial.have(start * BLOCK, min(stop * BLOCK, len(self.source.data)))

    @precondition(lambda self: self.kind == "tree")
    @rule(data=st.data())
    def write_lies(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.source.count - 1))
        offset, blocks, proof = self.source.blocks(start, start + 1)
        wrong = bytearray(blocks)
        wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        before = self.partial.missing()
        with pytest.raises(CorruptContent):
            self.partial.write_blocks(offset, bytes(wrong), proof)
        assert self.partial.missing() == before

    @precondition(lambda self: self.kind != "tree" and self.partial.missing())
    @rule(data=st.data(), length=st.integers(1, 2 * CHUNK))
    def append(self, data: st.DataObject, length: int) -> None:
        start, _ = data.draw(st.sampled_from(self.partial.missing()))
        self.partial.append(start, self.source.data[start : start + length])

    @precondition(lambda self: self.kind == "chunks" and self.partial.missing())
    @rule(data=st.data())
    def append_lies(self, data: st.DataObject) -> None:
        start, stop = data.draw(st.sampled_from(self.partial.missing()))
        wrong = bytearray(self.source.data[start:stop])
        wrong[-1] ^= 1
        before = self.partial.verified_bytes
        with pytest.raises(CorruptContent):
            self.partial.append(start, wrong)
        assert self.partial.verified_bytes == before

    @rule()
    def sync(self) -> None:
        self.partial.sync()
        whole = self.kind == "whole"
        self.synced = self.partial.received_bytes if whole else self.partial.verified_bytes

    @rule()
    def crash(self) -> None:
        crash(self.partial)
        self.partial = self.source.open(self.store, self.kind)
        assert self.partial.received_bytes >= self.synced

    @rule()
    def restart(self) -> None:
        self.sync()
        self.partial.close()
        self.partial = self.source.open(self.store, self.kind)
        assert self.partial.received_bytes == self.synced

    @precondition(lambda self: not self.partial.missing())
    @rule()
    def finish(self) -> None:
        assert self.partial.finish().read_bytes() == self.source.data
        self.store.path(self.source.sha1).unlink()
        self.partial = self.source.open(self.store, self.kind)
        self.synced = 0
        assert self.partial.received_bytes == 0

    @invariant()
    def what_is_here_is_true_and_the_rest_is_missing(self) -> None:
        if not hasattr(self, "partial"):
            return
        size = len(self.source.data)
        missing = self.partial.missing()
        assert self.partial.received_bytes == size - sum(b - a for a, b in missing)
        at = 0
        for start, stop in [*missing, (size, size)]:
            if at < start and self.kind == "tree":
                data = self.partial.read_verified(at, start)
                assert data == self.source.data[at:start]
                first, last = at // BLOCK, -(-start // BLOCK)
                leaves = tree.leaf_hashes("blake3", data, BLOCK)
                proof = self.partial.proof(first, last)
                tree.verify_range(
                    "blake3", self.source.levels[-1], self.source.count, first, leaves, proof
                )
            if start < stop:
                assert not self.partial.have(start, stop)
            at = stop


TestDownloads = Downloads.TestCase
TestDownloads.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
