"""What a blob is bound to is on disk before the blob: after a kill at any step, after a full disk at
any step."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import StorageFull
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from kachery_p2p.storage import disk
from kachery_p2p.storage.bindings import Bindings
from kachery_p2p.storage.database import Database
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.origins import NOBODY
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.state import StateDB
from tests.storage.files.samples import content

SIZES = {"small": 1_000, "large": MANIFEST_CHUNK + 1}
WAYS = ["bytes", "file", "stream", "link", "fetched"]

STEPS = ("replace", "fsync", "fdatasync", "pwrite", "write", "unlink", "mkdir")
"""Calls of the system before each of which a process may die, and before and after each commit."""


def put(way: str, root: Path, data: bytes) -> None:
    """Store for the channel "one", or fetch on it."""
    source = root / "source"
    with StateDB(root / "state.sqlite") as state:
        store = BlobStore(root / "storage", on_manifest=state.set_manifest, journal_bytes=1 << 21)
        with store.open():
            bindings = Bindings(store, state)
            arriving = bindings.arriving("one")
            if way == "bytes":
                stored = store.store_bytes(data, arriving)
            elif way == "stream":
                writer = store.begin(arriving)
                writer.write(data)
                stored = writer.finish()
            elif way == "fetched":
                partial = Partial.open(store, disk_hash(data), len(data))
                state.add_download_channel(partial.sha1, "one")
                partial.append(0, data)
                bindings.complete(partial.sha1, bindings.resumed(partial))
                partial.finish()
                return
            else:
                with open(source, "rb") as file:
                    if way == "file":
                        stored = store.store_fd(file.fileno(), arriving=arriving)
                    else:
                        stored = store.link_fd(file.fileno(), source, arriving=arriving)
            bindings.stored(stored, "one")


def disk_hash(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def on_every_step(act: Callable[[], None]) -> None:
    """Have ``act`` called before and after whatever can change what is on disk."""
    for name in STEPS:
        original = getattr(os, name)

        def stepped(*args: object, _original: Callable[..., object] = original, **kw: object):
            act()
            return _original(*args, **kw)

        setattr(os, name, stepped)
    change = Database.transaction

    def transaction(self: Database):
        act()
        with change(self) as db:
            yield db
        act()

    Database.transaction = contextlib.contextmanager(transaction)  # type: ignore[method-assign]


def free(root: Path) -> list[str]:
    """The blobs that may go out on the channel "two"."""
    with (
        StateDB(root / "state.sqlite", durable=False) as state,
        BlobStore(root / "storage", durable=False).open() as store,
    ):
        bindings = Bindings(store, state)
        return [entry.sha1 for entry in store.scan() if bindings.may_leave(entry.sha1, "two")]


def die_at(step: int, way: str, root: Path, data: bytes) -> None:
    left = step

    def act() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os._exit(9)

    on_every_step(act)
    put(way, root, data)


def main(way: str, root: str, size: str, stride: str) -> None:
    """In a process of its own: processes that die one step later each time, until one does not."""
    data = content(int(size))
    for step in range(1, 1_000, int(stride)):
        here = Path(root, str(step))
        (here / "storage").mkdir(parents=True)
        (here / "source").write_bytes(data)
        child = os.fork()  # nothing runs here besides this
        if not child:
            try:
                die_at(step, way, here, data)
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(step, code)
        if code != 9:
            return


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_step_a_kill_comes_at_nothing_for_one_channel_is_free(tmp_path, way, size):
    data = content(SIZES[size])
    stride = 1 if size == "small" else 5
    done = subprocess.run(
        [sys.executable, __file__, way, str(tmp_path), str(len(data)), str(stride)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    ended = dict(tuple(line.split()) for line in done.stdout.splitlines())
    assert [code for code in ended.values() if code != "9"] == ["0"], done.stderr
    assert len(ended) > 3
    for step in ended:
        assert free(tmp_path / step) == []
    with BlobStore(tmp_path / step / "storage", durable=False).open() as store:
        assert store.find(disk_hash(data)) is not None


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_write_a_full_disk_refuses_nothing_for_one_channel_is_free(
    tmp_path, monkeypatch, way, size
):
    data = content(SIZES[size])
    refused = 0
    for step in range(1, 100):
        root = tmp_path / str(step)
        (root / "storage").mkdir(parents=True)
        (root / "source").write_bytes(data)
        put_over_a_full_disk(monkeypatch, way, root, data, step)
        left = free(root)
        assert left == []
        with BlobStore(root / "storage", durable=False).open() as store:
            there = store.find(disk_hash(data)) is not None
        refused += not there
        if there:
            break
    assert refused >= 1


def put_over_a_full_disk(monkeypatch, way: str, root: Path, data: bytes, step: int) -> None:
    left = step

    def full() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    change = Database.transaction

    def begun(self: Database):
        with self._errors():
            full()
        return change(self)

    def refusing(name):
        original = getattr(os, name)

        def call(*args, **more):
            full()
            return original(*args, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("write", "pwrite", "mkdir", "replace"):
            patch.setattr(disk.os, name, refusing(name))
        patch.setattr(Database, "transaction", begun)
        try:
            put(way, root, data)
        except (StorageFull, OSError):
            return


@pytest.mark.parametrize("may_be", [True, False])
def test_what_cannot_be_here_is_not_looked_for_and_bound_at_once(tmp_path, may_be):
    asked = []

    def may_be_here(sha1: str) -> bool:
        asked.append(sha1)
        return may_be

    with StateDB(tmp_path / "state.sqlite") as state:
        store = BlobStore(tmp_path / "storage")
        with store.open():
            bindings = Bindings(store, state)
            here = store.store_bytes(b"free").sha1
            bindings.arriving("one", may_be_here)([here, disk_hash(b"new")])
            assert asked == [here, disk_hash(b"new")]
            assert state.origins(disk_hash(b"new")) == {"one"}
            # That it cannot be here was wrong: then nobody but the channel gets it.
            assert state.origins(here) == (frozenset() if may_be else {"one"})


def test_what_is_free_stays_free_when_storing_it_for_one_channel_fails(tmp_path, monkeypatch):
    data = content(1_000)
    with (
        StateDB(tmp_path / "state.sqlite") as state,
        BlobStore(tmp_path / "storage", durable=False).open() as store,
    ):
        bindings = Bindings(store, state)
        sha1 = store.store_bytes(data).sha1
        store.path(sha1).write_bytes(b"rotten" + data[6:])
        full = StorageFull(what="content being stored", path="")
        monkeypatch.setattr(store, "_put", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(StorageFull):
            store.store_bytes(data, bindings.arriving("one"))
        assert bindings.may_leave(sha1, "two")


def test_a_download_from_two_channels_goes_out_on_neither(tmp_path):
    data = content(2_000)
    with (
        StateDB(tmp_path / "state.sqlite") as state,
        BlobStore(tmp_path / "storage", durable=False).open() as store,
    ):
        bindings = Bindings(store, state)
        sha1 = disk_hash(data)
        for channel, start in (("one", 0), ("two", 1_000)):
            with_more = Partial.open(store, sha1, len(data))
            bindings.resumed(with_more)
            state.add_download_channel(sha1, channel)
            with_more.append(start, data[start : start + 1_000])
            if channel == "one":
                with_more.close()
        channels = bindings.resumed(with_more)
        assert channels == {"one", "two"}
        bindings.complete(sha1, channels)
        with_more.finish()
        assert state.origins(sha1) == {NOBODY}
        assert not bindings.may_leave(sha1, "one")
        assert not bindings.may_leave(sha1, "two")
        # One that begins anew has nothing to do with that.
        os.unlink(store.path(sha1))
        fresh = Partial.open(store, sha1, len(data))
        assert bindings.resumed(fresh) == frozenset()
        assert state.download_channels(sha1) == frozenset()
        fresh.discard()


if __name__ == "__main__":
    main(*sys.argv[1:])
