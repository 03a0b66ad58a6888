"""Byte ranges of a file that is not here: what they cost, and what stays ready for the next ones."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import AsyncIterator

import pytest

from kachery_p2p.node.files import downloader as downloader_module
from kachery_p2p.node.files import provider, reading, unkept
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import BadInput, CorruptContent, NotFound, StorageFull
from kachery_p2p.protocol.files.messages import FILE_OPEN, FILE_READ, FileOpen, FileRead
from kachery_p2p.protocol.limits import BLOCK, MAX_RANGES
from kachery_p2p.storage.files.partial_files import PartialFiles
from tests.node.harness import Lab, Live, laboratory, until

BIG = 30_000_000
DATA = random.Random(5).randbytes(BIG)


class Asked:
    """What a provider is asked for."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.opened: list[FileOpen] = []
        self.read: list[FileRead] = []
        network = lab[name].network
        honest_open = network.handlers.requests[FILE_OPEN][1]
        honest_read = network.handlers.streams[FILE_READ][1]

        async def on_open(link: Link, params: FileOpen) -> object:
            self.opened.append(params)
            return await honest_open(link, params)

        async def on_read(link: Link, stream: Stream, params: FileRead) -> None:
            self.read.append(params)
            await honest_read(link, stream, params)

        network.on_request_of(FILE_OPEN, FileOpen, on_open)
        network.on_stream_of(FILE_READ, FileRead, on_read)


@contextlib.asynccontextmanager
async def shared() -> AsyncIterator[tuple[Lab, str, str]]:
    """A laboratory in which A has a large file."""
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", DATA)
        assert manifest is not None
        yield lab, sha1, manifest


async def read(
    lab: Lab, sha1: str, manifest: str, *ranges: tuple[int, int | None], **params: object
) -> bytes:
    live = Live()
    result = await lab.live(
        "B", live, "load_bytes", sha1=sha1, manifest=manifest, ranges=ranges, **params
    )
    assert result["size"] == BIG
    assert live.told == [{"size": len(live.sent)}]
    return bytes(live.sent)


async def test_many_ranges_are_one_request() -> None:
    async with shared() as (lab, sha1, manifest):
        asked = Asked(lab, "A")
        places = [at * 3 * BLOCK + 17 for at in range(100)]
        ranges = [(at, at + 4096) for at in reversed(places)]
        assert await read(lab, sha1, manifest, *ranges) == b"".join(DATA[a:b] for a, b in ranges)
        (request,) = asked.read
        assert request.ranges == [(at - 17, at - 17 + BLOCK) for at in places]


async def test_ranges_come_in_any_order_overlapping_and_beyond_the_end() -> None:
    async with shared() as (lab, sha1, manifest):
        ranges = [
            (BIG - 5, None),
            (0, 10),
            (5, 15),
            (BIG + 1, BIG + 9),
            (7, 7),
            (BLOCK - 1, BLOCK + 1),
        ]
        expected = b"".join(DATA[start:stop] for start, stop in ranges)
        assert await read(lab, sha1, manifest, *ranges) == expected
        assert await read(lab, sha1, manifest, *ranges) == expected
        await lab.load("B", sha1, manifest)
        live = Live()
        await lab.live("B", live, "load_bytes", sha1=sha1, ranges=ranges)
        assert bytes(live.sent) == expected, "the same of a file that is here"


@pytest.mark.parametrize("ranges", [[], [(0, 1)] * (MAX_RANGES + 1), [(-1, 5)], [(5, 4)]])
async def test_ranges_that_make_no_sense_are_refused(ranges: list[tuple[int, int]]) -> None:
    async with laboratory() as lab:
        with pytest.raises(BadInput):
            await lab.live("B", Live(), "load_bytes", sha1="0" * 40, ranges=ranges)


async def test_the_next_range_is_asked_for_at_once() -> None:
    async with shared() as (lab, sha1, manifest):
        await read(lab, sha1, manifest, (0, 10))
        asked = Asked(lab, "A")
        await read(lab, sha1, manifest, (BLOCK, BLOCK + 10))
        await read(lab, sha1, manifest, (5 * BLOCK, 5 * BLOCK + 10))
        assert not asked.opened, "neither the file nor its manifest"
        assert [each.ranges for each in asked.read] == [
            [(BLOCK, 2 * BLOCK)],
            [(5 * BLOCK, 6 * BLOCK)],
        ]
        assert (await lab.call("B", "status"))["downloads"] == [], "nobody waits for anything"


async def test_what_is_here_of_a_file_is_read_without_asking_anybody() -> None:
    async with shared() as (lab, sha1, manifest):
        await read(lab, sha1, manifest, (10 * BLOCK, 12 * BLOCK))
        await lab.stop("A")
        await lab.stop("P")
        for _ in range(2):
            start, stop = 10 * BLOCK + 3, 12 * BLOCK - 3
            assert await read(lab, sha1, manifest, (start, stop)) == DATA[start:stop]
            await lab.restart("B")


async def test_what_is_here_is_read_while_somebody_else_waits_for_all_of_it() -> None:
    async with shared() as (lab, sha1, manifest):
        await read(lab, sha1, manifest, (10 * BLOCK, 12 * BLOCK))
        await lab.restart("B")
        await lab.linked("B", "lab")
        asked, go_on = asyncio.Event(), asyncio.Event()
        honest = lab["A"].network.handlers.requests[FILE_OPEN][1]

        async def on_open(link: Link, params: FileOpen) -> object:
            asked.set()
            await go_on.wait()
            return await honest(link, params)

        lab["A"].network.on_request_of(FILE_OPEN, FileOpen, on_open)
        whole = asyncio.create_task(lab.load("B", sha1, manifest))
        await asked.wait()
        there = DATA[10 * BLOCK : 12 * BLOCK]
        assert await read(lab, sha1, manifest, (10 * BLOCK, 12 * BLOCK)) == there
        assert not whole.done()
        go_on.set()
        assert (await whole)["verified"] == BIG


async def test_a_reader_of_a_few_bytes_waits_for_no_long_segment() -> None:
    async with shared() as (lab, sha1, manifest):
        honest = lab["A"].network.handlers.streams[FILE_READ][1]
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def on_read(link: Link, stream: Stream, params: FileRead) -> None:
            if (
                sum(stop - start for start, stop in params.ranges) > 2 * BLOCK
            ):  # none of the reader's
                asked.set()
                await go_on.wait()
            await honest(link, stream, params)

        lab["A"].network.on_stream_of(FILE_READ, FileRead, on_read)
        whole = asyncio.create_task(lab.load("B", sha1, manifest))
        await asked.wait()
        assert await read(lab, sha1, manifest, (BIG - 100, BIG)) == DATA[-100:]
        assert not whole.done()
        go_on.set()
        assert (await whole)["verified"] == BIG


async def test_what_was_read_last_stays_ready_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shared() as (lab, sha1, manifest):
        monkeypatch.setattr(downloader_module, "OPEN_SECONDS", 0.1)
        await read(lab, sha1, manifest, (0, 10))
        await until(lambda: not lab["B"].downloader.downloads)
        assert not lab["B"].downloader._ready


async def test_so_many_files_stay_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared() as (lab, sha1, manifest):
        monkeypatch.setattr(downloader_module, "MAX_OPEN_FILES", 1)
        other, its_manifest = await lab.store("A", DATA[:-1])
        assert its_manifest is not None
        await read(lab, sha1, manifest, (0, 10))
        await lab.live(
            "B", Live(), "load_bytes", sha1=other, manifest=its_manifest, ranges=[(0, 5)]
        )
        await until(lambda: list(lab["B"].downloader.downloads) == [other])


async def test_a_file_that_stays_ready_keeps_nobody_waiting_on_another_channel() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        sha1, manifest = await lab.store("A", DATA, tell="one")
        await lab.store("C", DATA, tell="two")
        assert manifest is not None
        assert await read(lab, sha1, manifest, (0, 10), channel="one") == DATA[:10]
        assert await read(lab, sha1, manifest, (0, 10), channel="two") == DATA[:10]


async def test_who_works_for_one_channel_gets_no_parts_that_came_by_another() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        sha1, manifest = await lab.store("A", DATA, tell="one")
        assert manifest is not None
        await read(lab, sha1, manifest, (0, 10), channel="one")
        with pytest.raises(NotFound):
            await lab.live("B", Live(), "load_bytes", sha1=sha1, manifest=manifest,
                           ranges=[(0, 10)], channel="two", only=True)  # fmt: skip


# --- a full disk -----------------------------------------------------------------------------


def full(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["write", "_create"])
async def test_a_full_disk_keeps_nobody_from_reading_parts(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with shared() as (lab, sha1, manifest):
        first, again = (3, BLOCK + 5), (10 * BLOCK, 12 * BLOCK)
        with monkeypatch.context() as patch:
            patch.setattr(PartialFiles, what, full)
            assert await read(lab, sha1, manifest, first) == DATA[slice(*first)]
            asked = Asked(lab, "A")
            assert await read(lab, sha1, manifest, first, again) == (
                DATA[slice(*first)] + DATA[slice(*again)]
            )
            assert [each.ranges for each in asked.read] == [[(10 * BLOCK, 12 * BLOCK)]]
            assert isinstance(await lab.error("B", sha1, manifest), StorageFull)
        assert (await lab.load("B", sha1, manifest))["verified"] == BIG, "once there is room"
        assert lab.bytes_of("B", sha1) == DATA


async def test_what_a_full_disk_has_no_room_for_takes_so_much_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shared() as (lab, sha1, manifest):
        monkeypatch.setattr(PartialFiles, "write", full)
        monkeypatch.setattr(unkept, "UNKEPT_BYTES", 48 * BLOCK)
        monkeypatch.setattr(reading, "READ_BATCH_BYTES", 16 * BLOCK)
        monkeypatch.setattr(reading, "READ_AHEAD_BYTES", 32 * BLOCK)
        assert await read(lab, sha1, manifest, (0, None)) == DATA
        assert len(lab["B"].downloader.memory) == 48
        lab["B"].downloader._let_go(lab["B"].downloader.downloads[sha1])
        await until(lambda: not len(lab["B"].downloader.memory), "it is nobody's any more")


async def test_a_provider_that_lies_is_found_out_on_a_full_disk_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with shared() as (lab, sha1, manifest):
        monkeypatch.setattr(PartialFiles, "write", full)
        honest = provider.TreeReader.read_proved

        def lie(self: provider.TreeReader, start: int, stop: int) -> tuple[bytes, list[bytes]]:
            data, proof = honest(self, start, stop)
            return bytes(len(data)), proof

        monkeypatch.setattr(provider.TreeReader, "read_proved", lie)
        with pytest.raises(CorruptContent):
            await read(lab, sha1, manifest, (0, 10))


async def test_who_gave_is_told_also_of_what_was_read_too_quickly_to_be_told_before() -> None:
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", DATA)
        live = Live()
        asked = {"sha1": sha1, "manifest": manifest, "ranges": [(0, None)]}
        [source] = (await lab.live("B", live, "load_bytes", **asked))["sources"]
        assert (source["label"], source["via"]) == ("A", "P")
        assert source["bytes"] >= BIG
