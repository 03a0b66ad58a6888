"""Storage on file systems that lack something."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from kachery_p2p.storage.disk import disk_error
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.marker import is_marked, marker_of


def refuse_folders(monkeypatch: pytest.MonkeyPatch, number: int) -> list[int]:
    """Have folders refuse to be synced, and files to have modes."""
    real, asked = os.fsync, []

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            asked.append(fd)
            raise OSError(number, os.strerror(number))
        real(fd)

    def fchmod(fd: int, mode: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "fchmod", fchmod)
    return asked


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.ENOTSUP])
def test_a_folder_that_cannot_be_synced_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on shares of Windows' servers and some of FUSE: nothing could be stored there."""
    asked = refuse_folders(monkeypatch, number)
    large = os.urandom(MANIFEST_CHUNK + 1)
    with BlobStore(tmp_path / "s").open() as store:
        small = store.store_bytes(b"small")
        stored = store.store_bytes(large)
        marker = marker_of(store.root, os.urandom)
        assert is_marked(store.root, marker, os.getuid())
    assert asked
    with BlobStore(tmp_path / "s").open() as store:
        for sha1, data in ((small.sha1, b"small"), (stored.sha1, large)):
            blob = store.find(sha1)
            assert blob is not None
            assert store.read(blob, 0, blob.size) == data


def test_a_folder_that_fails_to_be_synced_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BlobStore(tmp_path / "s").open() as store, monkeypatch.context() as patch:
        refuse_folders(patch, errno.EIO)
        with pytest.raises(StorageDamaged):
            store.store_bytes(os.urandom(MANIFEST_CHUNK + 1))


def test_temporary_files_have_a_folder_though_it_was_tidied_away(tmp_path: Path) -> None:
    """Nothing large could be stored until the next start."""
    large = os.urandom(MANIFEST_CHUNK + 1)
    with BlobStore(tmp_path / "s").open() as store:
        store.temporary.rmdir()
        blob = store.find(store.store_bytes(large).sha1)
        assert blob is not None
        store.temporary.rmdir()
        store.quarantine(blob.sha1)
        assert store.store_bytes(large).sha1 == blob.sha1
        os.rename(store.root, tmp_path / "unmounted")
        with pytest.raises(StorageDamaged):
            store.store_bytes(large[1:])
        assert not store.root.exists()


def test_a_folder_of_the_storage_on_another_disk_is_said_to_be_that(tmp_path: Path) -> None:
    """As of ``sha1`` that is a link to a larger disk: it was an invalid link, and no more."""
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir=elsewhere) as other:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "sha1").symlink_to(other)
        with BlobStore(tmp_path / "s").open(lock=False) as store:
            for size in (1_000, MANIFEST_CHUNK + 1):
                with pytest.raises(StorageDamaged, match="have a link to it here"):
                    store.store_bytes(os.urandom(size))
            assert os.listdir(store.temporary) == []


def test_a_file_that_is_too_large_for_a_disk_is_said_to_be_that(tmp_path: Path) -> None:
    error = OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    assert "for this file system, or for 'ulimit -f'" in str(disk_error(error, "it", tmp_path))
