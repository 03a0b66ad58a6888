"""Asking who gave the last file for the next one: quicker if it has it, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import Any

import pytest

from kachery_p2p.node.batches import asker
from kachery_p2p.node.batches.provider import BatchProvider
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import AccessDenied, NotFound, ProtocolViolation, StorageFull
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_ASK, FileAsk
from kachery_p2p.protocol.limits import ASK_FILE, FILES_ASKED_FOR, MAX_ASK_SKIPS
from tests.node.harness import Lab, laboratory

DATA = random.Random(3)


def content(size: int = 500) -> bytes:
    return DATA.randbytes(size)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What all nodes open and ask of one another from now on."""
    seen: list[tuple[str, Any]] = []
    for method in ("open", "request"):
        real = getattr(Link, method)

        def spy(self: Link, what: str, params: Any, *, real: Any = real, **more: Any) -> Any:
            seen.append((what, params))
            return real(self, what, params, **more)

        monkeypatch.setattr(Link, method, spy)
    return seen


async def given(lab: Lab, giver: str = "A", to: str = "B") -> None:
    """One file has come from there."""
    sha1, _ = await lab.store(giver, content())
    await lab.load(to, sha1)


@pytest.mark.parametrize("size", [0, 500, 100_000, ASK_FILE])
async def test_the_next_small_file_takes_one_question(
    size: int, asked: list[tuple[str, Any]]
) -> None:
    async with laboratory() as lab:
        await given(lab)
        data = content(size)
        sha1, _ = await lab.store("A", data)
        asked.clear()
        loaded = await lab.load("B", sha1)
        assert [method for method, _ in asked] == [FILE_ASK]
        assert lab.bytes_of("B", sha1) == data
        (source,) = loaded["sources"]
        assert (source["node"], source["bytes"], source["via"]) == (lab.id("A"), size, "P")
        assert (loaded["size"], loaded["fetched"]) == (size, size)


async def test_a_range_of_a_small_file_comes_so_too(asked: list[tuple[str, Any]]) -> None:
    async with laboratory() as lab:
        await given(lab)
        sha1, _ = await lab.store("A", content())
        asked.clear()
        answer = await lab.call("B", "load_bytes", sha1=sha1, ranges=((3, 9),))
        assert answer["size"] == 500
        assert [method for method, _ in asked] == [FILE_ASK]


async def test_who_has_it_not_does_not_learn_which_it_is(asked: list[tuple[str, Any]]) -> None:
    async with laboratory("A", "B", "C") as lab:
        await given(lab)
        sha1, _ = await lab.store("C", content())
        asked.clear()
        assert (await lab.load("B", sha1))["sources"][0]["node"] == lab.id("C")
        method, params = asked[0]
        assert method == FILE_ASK
        said = codec.pack(params)
        assert bytes.fromhex(sha1)[:4] not in said
        assert "file.open" in [name for name, _ in asked]


async def test_who_never_has_it_is_asked_less_and_less(asked: list[tuple[str, Any]]) -> None:
    async with laboratory() as lab:
        await given(lab)
        for number in range(40):
            with pytest.raises(NotFound):
                await lab.load("B", f"{number:040x}")
        misses = [name for name, _ in asked].count(FILE_ASK)
        assert 3 <= misses <= 6
        (giver,) = lab["B"].asker._givers.values()
        assert giver.skip <= MAX_ASK_SKIPS


async def test_a_larger_file_comes_as_ever(asked: list[tuple[str, Any]]) -> None:
    async with laboratory() as lab:
        await given(lab)
        data = content(ASK_FILE + 1)
        sha1, _ = await lab.store("A", data)
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data
        assert "file.read" in [name for name, _ in asked]


async def test_what_is_asked_for_twice_at_once_is_asked_once(asked: list[tuple[str, Any]]) -> None:
    async with laboratory() as lab:
        await given(lab)
        sha1, _ = await lab.store("A", content())
        asked.clear()
        one, other = await asyncio.gather(lab.load("B", sha1), lab.load("B", sha1))
        assert one["size"] == other["size"] == 500
        assert [name for name, _ in asked] == [FILE_ASK]


async def test_other_bytes_than_were_asked_for_are_thrown_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory("A", "B", "C") as lab:
        await given(lab)
        data = content()
        sha1, _ = await lab.store("C", data)
        liar = lab["A"].batch_provider
        monkeypatch.setattr(
            liar, "_read_asked", lambda *_: liar._read([], 0, "")._replace(
                places=[0], sizes=[5], data=b"wrong"
            ),
        )  # fmt: skip
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == data
        assert not lab.bytes_of("B", hashlib.sha1(b"wrong").hexdigest())
        assert any(sha1 in text for _, text in lab["B"].context.warnings)
        assert [node for node, _ in lab["B"].asker._givers] == [lab.id("C")]


@pytest.mark.parametrize(
    ("places", "sizes", "data"),
    [([1], [5], b"right"), ([0], [4], b"right"), ([0, 0], [2, 3], b"right"), ([], [], b"")],
)
async def test_an_answer_out_of_shape_costs_the_link_and_not_the_file(
    monkeypatch: pytest.MonkeyPatch, places: list[int], sizes: list[int], data: bytes
) -> None:
    async with laboratory("A", "B", "C") as lab:
        await given(lab)
        sha1, _ = await lab.store("C", b"right")

        async def answer(self: Any, link: Link, stream: Stream, params: FileAsk) -> None:
            await stream.send([places, sizes], data)

        liar = lab["A"]
        monkeypatch.setitem(
            liar.network.handlers.streams,
            FILE_ASK,
            (FileAsk, lambda *args: answer(liar, *args)),
        )
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == b"right"


async def test_who_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asker, "ASK_SECONDS", 0.05)
    async with laboratory("A", "B", "C") as lab:
        await given(lab)

        async def hang(self: BatchProvider, link: Link, stream: Stream, params: FileAsk) -> None:
            await stream.receive()

        monkeypatch.setitem(
            lab["A"].network.handlers.streams,
            FILE_ASK,
            (FileAsk, lambda *args: hang(lab["A"].batch_provider, *args)),
        )
        sha1, _ = await lab.store("C", b"elsewhere")
        await lab.load("B", sha1)
        assert lab.bytes_of("B", sha1) == b"elsewhere"


async def test_what_is_bound_to_another_channel_is_not_given() -> None:
    async with laboratory("A", "B", "C") as lab:
        await lab.channel("other", {"A": "all", "C": "all"}, owner="A")
        sha1, _ = await lab.store("C", b"of the other", channel="other", tell="other")
        await lab.load("A", sha1, channel="other")
        await given(lab)
        error = await lab.error("B", sha1, channel="lab")
        assert isinstance(error, NotFound)
        assert not lab.bytes_of("B", sha1)


async def raw(lab: Lab, who: str, **changes: Any) -> Any:
    channel = lab.channels["lab"]
    link = await lab[who].reach.to(lab.id("A"), channel)
    params = {"channel": channel, "key": bytes(16), "start": bytes(3)} | changes
    stream = link.open(FILE_ASK, params)
    try:
        return await stream.receive()
    finally:
        stream.end()


@pytest.mark.parametrize(
    "changes", [{"key": bytes(15)}, {"start": b""}, {"start": bytes(20)}, {"more": 1}]
)
async def test_a_question_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    async with laboratory() as lab:
        with pytest.raises(ProtocolViolation):
            await raw(lab, "B", **changes)


async def test_a_key_of_another_channel_or_secret_finds_nothing() -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"something")
        start = bytes.fromhex(sha1)[:3]
        assert await raw(lab, "B", start=start) is None
        secret = lab["A"].context.book.secret(lab.channels["lab"])
        assert secret is not None
        key = file_key(sha1).blinded(secret[1])
        assert await raw(lab, "B", start=b"zzz", key=key) is None
        found = await raw(lab, "B", start=start, key=key)
        assert found[0] == [[0], [9]]


async def test_a_member_without_the_role_is_refused() -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "feeds"}, owner="A")
        with pytest.raises(AccessDenied, match="request-files"):
            await raw(lab, "B")


async def test_of_many_files_at_once_few_are_asked_for_so(asked: list[tuple[str, Any]]) -> None:
    async with laboratory() as lab:
        await given(lab)
        files = [content() for _ in range(60)]
        stored = await lab.call("A", "store_batch", data=files)
        await lab.announced("A")
        asked.clear()
        sha1s = [sha1.hex() for sha1 in stored["sha1s"]]
        await asyncio.gather(*(lab.load("B", sha1) for sha1 in sha1s))
        assert [lab.bytes_of("B", sha1) for sha1 in sha1s] == files
        assert [name for name, _ in asked].count(FILE_ASK) == FILES_ASKED_FOR


async def test_a_full_disk_is_not_the_givers_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with laboratory() as lab:
        await given(lab)
        sha1, _ = await lab.store("A", content())

        def full(*_: Any, **__: Any) -> None:
            raise StorageFull(what="a file", path="the storage")

        monkeypatch.setattr(lab["B"].store, "store_batch", full)
        await lab.load("B", sha1)
        (giver,) = lab["B"].asker._givers.values()
        assert giver.misses == 0
