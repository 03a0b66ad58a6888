"""A storage folder that this user may only read: what lies in it is there, and nothing is stored."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import StorageDamaged, StorageReadOnly
from kachery_p2p.storage.disk import disk_error
from kachery_p2p.storage.files.blobs import BlobStore
from kachery_p2p.storage.files.marker import is_marked, place_of
from tests.another_user import as_nobody
from tests.daemons import short_folder


@pytest.fixture
def kept() -> Iterator[tuple[Path, str]]:
    """A folder with one blob, which nobody may write to."""
    with short_folder() as folder:
        folder.chmod(0o755)
        root = folder / "k"
        with BlobStore(root).open() as store:
            sha1 = store.store_bytes(b"kept").sha1
        everything = [root, *root.rglob("*")]
        for path in everything:
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield root, sha1
        for path in everything:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_what_lies_there_is_read_and_nothing_is_stored(kept: tuple[Path, str]) -> None:
    root, sha1 = kept

    def look() -> None:
        for lock in (True, False):
            with BlobStore(root).open(lock=lock) as store:
                assert store.read_only == lock
                blob = store.find(sha1)
                assert blob is not None
                assert store.read(blob, 0, 4) == b"kept"
                for data in (b"new", b"x" * 3_000_000):
                    with pytest.raises(StorageReadOnly, match="cannot be written to"):
                        store.store_bytes(data)
                assert store.store_bytes(b"kept").sha1 == sha1

    as_nobody(look)


def test_its_place_stands_for_the_marker_for_who_runs_the_node(kept: tuple[Path, str]) -> None:
    root, _ = kept
    place = place_of(root)
    assert is_marked(root, place, os.getuid())
    assert not is_marked(root, place, os.getuid() + 1)
    assert not is_marked(root.parent, place, os.getuid())
    assert not is_marked(root / "none", place, os.getuid())


def test_a_folder_that_cannot_be_made_is_no_storage() -> None:
    as_nobody(lambda: _refused(Path("/k")))


def _refused(root: Path) -> None:
    with pytest.raises(StorageReadOnly):
        BlobStore(root).open()


def test_only_what_cannot_be_written_is_called_so(kept: tuple[Path, str]) -> None:
    root, _ = kept
    read_only_disk = OSError(errno.EROFS, "Read-only file system")
    assert isinstance(disk_error(read_only_disk, "x", root), StorageReadOnly)

    def look() -> None:
        refused = PermissionError(errno.EACCES, "Permission denied")
        assert isinstance(disk_error(refused, "x", root / "new" / "file"), StorageReadOnly)
        unreadable = Path("/etc/shadow")
        found = disk_error(refused, "x", unreadable)
        assert isinstance(found, StorageDamaged)
        assert not isinstance(found, StorageReadOnly)

    as_nobody(look)
