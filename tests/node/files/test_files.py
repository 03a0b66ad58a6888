"""Files between real nodes over loopback: every size, every route, and what goes wrong."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import threading
from typing import Any

import pytest

from kachery_p2p.node.files import download, provider
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import (
    AccessDenied,
    Cancelled,
    CorruptContent,
    KacheryError,
    LinkClosed,
    NotFound,
    StorageFull,
    Unreachable,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import BLOCK, INLINE_FILE, MANIFEST_CHUNK
from kachery_p2p.storage.files.partial_files import PartialFiles
from kachery_p2p.storage.files.partials import Partial
from kachery_p2p.storage.files.treefile import TreeFile
from tests.node.harness import PATIENCE, Lab, Live, laboratory, until

BIG = 30_000_000


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


# --- every size and every kind of manifest ----------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, INLINE_FILE, INLINE_FILE + 1, 100_000, MANIFEST_CHUNK])
async def test_a_file_without_a_manifest_arrives_through_the_proxy(size: int) -> None:
    async with laboratory() as lab:
        data = content(size)
        sha1, manifest = await lab.store("A", data)
        assert manifest is None
        result = await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data
        assert result["size"] == result["verified"] == result["fetched"] == size
        [source] = result["sources"]
        assert (source["label"], source["via"], source["bytes"]) == ("A", "P", size)
        again = await lab.load("B", sha1)
        assert again["fetched"] == 0


async def test_a_big_file_arrives_through_the_proxy_with_its_tree() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] == BIG
        assert Manifest.parse(lab.bytes_of("B", manifest)).tree is not None
        assert lab["P"].relay.relayed_bytes > BIG
        assert lab.bytes_of("P", sha1) == b""


async def test_a_big_file_arrives_without_being_given_its_manifest() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


async def test_a_big_file_arrives_by_a_manifest_of_old_without_a_tree() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        fields = json.loads(lab.bytes_of("A", manifest))
        del fields["tree"]
        old, _ = await lab.store("A", json.dumps(fields).encode())
        await lab.load("B", sha1, old)
        assert lab.bytes_of("B", sha1) == data


async def test_a_big_file_arrives_when_nobody_has_the_manifest_that_its_uri_names() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1, "ab" * 20)
        assert lab.bytes_of("B", sha1) == data


async def test_a_range_of_it_arrives_as_well() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, _ = await lab.store("A", data)
        assert await range_of(lab, "B", sha1, "ab" * 20, 100, 200) == data[100:200]


# --- what older nodes left in pieces ------------------------------------------------------------


async def store_chunks(lab: Lab, name: str, data: bytes, **more: Any) -> tuple[str, str, list[str]]:
    """Store a file's manifest of old and its chunks, not the file: its hash, the manifest's and
    theirs."""
    parts = [data[at : at + MANIFEST_CHUNK] for at in range(0, len(data), MANIFEST_CHUNK)]
    chunks = [
        {"start": at * MANIFEST_CHUNK, "end": at * MANIFEST_CHUNK + len(p), "sha1": sha1_of(p)}
        for at, p in enumerate(parts)
    ]
    fields = {"size": len(data), "sha1": sha1_of(data), "chunks": chunks}
    text = json.dumps(fields).encode()
    for part in (*parts, text):
        await lab.call(name, "store", data=part, **more)
    return sha1_of(data), sha1_of(text), [sha1_of(part) for part in parts]


async def test_a_file_whose_chunks_are_here_is_made_of_them() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest, _ = await store_chunks(lab, "A", data)
        result = await lab.load("A", sha1, manifest)
        assert (result["size"], result["fetched"]) == (BIG, 0)
        assert lab.bytes_of("A", sha1) == data
        await lab.announced("A")
        await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data


async def test_a_file_whose_chunks_are_here_is_found_without_the_network() -> None:
    async with laboratory("A", channel=False) as lab:
        data = content(BIG)
        sha1, manifest, chunks = await store_chunks(lab, "A", data)
        with pytest.raises(NotFound):
            await lab.load("A", sha1, local=True)
        await lab.load("A", sha1, manifest, local=True)
        assert lab.bytes_of("A", sha1) == data
        other, manifest, chunks = await store_chunks(lab, "A", content(BIG, seed=5))
        lab["A"].store.path(chunks[1]).unlink()
        with pytest.raises(NotFound):
            await lab.load("A", other, manifest, local=True)


async def test_a_rotten_chunk_makes_no_file() -> None:
    async with laboratory("A", channel=False) as lab:
        data = content(BIG)
        sha1, manifest, chunks = await store_chunks(lab, "A", data)
        path = lab["A"].store.path(chunks[0])
        path.chmod(0o600)
        path.write_bytes(b"x" * MANIFEST_CHUNK)
        with pytest.raises(NotFound):
            await lab.load("A", sha1, manifest, local=True)
        assert lab.bytes_of("A", sha1) == b""


async def test_chunks_that_are_one_channels_make_no_file_for_all() -> None:
    async with laboratory() as lab:
        sha1, manifest, _ = await store_chunks(lab, "A", content(BIG), channel="lab")
        with pytest.raises(NotFound):
            await lab.load("A", sha1, manifest, local=True)


@pytest.mark.parametrize("name", ["A", "B"])
async def test_a_chunk_is_cut_from_the_file_that_is_here_or_elsewhere(name: str) -> None:
    async with laboratory() as lab:
        data = content(100_000)
        sha1, _ = await lab.store("A", data)
        chunk = data[10_000:30_000]
        await lab.load(name, sha1_of(chunk), chunk_of=[sha1, 10_000, 30_000])
        assert lab.bytes_of(name, sha1_of(chunk)) == chunk
        wrong = await lab.error(name, "ab" * 20, chunk_of=[sha1, 10_000, 30_000])
        assert isinstance(wrong, NotFound)


async def test_a_chunk_is_bound_to_what_its_file_is_bound_to() -> None:
    async with laboratory() as lab:
        data = content(1_000)
        sha1, _ = await lab.store("A", data, channel="lab")
        chunk = sha1_of(data[:10])
        await lab.load("A", chunk, chunk_of=[sha1, 0, 10])
        assert lab["A"].context.state.origins(chunk) == {lab.channels["lab"].hex()}


async def test_a_file_that_was_loaded_can_be_loaded_from_who_loaded_it() -> None:
    async with laboratory("A", "B", "C") as lab:
        data = content(100_000)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1)
        await lab.announced("B")
        await lab.stop("A")
        result = await lab.load("C", sha1)
        assert [source["label"] for source in result["sources"]] == ["B"]
        assert lab.bytes_of("C", sha1) == data


async def test_a_leaf_that_listens_is_read_from_directly() -> None:
    async with laboratory(listening=("A",)) as lab:
        data = content(1_000_000)
        sha1, _ = await lab.store("A", data)
        result = await lab.load("B", sha1)
        [source] = result["sources"]
        assert source["via"] is None
        assert lab["P"].relay.relayed_bytes == 0
        assert lab.bytes_of("B", sha1) == data


async def test_an_address_that_does_not_answer_only_means_the_proxy() -> None:
    async with laboratory(listening=("A",)) as lab:
        lab["A"].context.urls[:] = ["ws://127.0.0.1:9"]
        lab["A"].network.reconsider_all()
        for link in list(lab["A"].network.links):
            link.close(LinkClosed(peer="test", reason="so that it greets anew"))
        data = content(50_000)
        await until(lambda: not lab["A"].network.links)
        await lab.linked("A", "lab")
        sha1, _ = await lab.store("A", data)
        result = await lab.load("B", sha1)
        assert [source["via"] for source in result["sources"]] == ["P"]


# --- ranges -----------------------------------------------------------------------------------


async def range_of(lab: Lab, name: str, sha1: str, manifest: str | None, *ends: int) -> bytes:
    live = Live()
    await lab.live(name, live, "load_bytes", sha1=sha1, manifest=manifest,
                   ranges=[ends])  # fmt: skip
    return bytes(live.sent)


@pytest.mark.parametrize(
    ("start", "stop", "blocks"),
    [(0, 1, 1), (BLOCK - 1, BLOCK + 1, 2), (20_000_001, 20_000_002, 1), (BIG - 5, BIG + 50, 1),
     (7 * BLOCK, 9 * BLOCK, 2), (5, 5, 0), (BIG, BIG + 1, 0)],
)  # fmt: skip
async def test_a_range_costs_only_the_blocks_it_touches(start: int, stop: int, blocks: int) -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        before = lab["A"].provider.served_bytes
        assert await range_of(lab, "B", sha1, manifest, start, stop) == data[start:stop]
        served = lab["A"].provider.served_bytes - before - len(lab.bytes_of("B", manifest or ""))
        assert served <= blocks * BLOCK
        assert await range_of(lab, "B", sha1, manifest, start, stop) == data[start:stop]
        assert lab["B"].store.find(sha1) is None


async def test_ranges_are_kept_for_the_whole() -> None:
    async with laboratory() as lab:
        data = content(BIG)
        sha1, manifest = await lab.store("A", data)
        await range_of(lab, "B", sha1, manifest, 0, 10_000_000)
        result = await lab.load("B", sha1, manifest)
        assert lab.bytes_of("B", sha1) == data
        assert result["fetched"] <= BIG - 10_000_000 + BLOCK


# --- channels keep things apart ---------------------------------------------------------------


async def test_what_was_fetched_on_one_channel_is_not_served_on_another() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        two = await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        data = content(50_000)
        sha1, _ = await lab.store("A", data, tell="one")
        await lab.load("B", sha1)
        await lab.announced("B", "one")
        await lab.announced("B", "two")
        error = await lab.error("C", sha1)
        assert isinstance(error, NotFound)
        # Nor when asked outright, past the index.
        link = await lab["C"].reach.to(lab.id("B"), two)
        with pytest.raises(NotFound):
            await link.request("file.open", {"channel": two, "sha1": bytes.fromhex(sha1)})
        stream = link.open("file.read", {"channel": two, "sha1": bytes.fromhex(sha1),
                                         "ranges": [(0, 10)], "proofs": False})  # fmt: skip
        with pytest.raises(NotFound):
            await stream.receive()
        # Once its user stores it, it is theirs to give.
        await lab.store("B", data, tell="two")
        await lab.load("C", sha1)


async def test_what_was_stored_for_one_channel_is_served_there_only() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"A": "all", "C": "all"}, owner="A")
        data = content(1_000)
        sha1, _ = await lab.store("A", data, channel="one", tell="one")
        await lab.announced("A", "two")
        assert isinstance(await lab.error("C", sha1), NotFound)
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


# --- roles ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "wanted", "who", "role", "cause"),
    [
        ({"B": "provide-files"}, {}, "requester B", "request-files", "not granted"),
        ({}, {"B": "provide-files"}, "requester B", "request-files", "switched off"),
        ({"A": "request-files"}, {}, "provider every other member", "provide-files", "not granted"),
        ({}, {"A": "request-files"}, "provider A", "provide-files", "switched off"),
    ],
    ids=["requester not granted", "requester off", "provider not granted", "provider off"],
)
async def test_a_missing_role_is_denied_and_the_side_named(
    granted: dict[str, str], wanted: dict[str, str], who: str, role: str, cause: str
) -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "all"} | granted, wanted=wanted)
        sha1, _ = await lab.store("A", content(100))
        error = await lab.error("B", sha1)
        assert isinstance(error, AccessDenied)
        assert error.fields["role"] == role
        assert error.fields["who"] == who
        assert cause in error.fields["cause"]
        assert lab.bytes_of("B", sha1) == b""


async def test_a_provider_checks_the_requesters_role_itself() -> None:
    async with laboratory(channel=False) as lab:
        key = await lab.channel("lab", {"A": "all", "B": "provide-files"})
        data = content(100)
        sha1, _ = await lab.store("A", data)
        link = await lab["B"].reach.to(lab.id("A"), key)
        with pytest.raises(AccessDenied) as caught:
            await link.request("file.open", {"channel": key, "sha1": bytes.fromhex(sha1)})
        assert caught.value.fields["who"] == "requester B"


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
        assert list(lab["A"].context.warnings) == before


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
            assert isinstance(await lab.error("B", sha1), StorageFull)


async def test_a_full_disk_keeps_nobody_from_reading_what_is_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        data = content(INLINE_FILE)
        sha1, _ = await lab.store("A", data)

        def store_bytes(*arguments: Any) -> Any:
            raise StorageFull(what="content being stored", path="the disk")

        monkeypatch.setattr(lab["B"].store, "store_bytes", store_bytes)
        assert isinstance(await lab.error("B", sha1), StorageFull), "its path is wanted"
        live = Live()
        await lab.live("B", live, "load_bytes", sha1=sha1, ranges=[(3, None)])
        assert bytes(live.sent) == data[3:]
        assert lab["B"].store.find(sha1) is None
        await lab.announced("B")
        assert [h["label"] for h in (await lab.call("B", "find", sha1=sha1))["holders"]] == ["A"]
        monkeypatch.undo()
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data


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
        assert go_on.wait(PATIENCE)
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
        async with asyncio.timeout(PATIENCE):
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
