"""A folder as an origin: what lies there is served to another node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.protocol.errors import OriginError, OriginRefused
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage.backing.objects import Objects
from tests.node.harness import Live, until

from .folders import content, put
from .lab import lab_with


async def test_small_and_large_files_of_an_origin_reach_another_node(tmp_path: Path) -> None:
    small, middle = content(1_000), content(3_000_000, 2)
    large = content(MANIFEST_CHUNK + 1_000_000, 3)
    names = [put(tmp_path, data) for data in (small, middle, large)]
    async with lab_with(str(tmp_path)) as lab:
        for (sha1, manifest), data in zip(names, (small, middle, large), strict=True):
            await lab.load("B", sha1, manifest)
            assert lab.bytes_of("B", sha1) == data


async def test_a_part_of_a_large_file_takes_that_part_alone(tmp_path: Path) -> None:
    data = content(MANIFEST_CHUNK + 9_000_000)
    sha1, manifest = put(tmp_path, data)
    async with lab_with(str(tmp_path)) as lab:
        live = Live()
        ranges = [(5_000_000, 5_300_000), (20_000_000, 20_000_100)]
        await lab.live("B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=ranges)
        assert bytes(live.sent) == data[5_000_000:5_300_000] + data[20_000_000:20_000_100]
        thing = lab["A"].inventory.look(sha1)
        assert thing is not None
        assert thing.kind == "partial"
        assert thing.source == "fetched"
        assert thing.held <= 300_000 + 4 * BLOCK + 100_000


async def test_the_node_itself_loads_from_its_origin(tmp_path: Path) -> None:
    data = content(MANIFEST_CHUNK + 5)
    sha1, manifest = put(tmp_path, data)
    async with lab_with(str(tmp_path)) as lab:
        loaded = await lab.load("A", sha1, manifest)
        assert loaded["sources"][0]["label"] == str(tmp_path)
        assert lab.bytes_of("A", sha1) == data


async def test_a_file_without_a_tree_is_fetched_whole_and_served(tmp_path: Path) -> None:
    data = content(MANIFEST_CHUNK + 5)
    sha1, manifest = put(tmp_path, data, tree=False)
    async with lab_with(str(tmp_path)) as lab:
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert lab.bytes_of("A", sha1) == data


async def test_what_goes_from_the_storage_is_offered_still(tmp_path: Path) -> None:
    sha1, _ = put(tmp_path, content(100_000))
    async with lab_with(str(tmp_path)) as lab:
        await lab.load("A", sha1)
        await lab.call("A", "delete_file", sha1=sha1)
        assert lab.bytes_of("A", sha1) == b""
        await until(lambda: not lab["A"].announcer._pending)
        await lab.announced("A")
        await lab.load("B", sha1)


async def test_a_file_that_may_not_be_read_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root may read everything, the rights are played."""
    locked, _ = put(tmp_path, content(200_000, 1))
    free, _ = put(tmp_path, content(200_000, 2))
    async with lab_with(str(tmp_path)) as lab:
        read = Objects._read

        def without_rights(self: Objects, sha1: str, *rest: Any) -> bytes:
            if sha1 == locked:
                raise OriginRefused(origin="it", reason="Permission denied")
            return read(self, sha1, *rest)

        monkeypatch.setattr(Objects, "_read", without_rights)
        error = await lab.error("A", locked)
        assert isinstance(error, OriginError)
        assert not isinstance(error, OriginRefused)
        await lab.load("A", free)
        assert (await lab.call("A", "origins"))["origins"][0]["state"] == "ok"
