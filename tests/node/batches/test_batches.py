"""Many files at once between real nodes: what comes together, and what goes wrong with some of them."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from kachery_p2p.node.batches import loader
from kachery_p2p.node.batches.loader import Wanted
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    CorruptContent,
    KacheryError,
    NotFound,
    StorageFull,
)
from kachery_p2p.protocol.files.messages import FileBatch
from kachery_p2p.protocol.limits import BATCH_FILES, INLINE_FILE, MANIFEST_CHUNK
from kachery_p2p.storage.files.blobs import BlobStore
from tests.node.harness import Lab, laboratory, until

Told = dict[int, tuple[int, KacheryError | None]]


def contents(count: int, size: int = 500, seed: int = 1) -> list[bytes]:
    made = random.Random(seed)
    return [made.randbytes(size) for _ in range(count)]


def sha1_of(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


async def store_many(
    lab: Lab, name: str, files: Sequence[bytes], channel: str = "lab"
) -> list[str]:
    answer = await lab.call(name, "store_batch", data=list(files))
    await lab.announced(name, channel)
    return [sha1.hex() for sha1 in answer["sha1s"]]


async def load_many(
    lab: Lab, name: str, sha1s: Sequence[str], channel: str | None = None, **more: Any
) -> Told:
    told: Told = {}

    def done(place: int, size: int, error: KacheryError | None) -> None:
        assert place not in told, "told of twice"
        told[place] = size, error

    wanted = [Wanted(place, sha1, None) for place, sha1 in enumerate(sha1s)]
    where = None if channel is None else lab.channels[channel]
    await lab[name].batch_loader.load(wanted, where, done=done, **({"only": False} | more))
    assert sorted(told) == list(range(len(sha1s)))
    return told


def asked(lab: Lab, name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a node opens and asks of others from now on."""
    seen: list[str] = []
    for method in ("open", "request"):
        real = getattr(Link, method)

        def spy(self: Link, what: str, *args: Any, real: Any = real, **more: Any) -> Any:
            if self in lab[name].network.links:
                seen.append(what)
            return real(self, what, *args, **more)

        monkeypatch.setattr(Link, method, spy)
    return seen


async def test_hundreds_come_with_one_look_up_and_one_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab:
        files = [*contents(BATCH_FILES - 2), b"", b"x" * INLINE_FILE]
        sha1s = await store_many(lab, "A", files)
        await load_many(lab, "B", (await store_many(lab, "A", [b"the circuit"])) * 2)
        seen = asked(lab, "B", monkeypatch)
        commits: list[int] = []
        real = BlobStore.store_batch
        monkeypatch.setattr(
            BlobStore,
            "store_batch",
            lambda self, data, *more: (commits.append(len(data)), real(self, data, *more))[1],
        )
        told = await load_many(lab, "B", sha1s)
        assert [told[place] for place in range(len(files))] == [(len(f), None) for f in files]
        assert all(lab.bytes_of("B", sha1_of(data)) == data for data in files)
        assert sorted(seen) == ["file.batch", "who-has"]
        assert sum(commits) == len(files)
        assert len(commits) < 5
        seen.clear()
        await load_many(lab, "B", sha1s)
        assert seen == [], "what is here is not asked for"


async def test_each_is_told_what_became_of_it() -> None:
    async with laboratory("A", "B", "C") as lab:
        small = await store_many(lab, "A", contents(5))
        elsewhere = await store_many(lab, "C", contents(3, seed=2))
        larger, _ = await lab.store("A", contents(1, INLINE_FILE + 1)[0])
        big, _ = await lab.store("A", contents(1, MANIFEST_CHUNK + 1)[0])
        damaged = (await store_many(lab, "A", contents(1, seed=3)))[0]
        path = lab["A"].store.path(damaged)
        path.chmod(0o644)
        path.write_bytes(b"x" * 500)
        absent = "ab" * 20
        wanted = [*small, *elsewhere, larger, big, damaged, absent, small[0]]
        told = await load_many(lab, "B", wanted)
        errors = {place: error for place, (_, error) in told.items() if error is not None}
        assert set(errors) == {wanted.index(damaged), wanted.index(absent)}
        assert isinstance(errors[wanted.index(damaged)], CorruptContent)
        assert isinstance(errors[wanted.index(absent)], NotFound)
        assert lab.bytes_of("B", damaged) == b""
        assert told[wanted.index(big)] == (MANIFEST_CHUNK + 1, None)
        assert lab["A"].store.path(damaged, ".corrupt-1").exists(), (
            "put aside, once it was asked for"
        )


async def test_what_came_on_one_channel_goes_out_on_no_other() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        await lab.channel("one", {"A": "all", "B": "all"}, owner="A")
        await lab.channel("two", {"B": "all", "C": "all"}, owner="B")
        sha1s = await store_many(lab, "A", contents(10), "one")
        await load_many(lab, "B", sha1s)
        await lab.announced("B", "two")
        told = await load_many(lab, "C", sha1s)
        assert all(isinstance(error, NotFound) for _, error in told.values())
        # Nor to who asks outright, past the index.
        link = await lab["C"].reach.to(lab.id("B"), lab.channels["two"])
        raw = [bytes.fromhex(sha1) for sha1 in sha1s]
        stream = link.open("file.batch", {"channel": lab.channels["two"], "sha1s": raw})
        assert await stream.receive() is None
        # What is here from one channel is not here for who works for another.
        told = await load_many(lab, "B", sha1s, "two", only=True)
        assert not any(error is None for _, error in told.values())
        told = await load_many(lab, "B", sha1s, "one", only=True)
        assert all(error is None for _, error in told.values())


async def test_a_provider_checks_the_requesters_role_itself() -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "provide"}, owner="A")
        sha1s = await store_many(lab, "A", contents(3))
        link = await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        raw = [bytes.fromhex(sha1) for sha1 in sha1s]
        for sha1s_, kind in ((raw, AccessDenied), ([b"x"], (AccessDenied, BadInput))):
            stream = link.open("file.batch", {"channel": lab.channels["lab"], "sha1s": sha1s_})
            with pytest.raises(kind):
                await stream.receive()
        told = await load_many(lab, "B", [sha1.hex() for sha1 in raw])
        assert all(isinstance(error, AccessDenied) for _, error in told.values())


Serve = Callable[[Stream, list[bytes]], Awaitable[None]]


async def _places_that_were_not_asked_for(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[99], [len(files[0])]], files[0])


async def _one_twice(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[0, 0], [500, 500]], files[0] * 2)


async def _backwards(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[1], [500]], files[1])
    await stream.send([[0], [500]], files[0])


async def _sizes_that_are_not_those(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[0, 1], [500, 1]], files[0] + files[1])


async def _negative_sizes(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[0, 1], [1000, -500]], files[0])


async def _other_contents(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[0, 1], [500, 500]], files[1] + files[0])


async def _half(stream: Stream, files: list[bytes]) -> None:
    await stream.send([[0, 2], [500, 500]], files[0] + files[2])


async def _nothing(stream: Stream, files: list[bytes]) -> None:
    return


async def _silence(stream: Stream, files: list[bytes]) -> None:
    await asyncio.Event().wait()


async def _no_meta(stream: Stream, files: list[bytes]) -> None:
    await stream.send("?", files[0])


async def _an_error(stream: Stream, files: list[bytes]) -> None:
    raise StorageFull(what="mine", path="/")


@pytest.mark.parametrize(
    "serve",
    [
        _places_that_were_not_asked_for,
        _one_twice,
        _backwards,
        _sizes_that_are_not_those,
        _negative_sizes,
        _other_contents,
        _half,
        _nothing,
        _silence,
        _no_meta,
        _an_error,
    ],
)
async def test_whatever_a_provider_answers_what_is_loaded_is_right(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not come in a batch is asked for by itself, which the same node may answer rightly."""
    monkeypatch.setattr(loader, "STALL_SECONDS", 0.2)
    async with laboratory() as lab:
        files = contents(4)
        sha1s = await store_many(lab, "A", files)

        async def lie(link: Link, stream: Stream, params: FileBatch) -> None:
            await serve(stream, files)

        lab["A"].network.on_stream_of("file.batch", FileBatch, lie)
        told = await load_many(lab, "B", sha1s)
        assert [told[place] for place in range(4)] == [(500, None)] * 4
        stored = {entry.sha1 for entry in lab["B"].store.scan()}
        assert stored == set(sha1s)
        assert all(lab.bytes_of("B", sha1_of(data)) == data for data in files)


async def test_an_older_provider_that_knows_no_batches_is_asked_for_each() -> None:
    """And the link to it stays: not to know something is no fault."""
    async with laboratory() as lab:
        sha1s = await store_many(lab, "A", contents(5))
        del lab["A"].network.handlers.streams["file.batch"]
        link = await lab["B"].reach.to(lab.id("A"), lab.channels["lab"])
        told = await load_many(lab, "B", sha1s)
        assert [told[place] for place in range(5)] == [(500, None)] * 5
        assert not link.closed.is_set()


async def test_a_full_disk_is_said_and_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory() as lab:
        sha1s = await store_many(lab, "A", contents(20))

        def full(*_: object) -> None:
            raise StorageFull(what="content being stored", path="/")

        monkeypatch.setattr(lab["B"].store, "_put", full)
        with pytest.raises(StorageFull):
            await load_many(lab, "B", sha1s)


async def test_a_member_that_is_removed_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory() as lab:
        sha1s = await store_many(lab, "A", contents(100, 20_000))
        reading, go_on = asyncio.Event(), asyncio.Event()
        provider = lab["A"].batch_provider
        real = provider._context.workers.disk

        async def slow(function: Any, *args: Any, **more: Any) -> Any:
            if function == provider._read:
                reading.set()
                await go_on.wait()
            return await real(function, *args, **more)

        monkeypatch.setattr(provider._context.workers, "disk", slow)
        loading = asyncio.create_task(load_many(lab, "B", sha1s))
        await reading.wait()
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        go_on.set()
        await until(lambda: not provider._serving, "the stream has ended")
        loading.cancel()
        with pytest.raises((asyncio.CancelledError, KacheryError)):
            await loading
        assert list(lab["B"].store.scan()) == []


async def test_what_is_stored_with_others_is_listed_by_its_name() -> None:
    async with laboratory() as lab:
        await lab.call("A", "store_batch", data=[b"one", b"two"], labels=["one.txt", "two.txt"])
        listed = (await lab.call("A", "list_files"))["files"]
        assert {each["label"] for each in listed} == {"one.txt", "two.txt"}
        with pytest.raises(BadInput):
            await lab.call("A", "store_batch", data=[b"three"], labels=["a", "b"])
