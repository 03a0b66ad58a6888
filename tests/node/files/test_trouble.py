"""Nobody has it, disks lie or are full, providers lie: what the requester is told and gets."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from typing import Any

import pytest

from kachery_p2p.node.files import provider
from kachery_p2p.protocol.errors import (
    CorruptContent,
    NotFound,
    StorageDamaged,
    StorageFull,
    Unreachable,
)
from kachery_p2p.protocol.files.messages import FILE_OPEN, FileOpen
from kachery_p2p.protocol.limits import (
    BLOCK,
    INLINE_FILE,
    LEAST_RATE,
    MANIFEST_CHUNK,
    MAX_FILE,
)
from kachery_p2p.storage.files.partial_files import PartialFiles
from tests.node.files.contents import BIG, content
from tests.node.harness import Lab, Live, laboratory, until

# --- what goes wrong --------------------------------------------------------------------------


async def test_nobody_has_it() -> None:
    async with laboratory() as lab:
        error = await lab.error("B", "0" * 40)
        assert isinstance(error, NotFound)
        assert "asked P on 'lab'" in error.fields["detail"]


async def test_a_provider_that_is_offline_is_said_to_be() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", content(100))
        await lab.stop("A")
        await until(lambda: len(lab["P"].network.links) == 1)
        error = await lab.error("B", sha1)
        assert isinstance(error, NotFound)
        assert "offline: A has it" in error.fields["detail"]


@pytest.mark.parametrize("listening", [(), ("A",)])
async def test_a_provider_that_goes_in_the_middle_is_named_and_waited_for(
    listening: tuple[str, ...],
) -> None:
    async with laboratory(listening=listening) as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await lab.call("A", "set_rates", upload=LEAST_RATE)
        live = Live()
        loading = asyncio.create_task(lab.live("B", live, "load", sha1=sha1, manifest=manifest))
        await until(lambda: sha1 in lab["B"].downloader.downloads)
        progress = lab["B"].downloader.downloads[sha1].progress
        await until(lambda: progress.fetched)
        assert progress.waiting == ""
        await lab.stop("A")
        await until(lambda: progress.waiting)
        assert re.fullmatch(
            r"A \(\w+\) \(it (went away: .*|cannot be reached)\); waiting for whoever has the file",
            progress.waiting,
        )
        await until(lambda: live.told and live.told[-1]["waiting"])
        assert not loading.done()
        loading.cancel()


async def test_a_proxy_that_is_down_is_unreachable_not_not_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kachery_p2p.node.gossip.questions.LINK_GRACE_SECONDS", 0.3)
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", content(100))
        await lab.stop("P")
        await until(lambda: not lab["B"].network.links)
        error = await lab.error("B", sha1)
        assert isinstance(error, Unreachable)
        assert "lab" in str(error)
        assert lab["B"].context.warnings


@pytest.mark.parametrize("size", [1_000, 1_000_000, BIG], ids=["inline", "plain", "tree"])
async def test_a_flipped_bit_on_the_providers_disk_is_seen_by_nobody(size: int) -> None:
    async with laboratory() as lab:
        data = content(size)
        sha1, manifest = await lab.store("A", data)
        blob = lab["A"].store.find(sha1)
        assert blob is not None
        blob.path.chmod(0o644)
        with blob.path.open("r+b") as file:
            file.seek(size // 2)
            file.write(bytes([data[size // 2] ^ 1]))
        error = await lab.error("B", sha1, manifest)
        assert isinstance(error, CorruptContent | NotFound)
        assert lab.bytes_of("B", sha1) == b""
        assert lab["A"].store.find(sha1) is None, "put aside"
        assert any(sha1 in text for _, text in lab["A"].context.warnings)
        await lab.announced("A")
        assert isinstance(await lab.error("B", sha1, manifest), NotFound)
        assert not (await lab.call("B", "find", sha1=sha1))["holders"]


@pytest.mark.parametrize("size", [1_000, 1_000_000, BIG], ids=["inline", "plain", "tree"])
@pytest.mark.parametrize("left", [0.0, 0.9, 1.1], ids=["emptied", "cut short", "longer"])
async def test_a_provider_whose_file_has_another_size_offers_it_no_longer(
    size: int, left: float
) -> None:
    """A requester that knows the size goes elsewhere; the provider must find out all the same."""
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", content(size))
        resize(lab, "A", sha1, int(size * left))
        assert isinstance(await lab.error("B", sha1, manifest), CorruptContent | NotFound)
        assert lab["A"].store.find(sha1) is None, "put aside"
        await lab.announced("A")
        assert not (await lab.call("B", "find", sha1=sha1))["holders"]


def resize(lab: Lab, node: str, sha1: str, size: int) -> None:
    blob = lab[node].store.find(sha1)
    assert blob is not None
    blob.path.chmod(0o644)
    os.truncate(blob.path, size)


@pytest.mark.parametrize(
    ("start", "stop"),
    [(0, 10), (27_000_000, 27_000_010), (29_000_000, None), (0, None)],
    ids=["what is left", "over the end", "to the end", "all"],
)
async def test_a_range_of_a_file_that_was_cut_short_comes_from_somebody_else(
    start: int, stop: int | None
) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await lab.store("B", data)
        await lab.announced("A")
        resize(lab, "B", sha1, 27_000_005)
        live = Live()
        await lab.live(
            "B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=[(start, stop)]
        )
        assert bytes(live.sent) == data[start:stop]
        assert lab["B"].store.path(sha1, ".corrupt-1").exists(), "put aside"
        assert any(sha1 in text for _, text in lab["B"].context.warnings)


@pytest.mark.parametrize("size", [1_000, BIG])
async def test_what_is_damaged_here_and_nowhere_else_is_said_to_be(size: int) -> None:
    async with laboratory() as lab:
        sha1, manifest = await lab.store("B", content(size))
        resize(lab, "B", sha1, size - 1)
        with pytest.raises(CorruptContent):
            await lab.live("B", Live(), "load_bytes", sha1=sha1, manifest=manifest)


async def test_what_somebody_deleted_is_offered_no_longer_once_it_was_asked_for() -> None:
    async with laboratory() as lab:
        for size in (1_000, 1_000_000):
            sha1, _ = await lab.store("A", content(size))
            blob = lab["A"].store.find(sha1)
            assert blob is not None
            blob.path.unlink()
            assert isinstance(await lab.error("B", sha1), NotFound)
            await lab.announced("A")
            found = await lab.call("B", "find", sha1=sha1)
            assert not found["holders"]


@pytest.mark.parametrize("place", [0, -64, -32], ids=["first leaf", "child of root", "root"])
@pytest.mark.parametrize("ranged", [False, True])
async def test_a_flipped_bit_in_the_providers_tree_is_repaired(place: int, ranged: bool) -> None:
    async with laboratory() as lab:
        before = list(lab["A"].context.warnings)
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        path = lab["A"].store.path(sha1, ".tree")
        right = path.read_bytes()
        at = place % len(right)
        path.write_bytes(right[:at] + bytes([right[at] ^ 1]) + right[at + 1 :])
        if ranged:
            live = Live()
            await lab.live("B", live, "load_bytes", sha1=sha1, manifest=manifest,
                           ranges=[(5, BLOCK)])  # fmt: skip
            assert bytes(live.sent) == data[5:BLOCK]
        else:
            await lab.load("B", sha1, manifest)
            assert lab.bytes_of("B", sha1) == data
        assert path.read_bytes() == right
        assert lab.bytes_of("A", sha1) == data
        assert set(lab["A"].context.warnings) <= set(before), "nothing new to be warned of"


async def test_a_provider_that_lies_gives_the_requester_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        read = provider.TreeReader.read_proved

        def lie(self: Any, start: int, stop: int) -> tuple[bytes, list[bytes]]:
            piece, proof = read(self, start, stop)
            return (piece[:-1] + bytes([piece[-1] ^ 1]), proof) if start > 10_000_000 else (
                piece, proof)  # fmt: skip

        monkeypatch.setattr(provider.TreeReader, "read_proved", lie)
        error = await lab.error("B", sha1, manifest)
        assert isinstance(error, CorruptContent)
        assert "A" in error.fields["source"]
        assert lab["B"].store.find(sha1) is None
        monkeypatch.undo()
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert 0 < result["fetched"] < BIG, "what was verified was kept"


@pytest.mark.parametrize("full_at", [0, 3_000_000, 8_388_608])
async def test_a_disk_that_fills_during_a_download_is_a_full_disk(
    monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    """The pieces behind the one that did not fit only find a gap before them."""
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", content(MANIFEST_CHUNK))
        really = PartialFiles.write

        def write(self: PartialFiles, data: Any, offset: int) -> None:
            if offset >= full_at:
                raise OSError(errno.ENOSPC, "No space left on device")
            really(self, data, offset)

        monkeypatch.setattr(PartialFiles, "write", write)
        for _ in range(5):
            assert isinstance(await lab.error("B", sha1), StorageFull | StorageDamaged)


async def test_a_full_disk_keeps_nobody_from_reading_what_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(INLINE_FILE)
        sha1, _ = await lab.store("A", data)

        def full(*arguments: Any) -> Any:
            raise StorageFull(what="content being stored", path="the disk")

        for way in ("store_bytes", "store_batch"):  # as a download, and asked of who gave the last
            monkeypatch.setattr(lab["B"].store, way, full)
        assert isinstance(await lab.error("B", sha1), StorageFull | StorageDamaged), (
            "its path is wanted"
        )
        live = Live()
        await lab.live("B", live, "load_bytes", sha1=sha1, ranges=[(3, None)])
        assert bytes(live.sent) == data[3:]
        assert lab["B"].store.find(sha1) is None
        await lab.announced("B")
        assert [h["label"] for h in (await lab.call("B", "find", sha1=sha1))["holders"]] == ["A"]
        monkeypatch.undo()
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


@pytest.mark.parametrize("all_do", [False, True])
async def test_who_says_that_a_file_is_larger_than_any_disk_keeps_nobody_from_loading_it(
    all_do: bool,
) -> None:
    """Without a manifest the size is its word alone."""
    async with laboratory("A", "B", "C", listening=("C",)) as lab:
        other, _ = await lab.store("C", content(INLINE_FILE + 1))
        await lab.load("B", other)  # so B is linked with C, and asks it first
        data = content(3 << 20)
        sha1, _ = await lab.store("A", data)
        await lab.store("C", data)
        asked: list[str] = []
        for name in "AC" if all_do else "C":

            async def brag(link: Any, params: FileOpen, name: str = name) -> Any:
                asked.append(name)
                return {"size": MAX_FILE, "inline": None, "partial": False}

            lab[name].network.on_request_of(FILE_OPEN, FileOpen, brag)
        if all_do:
            assert isinstance(await lab.error("B", sha1), StorageFull | StorageDamaged)
        else:
            await lab.load("B", sha1)
            assert lab.bytes_of("B", sha1) == data
        assert "C" in asked
