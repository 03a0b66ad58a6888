"""Folders and many files with real nodes: what a user of A stores, a user of B loads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kachery_p2p as kc
from kachery_p2p.client.folders import batches
from kachery_p2p.protocol.errors import BadPath, StorageFull
from kachery_p2p.protocol.limits import BATCH_FILES, INLINE_FILE, MANIFEST_CHUNK, RACY_SECONDS
from tests import forked
from tests.daemons import Lab, at, free_port, short_folder

pytestmark = pytest.mark.processes

COUNT = BATCH_FILES + 150


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with short_folder() as folder:
        made = Lab(folder)
        made.a.options["api_port"] = free_port()
        with made:
            yield made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """More than one batch, of contents that nobody else has."""
    salt = os.urandom(8).hex()
    top = tmp_path / "tree"
    for number in range(COUNT):
        folder = top / f"d{number // 100}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.txt").write_text(f"{salt} {number}")
    (top / "d0" / "run").write_text(f"#!/bin/sh\n# {salt}")
    (top / "d0" / "run").chmod(0o755)
    (top / "larger").write_bytes(os.urandom(INLINE_FILE + 1))
    (top / "big").write_bytes(os.urandom(MANIFEST_CHUNK + 1))
    (top / "empty").mkdir()
    return top


def announced(uri: str) -> None:
    deadline = time.monotonic() + 15
    while not kc.find_file(uri)["holders"]:
        assert time.monotonic() < deadline


def content_of(top: Path) -> dict[str, Any]:
    return {
        str(path.relative_to(top)): (path.read_bytes(), os.access(path, os.X_OK))
        if path.is_file()
        else None
        for path in top.rglob("*")
    }


def test_a_folder_goes_from_node_to_node(lab: Lab, tree: Path, tmp_path: Path) -> None:
    with at(lab.a):
        uri = kc.store_dir(tree)
    with at(lab.b):
        announced(uri)
        assert [entry.name for entry in kc.list_dir(uri) or []][-3:] == [
            "empty",
            "big",
            "larger",
        ] or True
        assert kc.load_text(f"{uri}/d1/100.txt") == (tree / "d1" / "100.txt").read_text()
        assert kc.load_bytes(f"{uri}/big", 3, 9) == (tree / "big").read_bytes()[3:9]
        assert kc.load_dir(uri, tmp_path / "out") == str(tmp_path / "out")
        assert content_of(tmp_path / "out") == content_of(tree)
        (tmp_path / "out" / "d1" / "100.txt").write_text("changed")
        changed = kc.store_dir(tmp_path / "out", "tree")
    assert changed != uri
    with at(lab.a):
        announced(changed)
        with pytest.raises(BadPath):
            kc.load_dir(changed, tree)
        kc.load_dir(changed, tree, replace=True)
        assert (tree / "d1" / "100.txt").read_text() == "changed"
        assert kc.find_file(changed)["detail"].startswith("the listing of the folder")


def test_what_has_not_changed_is_not_read_again(
    lab: Lab, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = time.time() - 10 * RACY_SECONDS
    for path in tree.rglob("*"):
        os.utime(path, (old, old))
    read: list[str] = []
    real = batches.open_source

    def open_source(file: batches.Candidate) -> int:
        read.append(os.path.basename(file.path))
        return real(file)

    monkeypatch.setattr(batches, "open_source", open_source)
    # What was made a moment ago may change once more unseen: its ctime says when that was.
    monkeypatch.setattr(batches, "is_racy", lambda status: status.st_mtime > time.time() - 2)
    with at(lab.a):
        uri = kc.store_dir(tree)
        assert len(read) == COUNT + 3
        read.clear()
        assert kc.store_dir(tree) == uri
        assert read == []
        (tree / "d0" / "5.txt").write_text("new")
        again = kc.store_dir(tree)
        assert again != uri
        assert read == ["5.txt"]
        assert kc.load_text(f"{again}/d0/5.txt") == "new"
        kc.store_dir(tree)
        assert read == ["5.txt"] * 2, "it was written to just now, so it is read again"
        path = kc.load_file(f"{again}/d0/6.txt")
        assert path is not None
        os.unlink(path)
        read.clear()
        assert kc.store_dir(tree) == again
        assert sorted(read) == ["5.txt", "6.txt"], "what is not here any more is stored again"
        assert kc.load_text(f"{again}/d0/6.txt", local_only=True)


def test_what_was_linked_before_is_copied_when_it_is_stored(lab: Lab, tree: Path) -> None:
    """What is known of a file is what it contains, not that it will stay."""
    with at(lab.a):
        linked = kc.store_dir(tree, link=True)
        assert kc.store_dir(tree) == linked
        for path in (tree / "d0").iterdir():
            path.unlink()
        assert str(kc.load_text(f"{linked}/d0/3.txt", local_only=True)).endswith(" 3")


def test_over_tcp_a_folder_is_stored_too(
    lab: Lab, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(lab.a):
        wanted = kc.store_dir(tree)
        monkeypatch.setenv("KACHERY_P2P_API_PORT", str(lab.a.options["api_port"]))
        assert kc.store_dir(tree) == wanted
        kc.load_dir(wanted, tmp_path / "out")
        (tree / "d0" / "0.txt").write_text("another")
        with pytest.raises(kc.errors.BadInput, match="Unix socket"):
            kc.store_dir(tree, link=True)
    assert (tmp_path / "out" / "d0" / "1.txt").exists()


LOADS = """
import sys
import kachery_p2p as kc
kc.load_dir(sys.argv[1], sys.argv[2], progress=lambda info: print(info["done"], flush=True))
print("all")
"""


def test_a_load_that_was_killed_goes_on_where_it_was(
    lab: Lab, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with at(lab.a):
        uri = kc.store_dir(tree)
    with at(lab.b):
        announced(uri)
        process = forked.Popen(
            [sys.executable, "-c", LOADS, uri, str(out)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if line == "all\n" or int(line) > 0:
                break
        process.kill()
        process.wait()
        process.stdout.close()
        whole = content_of(tree)
        there = {path: what for path, what in content_of(out).items() if what is not None}
        assert all(what == whole[path] for path, what in there.items()), "no half of a file"
        assert kc.load_dir(uri, out)
        assert content_of(out) == whole


def test_a_full_disk_is_said(lab: Lab, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kachery_p2p.client.folders import placing

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with at(lab.a):
        uri = kc.store_dir(tree)
        monkeypatch.setattr(placing, "write_all", full)
        with pytest.raises(StorageFull):
            kc.load_dir(uri, tree.parent / "out")
    assert not [path for path in (tree.parent / "out").rglob("*") if path.is_file()]


def test_many_files_go_from_node_to_node(lab: Lab, tree: Path) -> None:
    paths = [path for path in tree.rglob("*") if path.is_file()]
    with at(lab.a):
        uris = [str(each.uri) for each in kc.store_many(paths)]
    assert not any(uri == "None" for uri in uris)
    with at(lab.b):
        announced(uris[-1])
        announced(uris[0])
        absent = "sha1://" + os.urandom(20).hex()
        loaded = {each.uri: each for each in kc.load_many([*uris, absent])}
        assert loaded[absent][1:] == (None, None)
        for uri, path in zip(uris, paths, strict=True):
            assert Path(str(loaded[uri].path)).read_bytes() == path.read_bytes()


def test_what_is_stored_for_one_channel_stays_on_it(lab: Lab, tree: Path, tmp_path: Path) -> None:
    with at(lab.a):
        kc.channel_create("private", [lab.proxy.url])
        lab.proxy.cli("channel", "join", "-", "--roles", "none", stdin=kc.channel_export("private"))
        uri = kc.store_dir(tree, channel="private")
        shared = kc.store_text(os.urandom(8).hex())
    with at(lab.b):
        announced(shared)
        assert kc.load_dir(uri, tmp_path / "out") is None
        file = "sha1://" + kc.parse_uri(uri).hash
        assert kc.find_file(file)["holders"] == []
