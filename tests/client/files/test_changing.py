"""An original that is linked, and changes while it is copied out or read: what comes is right, or
nothing comes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import blocking
from kachery_p2p.client.values import codecs
from kachery_p2p.protocol.errors import CorruptContent, NotFound
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK

SMALL = 300_000
LARGE = MANIFEST_CHUNK + 2 * BLOCK + 100


def written(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(200)
        file.write(b"?!")


def written_with_its_time_set_back(path: Path) -> None:
    status = path.stat()
    written(path)
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))


def gone(path: Path) -> None:
    path.unlink(missing_ok=True)


def cut(path: Path) -> None:
    os.truncate(path, 100)


Change = Callable[[Path], None]
CHANGES = pytest.mark.parametrize("change", [written, written_with_its_time_set_back, cut, gone])
SIZES = pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])


def linked(tmp_path: Path, size: int) -> tuple[Path, str]:
    path = tmp_path / "original" / "a.npy"
    path.parent.mkdir()
    np.save(path, np.arange(size, dtype="u1"))
    return path, kc.link_file(path)


def while_copying(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """The first piece that is copied is the last that is as it was."""
    real = blocking.copy_bytes

    def copying(source: int, target: int, gone: Any, advanced: Any, right: Any = None) -> None:
        def changing(done: int) -> None:
            if blocking.copy_bytes is copying:
                monkeypatch.setattr(blocking, "copy_bytes", real)
                change()

        if os.fstat(source).st_size <= SMALL + 1_000:  # it is one piece
            changing(0)
        real(source, target, gone, changing, right)

    monkeypatch.setattr(blocking, "clone", lambda source, target: False)
    monkeypatch.setattr(blocking, "copy_bytes", copying)


def attempt(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (CorruptContent, NotFound):
        return None


@SIZES
@CHANGES
def test_no_copy_is_made_of_what_changes_while_it_is_copied(
    folder: Path, tmp_path: Path, change: Change, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, uri = linked(tmp_path, size)
    data = path.read_bytes()
    while_copying(monkeypatch, lambda: change(path))
    dest = tmp_path / "copy"
    if attempt(lambda: kc.load_file(uri, dest)) is not None:
        assert dest.read_bytes() == data
    else:
        assert not dest.exists()
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".kachery")] == []


@CHANGES
def test_no_file_of_a_folder_is_a_copy_of_what_changes_meanwhile(
    folder: Path, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = linked(tmp_path, LARGE)
    (path.parent / "other").write_text("stays")
    data = path.read_bytes()
    uri = kc.store_dir(path.parent, link=True)
    while_copying(monkeypatch, lambda: change(path))
    dest = tmp_path / "copy"
    attempt(lambda: kc.load_dir(uri, dest))
    copy = dest / path.name
    assert not copy.exists() or copy.read_bytes() == data


@CHANGES
def test_no_array_is_read_from_what_changes_while_it_is_read(
    folder: Path, tmp_path: Path, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, uri = linked(tmp_path, LARGE)
    array = np.load(path)
    real = codecs.load_arrays_path

    def reading(source: str, *more: Any) -> Any:
        monkeypatch.setattr(codecs, "load_arrays_path", real)
        change(path)
        return real(source, *more)

    monkeypatch.setattr(codecs, "load_arrays_path", reading)
    found = attempt(lambda: kc.load_npy(uri))
    assert found is None or np.array_equal(found, array)


@SIZES
@pytest.mark.parametrize("change", [written, cut, gone])
def test_what_is_stored_by_another_too_is_read_on_from_there(
    folder: Path, tmp_path: Path, change: Change, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The original changes, and its content is stored meanwhile: the next try finds that."""
    path, uri = linked(tmp_path, size)
    data = path.read_bytes()

    def both() -> None:
        change(path)
        kc.store_bytes(data)

    while_copying(monkeypatch, both)
    dest = tmp_path / "copy"
    assert kc.load_file(uri, dest) == str(dest)
    assert dest.read_bytes() == data
