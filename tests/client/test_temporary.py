"""Temporary folders for users' scripts."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kachery_p2p.client.temporary import TemporaryDirectory


@pytest.fixture(autouse=True)
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    parent = tmp_path / "not" / "made yet"
    monkeypatch.setenv("KACHERY_TEMP_DIR", str(parent))
    monkeypatch.delenv("KACHERY_KEEP_TEMP_FILES", raising=False)
    return parent


def test_it_gives_a_private_folder_where_it_was_told_and_removes_it(temp_dir: Path) -> None:
    with TemporaryDirectory(prefix="mine") as path:
        assert isinstance(path, str)
        assert Path(path).parent == temp_dir
        assert Path(path).name.startswith("mine_")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        assert os.listdir(path) == []
        (Path(path) / "file").write_text("x")
    assert os.listdir(temp_dir) == []


def test_without_the_variable_it_is_in_the_systems_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KACHERY_TEMP_DIR")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TemporaryDirectory() as path:
        assert Path(path).parent == tmp_path
        assert Path(path).name.startswith("tmp_")
    assert not os.path.exists(path)


def test_read_only_files_and_folders_do_not_stay_behind(temp_dir: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o500)
    with TemporaryDirectory() as path:
        inner = Path(path) / "a" / "b"
        inner.mkdir(parents=True)
        (inner / "file").write_text("x")
        (inner / "file").chmod(0o400)
        (Path(path) / "link").symlink_to(outside)
        inner.chmod(0)
        inner.parent.chmod(0o500)
    assert os.listdir(temp_dir) == []
    assert stat.S_IMODE(outside.stat().st_mode) == 0o500


def test_an_error_passes_through_and_the_folder_goes_all_the_same(temp_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), TemporaryDirectory():
        raise ZeroDivisionError
    assert os.listdir(temp_dir) == []


def test_a_folder_that_is_gone_already_is_no_error() -> None:
    with TemporaryDirectory() as path:
        os.rmdir(path)


def test_it_stays_if_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory(remove=False) as path:
        pass
    assert os.path.isdir(path)
    monkeypatch.setenv("KACHERY_KEEP_TEMP_FILES", "1")
    directory = TemporaryDirectory()
    with directory as path:
        assert directory.path() == path
    assert os.path.isdir(path)
