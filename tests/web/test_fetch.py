"""The code of the page, run in node, opens share links on real nodes over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.node.files import provider
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.limits import BLOCK, MANIFEST_CHUNK
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.stamps import put_stamp
from tests.node.files.contents import BIG, content
from tests.node.files.test_doubts import unseen_damage
from tests.node.harness import Lab, laboratory, until


async def fetch(programs: Path, link: str, *arguments: str) -> list[dict[str, Any]]:
    """The lines that ``fetch.ts`` says."""
    async with opened(programs, link, *arguments) as said:
        return said


@contextlib.asynccontextmanager
async def opened(programs: Path, link: str, *arguments: str) -> AsyncIterator[list[dict[str, Any]]]:
    """What it says. If it is refused, the page stays open meanwhile."""
    process = await asyncio.create_subprocess_exec(
        "node", programs / "fetch.mjs", link, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    said: list[dict[str, Any]] = []
    async for line in process.stdout:
        said.append(json.loads(line))
        if "error" in said[-1]:
            break
    yield said
    process.stdin.close()
    await process.communicate()


async def share(lab: Lab, uri: str, **options: Any) -> str:
    made = await lab.call("A", "share.create", uri=uri, **options)
    return str(made["link"])


@pytest.mark.parametrize("size", [0, 5, 40_000, 3 * BLOCK + 7])
async def test_a_small_file_is_fetched_and_verified_as_a_whole(programs: Path, size: int) -> None:
    async with laboratory() as lab:
        data = bytes(i % 251 for i in range(size))
        sha1, _ = await lab.store("A", data)
        (said,) = await fetch(programs, await share(lab, f"sha1://{sha1}/my%20file.txt"))
        assert said["name"] == "my file.txt"
        assert (said["size"], said["start"]) == (size, list(data[:64]))


async def test_a_large_file_is_verified_block_by_block(programs: Path) -> None:
    async with laboratory() as lab:
        data = bytes(range(256)) * (MANIFEST_CHUNK // 256) + b"and a bit"
        sha1, manifest = await lab.store("A", data)
        assert manifest is not None
        (said,) = await fetch(programs, await share(lab, f"sha1://{sha1}/large"))
        assert said["size"] == len(data)
        assert said["source"] == "A"
        assert said["pieces"] > 1


async def test_who_made_the_link_may_be_off_if_another_has_it(programs: Path) -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"results")
        link = await share(lab, f"sha1://{sha1}/r")
        await lab.load("B", sha1)
        await lab.announced("B")
        await lab.stop("A")
        (said,) = await fetch(programs, link)
        assert (said["size"], said["source"]) == (7, "B")
        await lab.stop("B")
        (said,) = await fetch(programs, link)
        assert said["error"] == "not-found"
        assert "A, B have it, but are offline" in said["message"]


async def test_links_that_are_void_say_why(programs: Path) -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"results")
        once = await share(lab, f"sha1://{sha1}/r", uses=1)
        assert (await fetch(programs, once))[0]["size"] == 7
        (again,) = await fetch(programs, once)
        assert again["error"] == "share-refused"
        assert "as often as it may be" in again["message"]
        link = await share(lab, f"sha1://{sha1}/r")
        await lab.call("A", "share.revoke", id=link)
        (said,) = await fetch(programs, link)
        assert "revoked" in said["message"]
        (cut,) = await fetch(programs, link[:-3])
        assert cut["error"] == "bad-link"


async def test_messages_of_a_subfeed_come_with_their_proof(programs: Path) -> None:
    async with laboratory() as lab:
        feed = (await lab.call("A", "feed.create", name="f"))["feed"]
        for n in range(3):
            await append(lab, feed, {"n": n})
        link = await share(lab, f"feed://{feed.hex()}/temp%20inside")
        coming = asyncio.ensure_future(fetch(programs, link, "5"))
        for n in range(3, 5):
            await append(lab, feed, {"n": n})
        said = await coming
        assert [json.loads(each["text"])["n"] for each in said] == [0, 1, 2, 3, 4]
        assert [each["number"] for each in said] == [0, 1, 2, 3, 4]


async def append(lab: Lab, feed: bytes, value: Any) -> None:
    name = "temp inside"
    await lab.call(
        "A", "feed.append", feed=feed, subfeed=subfeed_hash(name), name=name,
        data=json.dumps(value).encode(), count=1,
    )  # fmt: skip


async def test_a_link_goes_on_when_the_channels_secret_was_replaced(programs: Path) -> None:
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", b"results")
        link = await share(lab, f"sha1://{sha1}/r")
        await lab.call("A", "channel.remove-node", channel="lab", node="B")
        await until(lambda: not lab["P"].network.is_member(lab.channels["lab"], lab.id("B")))
        (said,) = await fetch(programs, link)
        assert said["size"] == 7


async def test_what_nobody_has_and_a_feed_without_messages_are_no_riddles(programs: Path) -> None:
    async with laboratory() as lab:
        (said,) = await fetch(programs, await share(lab, f"sha1://{'ab' * 20}/lost"))
        assert said["error"] == "not-found"
        feed = (await lab.call("A", "feed.create", name="f"))["feed"]
        coming = asyncio.ensure_future(
            fetch(programs, await share(lab, f"feed://{feed.hex()}/temp%20inside"))
        )
        await append(lab, feed, {"n": 0})
        assert [json.loads(each["text"]) for each in await coming] == [{"n": 0}]


async def test_who_lies_is_found_out_and_another_is_asked(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = provider.TreeReader.read_proved
    liars: set[Path] = set()

    def lie(self: Any, start: int, stop: int) -> tuple[bytes, list[bytes]]:
        piece, proof = read(self, start, stop)
        if start > 10_000_000 and self._store.root in liars:
            return piece[:-1] + bytes([piece[-1] ^ 1]), proof
        return piece, proof

    monkeypatch.setattr(provider.TreeReader, "read_proved", lie)
    async with laboratory() as lab:
        data = bytes(range(256)) * (MANIFEST_CHUNK // 256) + b"and a bit"
        sha1, manifest = await lab.store("A", data)
        link = await share(lab, f"sha1://{sha1}/large")
        liars.add(lab["A"].store.root)
        (said,) = await fetch(programs, link)
        assert said["error"] == "corrupt-content"
        assert "from A is not what the link names" in said["message"]
        liars.clear()
        await lab.load("B", sha1, manifest)
        await lab.announced("B")
        liars.add(lab["A"].store.root)
        (said,) = await fetch(programs, link)
        assert (said["size"], said["source"]) == (len(data), "B")


async def test_what_a_disk_changed_unseen_is_refused_and_its_holder_is_told(programs: Path) -> None:
    async with laboratory() as lab:
        sha1, manifest = await lab.store("A", content(BIG))
        uri = f"sha1://{sha1}/large?manifest={manifest}"
        link = await share(lab, uri)
        unseen_damage(lab, sha1, BIG - 1)
        async with opened(programs, link) as said:
            assert said[-1]["error"] == "corrupt-content"
            await until(lambda: lab["A"].store.find(sha1) is None, "put aside")
        (said,) = await fetch(programs, link)
        assert said["error"] == "not-found"


async def test_a_manifest_of_other_bytes_is_found_out_by_the_sha1(programs: Path) -> None:
    """Whoever gave the URI away has named another file's manifest, and serves that file."""
    async with laboratory() as lab:
        sha1, _ = await lab.store("A", content(BIG))
        other, named = await lab.store("A", content(BIG, 2))
        assert named is not None
        lie = lab.bytes_of("A", named).replace(other.encode(), sha1.encode())
        forged, _ = await lab.store("A", lie)
        store = lab["A"].store
        for kind in ("", paths.TREE):
            target = store.path(sha1, kind)
            target.unlink()
            shutil.copy(store.path(other, kind), target)
        put_stamp(store.root, sha1, store.path(sha1).stat())
        link = await share(lab, f"sha1://{sha1}/large?manifest={forged}")
        (said,) = await fetch(programs, link)
        assert said["error"] == "corrupt-content"
