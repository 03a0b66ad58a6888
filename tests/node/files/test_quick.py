"""A few bytes of a file that is ready come in one request; and what happens when they do not."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kachery_p2p.node.files import downloader, quick, readers
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import LinkClosed
from kachery_p2p.protocol.files.messages import FILE_READ, FileRead
from kachery_p2p.protocol.limits import BLOCK
from tests.node.harness import Lab, Live, laboratory, until

DATA = random.Random(6).randbytes(30_000_000)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy this computer is, nobody takes a source for silent."""
    monkeypatch.setattr(quick, "QUICK_SECONDS", 3_600.0)


class Read:
    """What B reads, and whom it asks."""

    def __init__(self, lab: Lab, sha1: str, manifest: str) -> None:
        self.lab, self.sha1, self.manifest = lab, sha1, manifest
        self.asked: list[tuple[str, FileRead]] = []
        self.honest: dict[str, Any] = {}
        for name in ("A", "C"):
            self.honest[name] = lab[name].network.handlers.streams[FILE_READ][1]
            self.answer(name, self.honest[name])

    def answer(self, name: str, how: Any) -> None:
        """From now on a provider serves so."""

        async def on_read(link: Link, stream: Stream, params: FileRead) -> None:
            self.asked.append((name, params))
            await how(link, stream, params)

        self.lab[name].network.on_stream_of(FILE_READ, FileRead, on_read)

    async def at(self, *blocks: int) -> bytes:
        """Some bytes of each of these blocks."""
        live = Live()
        ranges = [(block * BLOCK + 7, block * BLOCK + 107) for block in blocks]
        await self.lab.live(
            "B", live, "load_bytes", sha1=self.sha1, manifest=self.manifest, ranges=ranges
        )
        assert bytes(live.sent) == b"".join(DATA[start:stop] for start, stop in ranges)
        return bytes(live.sent)

    def since(self) -> list[tuple[str, list[tuple[int, int]]]]:
        """Who was asked for what, but for the first block."""
        found = [(name, list(params.ranges)) for name, params in self.asked]
        return [each for each in found if each[1][0] != (0, BLOCK)]

    async def has_asked_for(self, block: int) -> None:
        """Wait until somebody was asked for it."""
        await until(
            lambda: any((block * BLOCK, (block + 1) * BLOCK) in p.ranges for _, p in self.asked)
        )

    async def giver(self) -> str:
        """Who gives, once something has been read: others may be asked for the first block, too."""
        await self.at(0)
        await self.at(1)
        download = self.lab["B"].downloader.downloads[self.sha1]
        await until(lambda: download._rests, "nothing else is to be done for it")
        return next(name for name, params in self.asked if params.ranges == [(BLOCK, 2 * BLOCK)])


@contextlib.asynccontextmanager
async def reading() -> AsyncIterator[Read]:
    """A and C have a file, and B reads of it."""
    async with laboratory("A", "B", "C") as lab:
        sha1, manifest = await lab.store("A", DATA)
        assert manifest is not None
        assert await lab.store("C", DATA) == (sha1, manifest)
        yield Read(lab, sha1, manifest)


async def test_one_who_gave_is_asked_for_the_next_and_nobody_else() -> None:
    async with reading() as read:
        giver = await read.giver()
        read.asked.clear()
        await read.at(3)
        await read.at(9, 5, 9)
        assert read.since() == [
            (giver, [(3 * BLOCK, 4 * BLOCK)]),
            (giver, [(5 * BLOCK, 6 * BLOCK), (9 * BLOCK, 10 * BLOCK)]),
        ]
        await read.at(9, 3, 0)
        assert len(read.since()) == 2, "what is here is not asked for"
        await read.at(3, 4)
        assert read.asked[-1][1].ranges == [(4 * BLOCK, 5 * BLOCK)], "nor beside what is not"


async def test_readers_of_the_same_bytes_have_them_asked_for_once() -> None:
    async with reading() as read:
        giver = await read.giver()
        go_on = asyncio.Event()

        async def later(link: Link, stream: Stream, params: FileRead) -> None:
            await go_on.wait()
            await read.honest[giver](link, stream, params)

        read.answer(giver, later)
        read.asked.clear()
        readers_ = [asyncio.create_task(read.at(*blocks)) for blocks in ((3,), (3,), (3, 4))]
        await read.has_asked_for(3)
        go_on.set()
        await asyncio.gather(*readers_)
        blocks = [item for _, params in read.asked for item in params.ranges if item[0]]
        assert sorted(blocks) == [(3 * BLOCK, 4 * BLOCK), (4 * BLOCK, 5 * BLOCK)]


async def test_a_source_that_begins_to_lie_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with reading() as read:
        giver = await read.giver()
        liar = read.lab[giver].store
        honest = readers.TreeReader.read_proved

        def lie(self: Any, start: int, stop: int) -> tuple[bytes, list[bytes]]:
            data, proof = honest(self, start, stop)
            return (
                (bytes([data[0] ^ 1]) + data[1:], proof) if self._store is liar else (data, proof)
            )

        monkeypatch.setattr(readers.TreeReader, "read_proved", lie)
        await read.at(7)
        await read.at(8, 11)
        other = {"A": "C", "C": "A"}[giver]
        assert [name for name, _ in read.asked[-2:]] == [other, other], "and it stays left"


@pytest.mark.parametrize("how", ["silent", "broken", "refuses"])
async def test_what_does_not_come_so_comes_in_the_other_way(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(quick, "QUICK_SECONDS", 0.05)
    monkeypatch.setattr(quick, "SILENCE_TRIPS", 0)
    async with reading() as read:
        giver = await read.giver()
        once = asyncio.Event()

        async def fails(link: Link, stream: Stream, params: FileRead) -> None:
            if once.is_set():
                await read.honest[giver](link, stream, params)
                return
            once.set()
            if how == "silent":
                await asyncio.sleep(3_600)
            if how == "broken":
                link.close(LinkClosed(peer="B", reason="for this test"))
            raise LinkClosed(peer="B", reason="for this test")

        read.answer(giver, fails)
        await read.at(7)
        await read.at(8)
        assert once.is_set()


@pytest.mark.parametrize("limit", ["QUICK_BYTES", "QUICK_ROOM"])
async def test_without_room_nothing_is_lost(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setattr(downloader if limit == "QUICK_BYTES" else quick, limit, 0)
    async with reading() as read:
        await read.giver()
        await read.at(3, 5)


async def test_room_is_given_back_whatever_happens() -> None:
    async with reading() as read:
        giver = await read.giver()
        room = read.lab["B"].downloader._room
        before = room._left
        await read.at(3)
        assert room._left == before

        async def never(link: Link, stream: Stream, params: FileRead) -> None:
            await asyncio.sleep(3_600)

        read.answer(giver, never)
        read.asked.clear()
        reader = asyncio.create_task(read.at(4))
        await read.has_asked_for(4)
        assert room._left == before - 100
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        assert room._left == before


@pytest.mark.parametrize("damaged", ["content", "tree", "no tree"])
async def test_what_is_wrong_at_the_provider_is_mended_or_said_as_ever(damaged: str) -> None:
    async with reading() as read:
        giver = await read.giver()
        store = read.lab[giver].store
        path = store.path(read.sha1, "" if damaged == "content" else ".tree")
        if damaged == "no tree":
            path.unlink()
        else:
            path.chmod(0o600)
            data = bytearray(path.read_bytes())
            data[100 if damaged == "tree" else 7 * BLOCK + 50] ^= 1
            path.write_bytes(data)
        await read.at(7, 3)
