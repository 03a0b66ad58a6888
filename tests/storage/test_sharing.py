"""A storage folder that others are to read: opened to them and nobody else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kachery_p2p.storage.sharing import bits_to_read, is_open_to, open_to


@pytest.fixture
def private(tmp_path: Path) -> Path:
    root = tmp_path / "k"
    before = os.umask(0o077)
    try:
        (root / "sha1" / "aa").mkdir(parents=True)
        (root / "sha1" / "aa" / "blob").write_text("x")
        (root / "link").symlink_to("/etc/passwd")
    finally:
        os.umask(before)
    return root


def modes(root: Path) -> list[int]:
    found = (root, root / "sha1" / "aa", root / "sha1" / "aa" / "blob")
    return [stat.S_IMODE(each.stat().st_mode) for each in found]


def test_a_private_folder_is_opened_to_a_group(private: Path) -> None:
    group = os.getgid()
    before = os.stat("/etc/passwd")
    assert not is_open_to(private, group, others=False)
    open_to(private, group, others=False)
    assert is_open_to(private, group, others=False)
    assert not is_open_to(private, group, others=True)
    setgid = stat.S_ISGID if group else 0
    assert modes(private) == [0o750 | setgid, 0o750 | setgid, 0o640]
    assert os.stat("/etc/passwd").st_mode == before.st_mode


def test_or_to_everybody(private: Path) -> None:
    assert not is_open_to(private, None, others=True)
    open_to(private, None, others=True)
    assert is_open_to(private, None, others=True)
    assert modes(private) == [0o755, 0o755, 0o644]


def test_what_they_can_read_already_is_left(private: Path) -> None:
    private.chmod(0o755)
    assert is_open_to(private, os.getgid() + 1, others=False)
    private.chmod(0o750)
    assert is_open_to(private, os.getgid(), others=False)
    assert not is_open_to(private, os.getgid() + 1, others=False)


def test_nothing_is_asked_for_that_they_do_not_need() -> None:
    assert bits_to_read(others=False) == 0o050
    assert bits_to_read(others=True) == 0o055
