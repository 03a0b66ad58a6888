"""Many callers of one file, callers that leave, and nodes that go away meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kachery_p2p.node.files import download, provider
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import (
    Cancelled,
    KacheryError,
    LinkClosed,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.files.treefile import TreeFile
from tests.node.files.contents import BIG, content
from tests.node.harness import laboratory, patience, until

# --- callers ----------------------------------------------------------------------------------


async def test_twenty_callers_cost_one_transfer() -> None:
    async with laboratory() as lab:
        data = content(5_000_000)
        sha1, _ = await lab.store("A", data)
        results = await asyncio.gather(*(lab.load("B", sha1) for _ in range(20)))
        assert len(results) == 20
        assert lab["A"].provider.served_bytes == len(data)
        assert lab.bytes_of("B", sha1) == data


class Tap:
    """Lets a test act when a download has written so many bytes, without a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()
        write = download.Download._progressed

        def progressed(mine: download.Download) -> None:
            write(mine)
            if mine.progress.fetched >= at:
                self.reached.set()

        monkeypatch.setattr(download.Download, "_progressed", progressed)


async def test_cancelling_keeps_what_was_verified_and_the_next_load_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(3 * BIG)
        sha1, manifest = await lab.store("A", data)
        tap = Tap(monkeypatch, 5_000_000)
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await tap.reached.wait()
        load.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await load
        assert not lab["B"].downloader.downloads
        served = lab["A"].provider.served_bytes
        parsed = Manifest.parse(lab.bytes_of("B", manifest or ""))
        partial = Partial.open(lab["B"].store, sha1, len(data), parsed)
        kept = partial.verified_bytes
        partial.close()
        assert 0 < kept < len(data)
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] == len(data) - kept
        assert lab["A"].provider.served_bytes - served < len(data)


async def test_a_link_that_ends_while_the_provider_opens_a_tree_leaves_none_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, go_on = threading.Event(), threading.Event()
    opened: list[Any] = []
    closed: list[Any] = []
    ensure_tree, close = provider.ensure_tree, TreeFile.close

    def slow(*args: Any, **options: Any) -> TreeFile:
        started.set()
        assert go_on.wait(patience())
        opened.append(ensure_tree(*args))
        return opened[-1]

    def closing(tree: TreeFile) -> None:
        closed.append(tree)
        close(tree)

    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", content(BIG))
        monkeypatch.setattr(provider, "ensure_tree", slow)
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await until(started.is_set)
        monkeypatch.setattr(TreeFile, "close", closing)
        [link] = lab["A"].network.links_to(lab.id("B"), lab.channels["lab"])
        link.close(LinkClosed(peer="B", reason="the test wants it"))
        await until(lambda: not lab["B"].network.links_to(lab.id("A"), lab.channels["lab"]))
        load.cancel()
        with pytest.raises((asyncio.CancelledError, Cancelled)):
            await load
        go_on.set()
        await until(lambda: opened and closed == opened, "the tree is closed")


async def test_a_link_that_goes_between_two_segments_costs_no_part_of_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What nobody fetches must be known to be fetched by nobody."""
    open_stream = Link.open
    failed: list[str] = []

    def fail_once(link: Link, method: str, params: Any, **options: Any) -> Any:
        if method == "file.read" and not failed:
            failed.append(method)
            raise LinkClosed(peer="it", reason="just before")
        return open_stream(link, method, params, **options)

    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        monkeypatch.setattr(Link, "open", fail_once)
        async with asyncio.timeout(patience()):
            await lab.load("B", sha1, manifest)
        assert failed
        assert lab.bytes_of("B", sha1) == data


async def test_one_of_two_callers_may_leave() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        stays = asyncio.create_task(lab.load("B", sha1, manifest))
        leaves = asyncio.create_task(lab.load("B", sha1, manifest))
        await until(lambda: lab["B"].downloader.downloads)
        leaves.cancel()
        await stays
        assert lab.bytes_of("B", sha1) == data


async def test_a_provider_that_restarts_in_the_middle_is_only_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(3 * BIG)
        sha1, manifest = await lab.store("A", data)
        tap = Tap(monkeypatch, 5_000_000)
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await tap.reached.wait()
        await lab.restart("A")
        result = await load
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] <= len(data) + 1


async def test_a_proxy_that_restarts_in_the_middle_is_only_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(3 * BIG)
        sha1, manifest = await lab.store("A", data)
        tap = Tap(monkeypatch, 5_000_000)
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await tap.reached.wait()
        await lab.restart("P")
        await load
        assert lab.bytes_of("B", sha1) == data


async def test_a_small_file_does_not_wait_for_a_huge_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory("A", "B", "C") as lab:
        huge, small = content(4 * BIG), content(200_000, seed=2)
        huge_sha1, manifest = await lab.store("A", huge)
        small_sha1, _ = await lab.store("A", small)
        tap = Tap(monkeypatch, 2_000_000)
        transfer = asyncio.create_task(lab.load("B", huge_sha1, manifest))
        await tap.reached.wait()
        await lab.load("C", small_sha1)
        [download] = lab["B"].downloader.downloads.values()
        assert download.progress.verified < len(huge), "the huge one is still under way"
        assert not transfer.done()
        assert lab.bytes_of("C", small_sha1) == small
        await transfer
        assert lab.bytes_of("B", huge_sha1) == huge


async def test_stopping_a_node_ends_its_loads_with_an_error() -> None:
    async with laboratory() as lab:
        data = content(3 * BIG)
        sha1, manifest = await lab.store("A", data)
        load = asyncio.create_task(lab.load("B", sha1, manifest))
        await until(lambda: lab["B"].downloader.downloads)
        await lab.stop("B")
        with pytest.raises((KacheryError, asyncio.CancelledError)):
            await load
