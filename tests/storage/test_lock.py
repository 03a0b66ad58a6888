"""One process has a folder, also where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import StorageInUse
from kachery_p2p.storage import disk
from kachery_p2p.storage.feeds.store import FeedStore
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.lock import lock_folder, unlock_folder
from kachery_p2p.storage.paths import LOCK_FILE
from kachery_p2p.storage.state import StateDB


@pytest.fixture(params=["ENOSYS", "ENOTSUP", "EOPNOTSUPP", "ENOLCK"])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, request.param), "not here")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_folder_is_used_all_the_same(tmp_path: Path) -> None:
    for _ in range(2):
        with BlobStore(tmp_path).open() as store:
            sha1 = store.store_bytes(b"content").sha1
            writer = store.begin()
            writer.feed(b"x" * 3_000_000)
            writer.finish()
            assert store.find(sha1) is not None
        StateDB(tmp_path / "state.sqlite").close()
        FeedStore(tmp_path / "feeds.sqlite").close()
    with BlobStore(tmp_path).open(lock=False) as store:
        assert store.find(store.store_bytes(b"offline").sha1) is not None


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_process_that_has_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    here = socket.gethostname()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path.write_text(f"{gone.pid}\n{here}")
    unlock_folder(lock_folder(tmp_path))
    path.write_text(f"{os.getppid()}\n{here}")
    with pytest.raises(StorageInUse, match=f"pid {os.getppid()}"):
        lock_folder(tmp_path)
    path.write_text(f"{gone.pid}\nelsewhere")
    with pytest.raises(StorageInUse, match=f"on computer elsewhere.*remove {LOCK_FILE}"):
        lock_folder(tmp_path)
    # What ended in order left nothing.
    path.write_text("")
    fd = lock_folder(tmp_path)
    assert path.read_text() == f"{os.getpid()}\n{here}"
    unlock_folder(fd)
    assert path.read_text() == ""


@pytest.mark.usefixtures("no_locks")
def test_without_locks_strays_are_told_by_their_age(tmp_path: Path) -> None:
    path = disk.temporary_path(tmp_path)
    os.close(disk.create(path))
    assert not disk.remove_stray(path)
    old = path.stat().st_mtime - disk.STRAY_SECONDS - 1
    os.utime(path, (old, old))
    assert disk.remove_stray(path)
    assert not path.exists()


def test_with_locks_the_file_holds_the_process_alone(tmp_path: Path) -> None:
    fd = lock_folder(tmp_path)
    assert int((tmp_path / LOCK_FILE).read_text()) == os.getpid()
    with pytest.raises(StorageInUse, match=f"pid {os.getpid()}"):
        lock_folder(tmp_path)
    unlock_folder(fd)
    unlock_folder(lock_folder(tmp_path))
