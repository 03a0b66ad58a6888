"""Copies for the user: where they go, and what of the user's is left alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import kachery_p2p as kc
from kachery_p2p.client.session import blocking
from kachery_p2p.protocol import errors
from tests import forked


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("how", ["file", "folder", "hard link", "symlink", "through a link"])
def test_a_linked_file_copied_onto_itself_is_left_alone(
    folder: Path, tmp_path: Path, how: str
) -> None:
    """Else its time of change would be another, and the link stale."""
    place = tmp_path / "place"
    place.mkdir()
    path = place / "d.txt"
    path.write_text("as it was")
    os.utime(path, (1e9, 1e9))
    uri = kc.link_file(path)
    dest = {
        "file": path,
        "folder": place,
        "hard link": place / "h.txt",
        "symlink": place / "s.txt",
        "through a link": tmp_path / "way" / "d.txt",
    }[how]
    if how == "hard link":
        os.link(path, dest)
    elif how == "symlink":
        dest.symlink_to("d.txt")
    elif how == "through a link":
        (tmp_path / "way").symlink_to(place)
    before = path.stat()
    assert kc.load_file(uri, dest) == str(path if how == "folder" else dest)
    assert kc.load_text(uri) == "as it was"
    assert (path.stat().st_ino, path.stat().st_mtime) == (before.st_ino, before.st_mtime)
    assert kc.load_file(str(path), path) == str(path)


def test_another_file_in_a_folder_is_not_replaced_unless_one_says_so(
    folder: Path, tmp_path: Path
) -> None:
    uri = kc.store_text("theirs", "results.csv")
    mine = tmp_path / "results.csv"
    mine.write_text("my own edits")
    mine.chmod(0o600)
    for replace in (None, False):
        with pytest.raises(errors.BadPath, match=r"results\.csv.*would be lost"):
            kc.load_file(uri, tmp_path, replace=replace)
    with pytest.raises(errors.BadPath):
        kc.load_file(uri, mine, replace=False)
    assert mine.read_text() == "my own edits"
    assert kc.load_file(uri, tmp_path, replace=True) == str(mine)
    assert (mine.read_text(), mode(mine)) == ("theirs", 0o600)
    inode = mine.stat().st_ino
    assert kc.load_file(uri, tmp_path) == str(mine)
    assert mine.stat().st_ino == inode, "it has the content"


@pytest.mark.parametrize("bits", [0o600, 0o755, 0o664])
def test_what_is_replaced_keeps_its_mode(folder: Path, tmp_path: Path, bits: int) -> None:
    mine = tmp_path / "mine"
    mine.write_text("old")
    mine.chmod(bits)
    link = tmp_path / "link"
    link.symlink_to(mine)
    for number, dest in enumerate((mine, link)):
        kc.load_file(kc.store_text(f"new {number}"), dest)
        assert (mine.read_text(), mode(mine)) == (f"new {number}", bits)
    assert link.is_symlink()


def test_who_comes_first_wins_a_name_in_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = kc.store_text("theirs", "a.txt")
    really = blocking._copy

    def meanwhile(*arguments: object) -> None:
        really(*arguments)  # type: ignore[arg-type]
        (tmp_path / "a.txt").write_text("somebody else's")

    monkeypatch.setattr(blocking, "_copy", meanwhile)
    with pytest.raises(errors.BadPath):
        kc.load_file(uri, tmp_path)
    assert (tmp_path / "a.txt").read_text() == "somebody else's"
    assert not list(tmp_path.glob(".kachery-*"))


@pytest.mark.parametrize("end", ["/", "/.", "//"])
def test_what_ends_with_a_slash_is_a_folder(folder: Path, tmp_path: Path, end: str) -> None:
    uri = kc.store_text("a", "notes.txt")
    assert kc.load_file(uri, f"{tmp_path}/new{end}") == os.path.join(
        f"{tmp_path}/new{end}", "notes.txt"
    )
    assert (tmp_path / "new" / "notes.txt").read_text() == "a"
    with pytest.raises(errors.BadPath):
        kc.load_file(uri, f"{tmp_path}/no/such/")
    (tmp_path / "file").touch()
    with pytest.raises(errors.BadPath):
        kc.load_file(uri, f"{tmp_path}/file/")
    assert (tmp_path / "file").read_bytes() == b""


@pytest.mark.parametrize(
    ("label", "name"),
    [
        (".bashrc", "_bashrc"),
        ("../../.ssh", "_ssh"),
        ("a\x1b[31mb\nc", "a_[31mb_c"),
        ("é" * 300 + ".csv", "é" * 125 + ".csv"),
        ("x" * 300 + ".nii.gz", "x" * 248 + ".nii.gz"),
        ("x" * 200 + "." + "y" * 200, "x" * 200 + "." + "y" * 54),
    ],
)
def test_a_name_in_a_folder_is_one_that_does_no_harm(
    folder: Path, tmp_path: Path, label: str, name: str
) -> None:
    assert kc.load_file(kc.store_text("content", label), tmp_path) == str(tmp_path / name)
    assert (tmp_path / name).read_text() == "content"


@pytest.mark.parametrize("dest", [5, b"x\0", ["a"]])
def test_what_is_no_path_is_a_bad_path(folder: Path, dest: object) -> None:
    with pytest.raises(errors.BadPath):
        kc.load_file(kc.store_text("a"), dest)  # type: ignore[arg-type]


def test_a_relative_offline_folder_is_one_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    for name in ("KACHERY_P2P_OFFLINE_STORAGE_DIR", "KACHERY_OFFLINE_STORAGE_DIR"):
        monkeypatch.delenv("KACHERY_P2P_OFFLINE_STORAGE_DIR", raising=False)
        monkeypatch.setenv(name, f"store-{name}")
        monkeypatch.chdir(tmp_path)
        uri = kc.store_text(name)
        monkeypatch.chdir(tmp_path / "other")
        assert kc.load_text(uri) == name
        later = kc.store_text("later " + name)
        assert kc.load_text(later) == "later " + name
        code = f"import kachery_p2p as kc; print(kc.load_text({later!r}))"
        done = forked.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout == f"later {name}\n", done.stderr
        assert not list((tmp_path / "other").iterdir())


def test_a_copy_of_a_sparse_file_is_sparse(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(50_000_000)
    if path.stat().st_blocks * 512 > 25_000_000:
        pytest.skip("this file system has no holes")
    copy = Path(kc.load_file(kc.store_file(path), tmp_path / "copy") or "")
    assert copy.read_bytes() == path.read_bytes()
    assert copy.stat().st_blocks * 512 < 1_000_000


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("annual\u202egpj.exe", "annual_gpj.exe"),
        ("a\u2066b\u2069", "a_b_"),
        ("one\u2028two", "one_two"),
        ("one\ntwo\x1b[2J", "one_two_[2J"),
        ("実験 é", "実験 é"),
    ],
)
def test_a_name_is_what_it_seems_to_be(folder: Path, tmp_path: Path, label: str, name: str) -> None:
    """Others choose it."""
    into = tmp_path / "into"
    into.mkdir()
    uri = kc.store_text("text", label)
    assert kc.load_file(uri, into) == str(into / name)
    assert os.listdir(into) == [name]
