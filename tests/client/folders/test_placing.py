"""Destinations on file systems that lack something."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.protocol.errors import BadPath


@pytest.fixture
def stored(folder: Path, tmp_path: Path) -> str:
    """The URI of a folder with a script and a text."""
    top = tmp_path / "top"
    top.mkdir()
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "a.txt").write_text("a")
    return str(kc.store_dir(top, "top"))


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> list[object]:
    """Have the operating system refuse a call; the list says how often it was asked."""
    asked: list[object] = []

    def refused(*args: Any, **_: Any) -> None:
        asked.append(args)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, refused)
    return asked


@pytest.mark.parametrize(
    "number", [errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EMLINK, errno.EXDEV]
)
def test_where_there_are_no_hard_links_files_are_renamed(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """As on sshfs and exFAT, by whichever number these say so."""
    asked = refuse(monkeypatch, "link", number)
    out = tmp_path / "out"
    assert kc.load_dir(stored, out) == str(out)
    assert asked
    assert sorted(os.listdir(out)) == ["a.txt", "run.sh"]
    (out / "a.txt").write_text("mine")
    with pytest.raises(BadPath, match="something else is there"):
        kc.load_dir(stored, out)
    kc.load_dir(stored, out, replace=True)
    assert (out / "a.txt").read_text() == "a"
    assert kc.store_dir(out, "top") == stored
    assert sorted(os.listdir(out)) == ["a.txt", "run.sh"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.ENOTSUP])
def test_where_there_are_no_owners_and_modes_a_file_is_replaced_all_the_same(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    asked = refuse(monkeypatch, "fchown", number) + refuse(monkeypatch, "fchmod", number)
    (tmp_path / "x").write_text("before")
    kc.load_file(f"{stored}/a.txt", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "a"
    asked += refuse(monkeypatch, "chmod", number)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.sh").write_text("#!/bin/sh\n")
    kc.load_dir(stored, tmp_path / "out")


def test_what_replaces_a_folder_says_also_what_is_no_script_any_more(
    stored: str, tmp_path: Path
) -> None:
    """Of a folder that was loaded before, the URI is that of what is loaded now."""
    out = tmp_path / "out"
    kc.load_dir(stored, out)
    (tmp_path / "top" / "run.sh").chmod(0o644)
    later = kc.store_dir(tmp_path / "top", "top")
    assert later != stored
    kc.load_dir(later, out)
    assert os.access(out / "run.sh", os.X_OK), "a script of the user's own stays one"
    kc.load_dir(later, out, replace=True)
    assert kc.store_dir(out, "top") == later


def test_what_cannot_be_looked_at_is_said(folder: Path, tmp_path: Path) -> None:
    """A path that is longer than the system takes; the sentence had no verb."""
    top = tmp_path / "long"
    top.mkdir()
    at = os.open(top, os.O_RDONLY)
    for _ in range(45):
        os.mkdir("d" * 100, dir_fd=at)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    with pytest.raises(BadPath, match=r"it cannot be .*: file name too long"):
        kc.store_dir(top)
    subprocess.run(["rm", "-r", str(top)], check=True)
