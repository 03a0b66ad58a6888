"""What is for one channel is had on no other, whatever fails, dies or lies meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import Busy, KacheryError, NotFound, StorageFull
from kachery_p2p.protocol.files.messages import FILE_OPEN, FILE_READ, FileOpen, FileRead
from kachery_p2p.protocol.gossip.announcements import MARK
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from kachery_p2p.storage.files.origins import NOBODY
from kachery_p2p.storage.group_commit import GroupCommit
from tests.node.harness import Lab, Live, laboratory, until

LARGE = MANIFEST_CHUNK + 5 * MIB


def content(size: int, seed: int = 1) -> bytes:
    return ((seed.to_bytes(8, "big") + bytes(range(256)) * 16) * (size // 4104 + 1))[:size]


class Pieces(Live):
    """A caller that sends what it stores in pieces."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._left = [data[at : at + MIB] for at in range(0, len(data), MIB)]
        self.upload = self

    async def next(self) -> bytes | None:
        return self._left.pop(0) if self._left else None


async def by_message(lab: Lab, data: bytes) -> str:
    return str((await lab.call("A", "store", data=data, channel="one"))["sha1"])


async def by_descriptor(lab: Lab, data: bytes) -> str:
    live = Live()
    path = lab.root / "source"
    path.write_bytes(data)
    live.descriptor = os.open(path, os.O_RDONLY)
    try:
        return str((await lab.live("A", live, "store", channel="one"))["sha1"])
    finally:
        os.close(live.descriptor)


async def by_pieces(lab: Lab, data: bytes) -> str:
    return str((await lab.live("A", Pieces(data), "store", channel="one"))["sha1"])


Way = Callable[[Lab, bytes], Awaitable[str]]
WAYS = [by_message, by_descriptor, by_pieces]


async def two_channels(lab: Lab) -> None:
    """A is on both, B on ``one``, C on ``two``."""
    await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
    await lab.channel("two", {"A": "all", "C": "all"}, owner="A")


def blobs_of(lab: Lab, name: str) -> set[str]:
    return {entry.sha1 for entry in lab[name].store.scan()}


async def served(lab: Lab, holder: str, sha1: str, asker: str, channel: str) -> bool:
    """Whether a node gives a file to another that asks outright, past the index."""
    link = await lab[asker].reach.to(lab.id(holder), lab.channels[channel])
    params = {"channel": lab.channels[channel], "sha1": bytes.fromhex(sha1)}
    try:
        await link.request("file.open", params)
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1_000, 2 * MIB, LARGE])
async def test_a_full_disk_while_a_file_is_stored_for_one_channel_gives_it_to_no_other(
    way: Way, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there, and its origin could not be written: it was free, and stayed so."""
    async with laboratory("A", "B", "C", channel=False) as lab:
        await two_channels(lab)

        def full(self: object, item: object) -> None:
            raise StorageFull(what="the node's state", path="state.sqlite")

        with monkeypatch.context() as patch:
            patch.setattr(GroupCommit, "submit", full)
            with pytest.raises(StorageFull):
                await way(lab, content(size))
        for sha1 in blobs_of(lab, "A"):
            assert not await served(lab, "A", sha1, "C", "two")
        await lab.restart("A")
        await lab.linked("A", "two")
        await lab.announced("A", "two")
        announced = lab["A"].state.announcements(lab.channels["two"].hex())
        assert [row for row in announced if row.op != MARK] == []
        assert blobs_of(lab, "A") == set()
        sha1 = await way(lab, content(size))
        assert not await served(lab, "A", sha1, "C", "two")
        assert await served(lab, "A", sha1, "B", "one")


@pytest.mark.parametrize("way", WAYS[1:])
async def test_the_manifest_of_a_file_that_is_for_one_channel_is_for_that_one_too(way: Way) -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await two_channels(lab)
        sha1 = await way(lab, content(LARGE))
        manifest = lab["A"].state.manifest(sha1)
        assert manifest is not None
        assert await served(lab, "A", manifest, "B", "one")
        assert not await served(lab, "A", manifest, "C", "two")


async def half_from_one(lab: Lab) -> tuple[str, str]:
    """A is on ``one`` with B, which has half a file of A's, and on ``two`` with C and D; A is gone."""
    await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
    await lab.channel("two", {"B": "all", "C": "all", "D": "all"}, owner="B")
    sha1, manifest = await lab.store("A", content(LARGE), tell="one")
    assert manifest is not None
    await lab.live("B", Live(), "load_bytes", sha1=sha1, manifest=manifest, ranges=[(0, 20 * MIB)])
    await lab.stop("A")
    return sha1, manifest


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_download_that_goes_on_on_another_channel_is_passed_on_to_neither(
    restarted: bool,
) -> None:
    """Whoever gave the last block on channel two made the whole file free there."""
    async with laboratory("A", "B", "C", "D", channel=False) as lab:
        sha1, manifest = await half_from_one(lab)
        if restarted:
            await lab.restart("B")
            await lab.linked("B", "two")
        await lab.store("D", content(LARGE), tell="two")
        await lab.load("B", sha1, manifest)
        assert lab["B"].state.origins(sha1) == {NOBODY}
        assert not await served(lab, "B", sha1, "C", "two")
        # Its own user may give it to whom they like.
        await lab.store("B", content(LARGE), tell="two")
        assert await served(lab, "B", sha1, "C", "two")


async def test_who_has_failed_on_one_channel_does_not_keep_the_others_from_giving() -> None:
    async with laboratory("A", "B", "D", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "D": "all"}, owner="B")
        sha1, manifest = await lab.store("A", content(LARGE), tell="one")
        await lab.live(
            "B", Live(), "load_bytes", sha1=sha1, manifest=manifest, ranges=[(0, 20 * MIB)]
        )
        await lab.store("D", content(LARGE), tell="two")

        async def fail(link: Link, stream: Stream, params: FileRead) -> None:
            raise Busy(limit="nothing today")

        lab["A"].network.on_stream_of(FILE_READ, FileRead, fail)
        await lab.load("B", sha1, manifest)
        assert lab["B"].state.origins(sha1) == {NOBODY}


@pytest.mark.parametrize(("size", "told"), [(2 * MIB, 2 * MIB), (2 * MIB, MIB), (LARGE, LARGE)])
async def test_who_only_says_that_it_has_a_file_is_given_none_of_it(size: int, told: int) -> None:
    """It knew the URI and the size, answered the first question, and all of the file was free on its
    channel."""
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        sha1, manifest = await lab.store("A", content(size), tell="one")
        await lab.store("C", content(size), tell="two")
        asked: list[str] = []

        async def brag(link: Link, params: FileOpen) -> dict[str, object]:
            asked.append("open")
            if params.sha1.hex() == sha1:
                return {"size": told, "inline": None, "partial": False}
            raise NotFound(what="that", detail="it is not here")

        async def give_nothing(link: Link, stream: Stream, params: FileRead) -> None:
            asked.append("read")
            raise Busy(limit="nothing today")

        lab["C"].network.on_request_of(FILE_OPEN, FileOpen, brag)
        lab["C"].network.on_stream_of(FILE_READ, FileRead, give_nothing)
        await lab.load("B", sha1, manifest)
        assert lab["B"].state.origins(sha1) == {lab.channels["one"].hex()}
        assert not await served(lab, "B", sha1, "C", "two")
        os.unlink(lab["B"].store.path(sha1))
        # With C alone to ask, which of the two is asked first is no matter of chance.
        with pytest.raises((KacheryError, TimeoutError)):
            await asyncio.wait_for(lab.load("B", sha1, manifest, channel="two"), 1.0)
        assert asked


async def test_what_came_from_a_channel_that_is_not_known_any_more_is_passed_on_to_nobody() -> None:
    async with laboratory("A", "B", "C", "D", channel=False) as lab:
        sha1, manifest = await half_from_one(lab)
        lab["B"].state.forget_download(sha1)
        await lab.store("D", content(LARGE), tell="two")
        await lab.load("B", sha1, manifest)
        assert lab["B"].state.origins(sha1) == {NOBODY}


async def test_of_holders_on_two_channels_those_of_one_are_asked() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        data = content(LARGE)
        sha1, manifest = await lab.store("A", data, tell="one")
        await lab.store("C", data, tell="two")
        await lab.load("B", sha1, manifest)
        origins = {lab.channels[name].hex() for name in ("one", "two")}
        assert len(lab["B"].state.origins(sha1) & origins) == 1


async def test_a_load_on_one_channel_shares_no_download_that_may_use_another() -> None:
    async with laboratory("A", "B", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"A": "all", "B": "all"}, owner="A")
        sha1, manifest = await lab.store("A", content(LARGE), channel="one", tell="one")
        downloader = lab["B"].downloader
        anywhere = asyncio.ensure_future(lab.load("B", sha1, manifest))
        await until(lambda: sha1 in downloader.downloads)
        with pytest.raises(NotFound):
            await lab.load("B", sha1, manifest, channel="two", only=True)
        assert (await anywhere)["fetched"] >= LARGE


async def test_what_is_here_for_one_channel_is_not_here_for_who_asks_on_another() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await two_channels(lab)
        data = content(2 * MIB)
        sha1 = await by_message(lab, data)
        assert (await lab.call("A", "here", sha1=sha1, channel="one"))["here"]
        assert not (await lab.call("A", "here", sha1=sha1, channel="two"))["here"]
        for method in ("load", "load_bytes"):
            await lab.call("A", method, sha1=sha1, channel="one", only=True)
            with pytest.raises(NotFound):
                await lab.call("A", method, sha1=sha1, channel="two", only=True)
        # Somebody on two has it, all of it: then it is theirs there, and ours to pass on.
        await lab.store("C", data, tell="two")
        live = Live()
        await lab.live("A", live, "load_bytes", sha1=sha1, channel="two", only=True)
        assert bytes(live.sent) == data
        await lab.load("A", sha1, channel="two", only=True)
        assert lab["A"].state.origins(sha1) == {lab.channels[n].hex() for n in ("one", "two")}
        assert Path(lab["A"].store.path(sha1)).read_bytes() == data
