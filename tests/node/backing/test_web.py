"""A web server as an origin: ranges, an index file, and all that can be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kachery_p2p.node.backing import origin as origin_module
from kachery_p2p.protocol.errors import (
    CorruptContent,
    KacheryError,
    OriginError,
    OriginObjectGone,
    OriginRefused,
    OriginSlow,
    OriginTruncated,
    OriginUnreachable,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from kachery_p2p.storage import paths
from tests.node.harness import Live, until

from .folders import content, put
from .lab import lab_with
from .servers import Web, web

LARGE = MANIFEST_CHUNK + 30 * MIB


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Web]:
    with web(tmp_path) as server:
        yield server


async def test_parts_of_a_large_file_move_little_more_than_was_asked(
    tmp_path: Path, server: Web
) -> None:
    data = content(LARGE)
    sha1, manifest = put(tmp_path, data)
    server.write_index()
    async with lab_with(server.url) as lab:
        server.sent.clear()
        asked, got = [], b""
        for start in (1_000_000, 17 * MIB + 5, 40 * MIB):
            asked.append((start, start + 2 * MIB))
            live = Live()
            await lab.live("B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=asked[-1:])
            got += bytes(live.sent)
        assert got == b"".join(data[start:stop] for start, stop in asked)
        wanted = sum(stop - start for start, stop in asked)
        assert sum(server.sent.values()) < 1.1 * wanted
        thing = lab["A"].inventory.look(sha1)
        assert thing is not None
        assert thing.size == LARGE
        assert thing.held < 1.1 * wanted


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("refuse", OriginRefused),
        ("cut", OriginTruncated),
        ("whole", OriginError),
        ("silent", OriginSlow),
        ("down", OriginUnreachable),
        ("gone", OriginObjectGone),
        ("corrupt", CorruptContent),
    ],
)
async def test_each_fault_has_its_own_error_here_and_at_the_other_node(
    tmp_path: Path,
    server: Web,
    fault: str,
    kind: type[KacheryError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = content(3 * MIB)
    sha1, _ = put(tmp_path, data)
    server.write_index()
    async with lab_with(server.url) as lab:
        monkeypatch.setattr(
            origin_module.Origin.call, "__kwdefaults__", {"seconds": 0.5, "anyway": False}
        )
        if fault == "gone":
            paths.path_of(tmp_path, sha1).unlink()
        elif fault == "corrupt":
            paths.path_of(tmp_path, sha1).write_bytes(content(3 * MIB, 7))
        elif fault == "down":
            server.close()
        else:
            server.fault = fault
        error = await lab.error("B", sha1)
        assert type(error) is kind
        assert server.url not in str(error), "others do not learn where it is"
        server.released.set()
        if kind in (OriginTruncated, OriginObjectGone, CorruptContent):
            # B may have its answer before A has written down that this one offers it no more.
            await until(lambda: not lab["A"].origin_index.has(sha1))
            assert (await lab.error("A", sha1)).code == "not-found"
        else:
            mine = await lab.error("A", sha1)
            assert type(mine) is kind
            assert server.url in str(mine)
            told = (await lab.call("A", "origins"))["origins"][0]
            assert fault == "whole" or told["state"] == kind.code


async def test_other_sources_go_on_when_the_origin_fails(tmp_path: Path, server: Web) -> None:
    data = content(3 * MIB)
    sha1, _ = put(tmp_path, data)
    server.write_index()
    async with lab_with(server.url) as lab:
        await lab.store("B", data)
        server.fault = "refuse"
        await lab.load("A", sha1)
        assert lab.bytes_of("A", sha1) == data


async def test_a_tree_that_is_wrong_costs_one_try(tmp_path: Path, server: Web) -> None:
    data = content(MANIFEST_CHUNK + MIB)
    sha1, manifest = put(tmp_path, data)
    tree = paths.path_of(tmp_path, sha1, paths.TREE)
    tree.write_bytes(content(tree.stat().st_size, 5))
    server.write_index()
    async with lab_with(server.url) as lab:
        assert isinstance(await lab.error("A", sha1, manifest), CorruptContent)
        await until(lambda: all(not o.tree for o in lab["A"].origin_index.find(sha1)))
        await lab.load("A", sha1, manifest)
        assert lab.bytes_of("A", sha1) == data


async def test_a_listing_that_fails_forgets_nothing(tmp_path: Path, server: Web) -> None:
    sha1, _ = put(tmp_path, b"small")
    server.write_index()
    async with lab_with(server.url) as lab:
        (tmp_path / "index.txt").unlink()
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert told["state"] == "origin-unreachable"
        await lab.load("B", sha1)


async def test_what_appears_and_goes_is_known_after_the_next_listing(
    tmp_path: Path, server: Web
) -> None:
    first, _ = put(tmp_path, b"first")
    server.write_index()
    async with lab_with(server.url) as lab:
        second, _ = put(tmp_path, b"second")
        paths.path_of(tmp_path, first).unlink()
        server.write_index()
        told = (await lab.call("A", "origins", refresh=True))["origins"][0]
        assert (told["objects"], told["state"]) == (1, "ok")
        await lab.announced("A")
        await lab.load("B", second)
        assert (await lab.error("B", first)).code == "not-found"
