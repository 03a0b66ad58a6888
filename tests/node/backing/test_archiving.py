"""Archives: what is put there is whole, comes back, and may go here when its user says so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    OriginNotWritten,
    OriginUnreachable,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.backing.objects import MANIFEST, Objects
from kachery_p2p.storage.backing.setting import OriginSetting, checked
from tests.node.harness import Lab, laboratory

from .folders import content
from .lab import lab_with


def there(root: Path) -> set[str]:
    return {path.name for path in (root / "sha1").rglob("*") if path.is_file()}


def may_go(lab: Lab, sha1: str) -> bool:
    """Whether it counts as in an archive."""
    thing = lab["A"].inventory.thing(sha1)
    return thing is not None and thing.source == "archived"


async def test_a_large_file_is_archived_with_its_tree_and_manifest(tmp_path: Path) -> None:
    data = content(MANIFEST_CHUNK + 10)
    async with lab_with(str(tmp_path), archive=True) as lab:
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        report = await lab.call("A", "archive", sha1=sha1)
        assert (report["files"], report["already"]) == (2, 0)
        assert there(tmp_path) == {sha1, sha1 + paths.TREE, sha1 + MANIFEST, manifest}
        again = await lab.call("A", "archive", sha1=sha1)
        assert (again["files"], again["already"], again["bytes"]) == (0, 2, 0)
        await lab.call("A", "origins", refresh=True)  # a listing finds what was put there
        assert set(lab["A"].origin_index.archived([sha1, manifest], [1])) == {sha1, manifest}
        await lab.call("A", "delete_file", sha1=sha1, copies=0)
        assert lab.bytes_of("A", sha1) == b""
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data


async def test_a_directory_is_archived_with_all_in_it_and_last(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        one, _ = await lab.store("A", b"one")
        two, _ = await lab.store("B", b"two")  # is fetched first
        listing = {
            "files": {"1": {"size": 3, "sha1": one}, "2": {"size": 3, "sha1": two}},
            "dirs": {},
        }
        folder, _ = await lab.store("A", json.dumps(listing).encode())
        order: list[str] = []
        real = Objects.put

        def put(files: Objects, sha1: str, *rest: object, **more: object) -> object:
            order.append(sha1)
            return real(files, sha1, *rest, **more)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Objects, "put", put)
            await lab.call("A", "archive", sha1=folder)
        assert there(tmp_path) == {one, two, folder}
        assert order[-1] == folder


async def test_what_is_pinned_is_archived(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        pinned, _ = await lab.store("A", b"pinned")
        await lab.store("A", b"not pinned")
        await lab.call("A", "pin", sha1=pinned)
        report = await lab.call("A", "archive")
        assert report["files"] == 1
        assert there(tmp_path) == {pinned}


async def test_own_things_go_only_when_they_are_archived_and_their_user_says_so(
    tmp_path: Path,
) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        kept, _ = await lab.store("A", content(50_000, 1))
        sent, _ = await lab.store("A", content(50_000, 2))
        await lab.call("A", "archive", sha1=sent)
        assert (await lab.call("A", "collect", to=1))["count"] == 0
        await lab.call(
            "A", "set_origins", origins=[{"url": str(tmp_path), "archive": True, "own": True}]
        )
        await lab.call("A", "collect", to=1)
        assert lab.bytes_of("A", sent) == b""
        assert lab.bytes_of("A", kept)
        await lab.load("A", sent)
        assert lab.bytes_of("A", sent) == content(50_000, 2)


async def test_what_is_in_no_archive_any_more_stays_here(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True, own=True) as lab:
        lost, _ = await lab.store("A", content(50_000, 1))
        await lab.call("A", "archive", sha1=lost)
        assert may_go(lab, lost)
        paths.path_of(tmp_path, lost).unlink()
        (await lab.call("A", "origins", refresh=True))
        assert not may_go(lab, lost)
        assert (await lab.call("A", "collect", to=1))["count"] == 0
        await lab.call("A", "archive", sha1=lost)
        assert may_go(lab, lost)
        await lab.call("A", "set_origins", origins=[])
        assert not may_go(lab, lost)


async def test_what_is_damaged_here_is_not_archived(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        sha1, _ = await lab.store("A", content(100_000))
        path = paths.path_of(lab["A"].store.root, sha1)
        path.chmod(0o600)
        path.write_bytes(content(100_000, 9))
        with pytest.raises(CorruptContent):
            await lab.call("A", "archive", sha1=sha1)
        assert there(tmp_path) == set()
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_copy_there_that_is_wrong_is_replaced(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        sha1, _ = await lab.store("A", content(100_000))
        path = paths.path_of(tmp_path, sha1)
        path.parent.mkdir(parents=True)
        path.write_bytes(content(100_000, 9))
        await lab.call("A", "archive", sha1=sha1)
        assert path.read_bytes() == content(100_000)


async def test_what_cannot_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True) as lab:
        sha1, _ = await lab.store("A", content(100_000))
        (tmp_path / "tmp").write_text("in the way")
        with pytest.raises(OriginNotWritten):
            await lab.call("A", "archive", sha1=sha1)
        assert not (tmp_path / "sha1").exists()


async def test_which_archive_is_said_where_there_are_several(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with lab_with(str(one), str(two), archive=True) as lab:
        sha1, _ = await lab.store("A", b"somewhere")
        with pytest.raises(BadInput, match="--to"):
            await lab.call("A", "archive", sha1=sha1)
        await lab.call("A", "archive", sha1=sha1, archive=str(two))
        assert there(two) == {sha1}
        with pytest.raises(BadInput, match="none at that URL"):
            await lab.call("A", "archive", sha1=sha1, archive="s3://other/bucket")
        await lab["A"].backing.set([OriginSetting(str(one))])
        with pytest.raises(BadInput, match="daemon set --archive"):
            await lab.call("A", "archive", sha1=sha1)


async def test_the_nodes_own_storage_is_no_archive_of_it_by_whatever_name(tmp_path: Path) -> None:
    async with laboratory("A") as lab:
        root = lab["A"].store.root
        sha1, _ = await lab.store("A", content(50_000))
        (tmp_path / "link").symlink_to(root)
        for url in (str(root), f"file://{root}/", str(tmp_path / "link"), f"{root}/../storage"):
            with pytest.raises(BadInput, match="own storage"):
                await lab.call("A", "set_origins", origins=[{"url": url, "archive": True}])
        for name, make in {"hard": os.link, "soft": os.symlink}.items():
            url = tmp_path / name
            path = paths.path_of(url, sha1)
            path.parent.mkdir(parents=True)
            make(lab["A"].store.path(sha1), path)
            origins = [{"url": str(url), "archive": True, "own": True}]
            await lab.call("A", "set_origins", origins=origins)
            with pytest.raises(OriginNotWritten, match="no copy of it"):
                await lab.call("A", "archive", sha1=sha1)
            assert (await lab.call("A", "collect", to=1))["count"] == 0
            assert lab.bytes_of("A", sha1)


async def test_nothing_is_written_where_an_archive_is_not_mounted(tmp_path: Path) -> None:
    async with lab_with(str(tmp_path), archive=True, own=True) as lab:
        there_before, _ = await lab.store("A", content(50_000, 1))
        more, _ = await lab.store("A", content(50_000, 2))
        await lab.call("A", "archive", sha1=there_before)
        await lab.call("A", "pin", sha1=more)
        await lab.call("A", "origins", refresh=True)
        (tmp_path / "sha1").rename(tmp_path / "elsewhere")
        for named in ({"sha1": more}, {}):
            with pytest.raises(OriginUnreachable, match="mounted"):
                await lab.call("A", "archive", **named)
        assert not (tmp_path / "sha1").exists()
        (tmp_path / "elsewhere").rename(tmp_path / "sha1")
        await lab.call("A", "archive", sha1=more)
        assert there(tmp_path) == {there_before, more}


def test_what_would_end_with_the_node_is_no_origin() -> None:
    with pytest.raises(BadInput, match="would end with it"):
        checked([OriginSetting("memory://lab", archive=True)])
