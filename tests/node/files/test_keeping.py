"""Deleting, pinning, not sharing, a limit and a scrub, between real nodes over loopback."""

from __future__ import annotations

import asyncio
import json
import os
import random

import pytest

from kachery_p2p.node.node import Node
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    ContentPinned,
    NotFound,
    StorageFull,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, SCRUB_AGAIN_SECONDS
from tests.node.harness import Lab, laboratory, until

DAY = 86_400.0


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def has(node: Node, sha1: str) -> bool:
    return node.store.find(sha1) is not None


async def holders(lab: Lab, name: str, sha1: str) -> list[str]:
    found = await lab.call(name, "find", sha1=sha1)
    return sorted(holder["label"] for holder in found["holders"])


async def test_what_is_deleted_is_found_elsewhere_and_not_here_any_more() -> None:
    async with laboratory("A", "B", "C") as lab:
        sha1, _ = await lab.store("A", content(100_000))
        await lab.load("B", sha1)
        await lab.call("B", "pin", sha1=sha1)
        await lab.announced("B")
        assert await holders(lab, "C", sha1) == ["A", "B"]
        assert (await lab.call("A", "delete_file", sha1=sha1))["freed"] == 100_000
        assert not has(lab["A"], sha1)
        await lab.announced("A")
        assert await holders(lab, "C", sha1) == ["B"]
        await lab.load("C", sha1)
        with pytest.raises(NotFound, match="not on this computer"):
            await lab.call("A", "delete_file", sha1=sha1)


async def test_a_large_file_goes_with_its_manifest_and_tree() -> None:
    async with laboratory("A") as lab:
        sha1, manifest = await lab.store("A", content(MANIFEST_CHUNK + 100))
        assert manifest is not None
        await lab.call("A", "delete_file", sha1=sha1, copies=0)
        assert not has(lab["A"], manifest)
        assert lab["A"].inventory.used == 0
        assert not [p for p in (lab["A"].store.root / "sha1").rglob("*") if p.is_file()]


async def test_what_is_pinned_is_deleted_by_force_only() -> None:
    async with laboratory("A") as lab:
        sha1, _ = await lab.store("A", b"pinned")
        await lab.call("A", "pin", sha1=sha1, name="paper")
        with pytest.raises(ContentPinned, match="paper"):
            await lab.call("A", "delete_file", sha1=sha1, copies=0)
        assert has(lab["A"], sha1)
        await lab.call("A", "delete_file", sha1=sha1, force=True)
        assert not has(lab["A"], sha1)
        assert lab["A"].state.pins(sha1) == []
        with pytest.raises(BadInput, match="not pinned"):
            await lab.call("A", "unpin", sha1=sha1)


async def test_a_directory_and_a_result_are_pinned_with_all_in_them() -> None:
    async with laboratory("A") as lab:
        one, _ = await lab.store("A", b"one")
        two, _ = await lab.store("A", b"two")
        listing = {"files": {"1": {"size": 3, "sha1": one}}, "dirs": {}}
        folder, _ = await lab.store("A", json.dumps(listing).encode())
        result, _ = await lab.store(
            "A", json.dumps({"out": f"sha1://{two}/x", "all": f"sha1dir://{folder}"}).encode()
        )
        answer = await lab.call("A", "pin", sha1=result)
        assert (answer["pinned"], answer["missing"]) == (4, [])
        for sha1 in (one, two, folder, result):
            with pytest.raises(ContentPinned):
                await lab.call("A", "delete_file", sha1=sha1, copies=0)
        assert (await lab.call("A", "unpin", sha1=result))["ended"] == 4
        await lab.call("A", "delete_file", sha1=one, copies=0)
        answer = await lab.call("A", "pin", sha1=folder)
        assert answer["missing"] == [one]


async def test_what_is_unshared_stays_and_goes_out_on_the_other_channel_only() -> None:
    async with laboratory("A", "B", "C") as lab:
        await lab.channel("second", {"A": "all", "C": "all"}, owner="P")
        sha1, _ = await lab.store("A", content(50_000))
        await lab.announced("A")
        await lab.announced("A", "second")
        await lab.call("A", "unshare", sha1=sha1, channel="lab")
        await lab.announced("A")
        assert has(lab["A"], sha1)
        assert await holders(lab, "B", sha1) == []
        assert isinstance(await lab.error("B", sha1), NotFound)
        await lab.load("C", sha1, channel="second")
        await lab.store("A", content(50_000))
        assert await holders(lab, "B", sha1) == ["A"]


async def test_what_was_stored_for_a_time_goes_when_that_is_over() -> None:
    async with laboratory("A") as lab:
        node = lab["A"]
        sha1 = (await lab.call("A", "store", data=b"for a month", seconds=30 * DAY))["sha1"]
        pinned = (await lab.call("A", "store", data=b"pinned", seconds=30 * DAY))["sha1"]
        kept = (await lab.call("A", "store", data=b"for good"))["sha1"]
        await lab.call("A", "store", data=b"for good", seconds=DAY)
        await lab.call("A", "pin", sha1=pinned, seconds=40 * DAY)
        begun = node.context.clock()
        node.context.clock = lambda: begun + 29 * DAY
        await node.keeping.let_expired_go()
        assert has(node, sha1)
        node.context.clock = lambda: begun + 31 * DAY
        await node.keeping.let_expired_go()
        assert [has(node, each) for each in (sha1, pinned, kept)] == [False, True, True]
        node.context.clock = lambda: begun + 41 * DAY
        await node.keeping.let_expired_go()
        assert [has(node, each) for each in (pinned, kept)] == [False, True]


async def test_a_listing_says_where_things_came_from() -> None:
    async with laboratory("A", "B") as lab:
        sha1 = (await lab.call("A", "store", data=b"x" * 50_000, label="x.dat"))["sha1"]
        await lab.announced("A")
        await lab.load("B", sha1, label="mine.dat")
        mine = (await lab.call("B", "store", data=b"own", label="own.txt"))["sha1"]
        listed = (await lab.call("B", "list_files", sort="size"))["files"]
        assert [(r["sha1"], r["source"], r["label"]) for r in listed] == [
            (sha1, "fetched", "mine.dat"),
            (mine, "stored", "own.txt"),
        ]
        assert (listed[0]["channel"], listed[0]["node_label"]) == ("lab", "A")
        only = (await lab.call("B", "list_files", which="mine", pattern="own*"))["files"]
        assert [r["sha1"] for r in only] == [mine]
        await lab.call("B", "pin", sha1=sha1, name="p")
        pinned = (await lab.call("B", "list_files", which="pinned"))["files"]
        assert [r["pins"][0]["name"] for r in pinned] == ["p"]
        usage = await lab.call("B", "storage_usage")
        assert (usage["used"], usage["pinned"], usage["limit"]) == (50_003, 1, None)


async def test_a_node_at_its_limit_fetches_on_and_keeps_its_own() -> None:
    async with laboratory("A", "B") as lab:
        await lab.call("B", "set_limit", bytes=200_000)
        mine, _ = await lab.store("B", content(90_000, seed=99))
        names = [(await lab.store("A", content(50_000, seed=n)))[0] for n in range(6)]
        for sha1 in names:
            await lab.load("B", sha1)
            assert lab["B"].inventory.used <= 200_000
        assert has(lab["B"], mine)
        assert [has(lab["B"], sha1) for sha1 in names] == [False] * 4 + [True] * 2
        too_large, _ = await lab.store("A", content(120_000, seed=7))
        error = await lab.error("B", too_large)
        assert isinstance(error, StorageFull)
        assert "daemon set --max-storage" in str(error)
        assert lab["B"].quota.room.reserved == 0
        # What is small can be read all the same, and what went is withdrawn.
        await lab.announced("B")
        assert await holders(lab, "A", names[0]) == []


async def test_a_limit_is_there_again_after_a_restart() -> None:
    async with laboratory("A") as lab:
        await lab.call("A", "set_limit", bytes=5_000)
        await lab.restart("A")
        assert lab["A"].quota.limit == 5_000
        await lab.restart("A", max_storage=0)
        assert lab["A"].quota.limit is None


async def test_a_scrub_finds_what_rotted_and_has_it_fetched_anew() -> None:
    async with laboratory("A", "B") as lab:
        shared, _ = await lab.store("A", content(60_000))
        await lab.load("B", shared)
        await lab.announced("B")
        alone, _ = await lab.store("A", content(60_000, seed=2))
        large, _ = await lab.store("A", content(MANIFEST_CHUNK + 100_000))
        whole = await lab.call("A", "verify")
        assert (whole["files"], whole["damaged"], whole["unknown"]) == (4, [], 0)
        for sha1 in (shared, alone):
            rot(lab["A"], sha1)
        lab["A"].store.path(large, ".tree").unlink()
        found = await lab.call("A", "verify")
        assert sorted(found["damaged"]) == sorted([shared, alone])
        assert (found["restored"], found["lost"]) == ([shared], [alone])
        assert lab.bytes_of("A", shared) == content(60_000)
        assert not has(lab["A"], alone)
        assert lab["A"].store.path(large, ".tree").exists()
        thing = lab["A"].inventory.thing(shared)
        assert thing is not None
        assert thing.source == "stored"  # it is the user's own as before


def rot(node: Node, sha1: str) -> None:
    path = node.store.path(sha1)
    os.chmod(path, 0o644)
    with path.open("r+b") as file:
        file.seek(1_000)
        file.write(b"rotten")


async def test_a_scrub_goes_on_where_it_was_broken_off_and_comes_by_itself() -> None:
    async with laboratory("A") as lab:
        node = lab["A"]
        names = sorted([(await lab.store("A", content(5_000, seed=n)))[0] for n in range(5)])
        cut_off = await node.scrubbing.run(None)
        cut_off |= {"ended": None, "after": names[2], "files": 3}
        node.scrubbing._save(cut_off)
        rot(node, names[0])  # it was looked at before
        rot(node, names[4])
        done = await node.scrubbing.run(None)
        assert (done["files"], done["resumed"], done["damaged"]) == (5, True, [names[4]])
        assert (await node.scrubbing.run(None))["damaged"] == [names[0]]
        begun = node.context.clock()
        await node.scrubbing.run_if_due()
        node.context.clock = lambda: begun + SCRUB_AGAIN_SECONDS + 1
        await node.scrubbing.run_if_due()
        last = node.scrubbing._load()
        assert last is not None
        assert last["begun"] > begun


async def test_a_scrub_that_nobody_waits_for_any_more_ends_and_another_can_begin() -> None:
    async with laboratory("A") as lab:
        node = lab["A"]
        await lab.store("A", content(2_000_000))
        running = asyncio.create_task(node.scrubbing.run(1.0))
        await until(lambda: node.scrubbing._running.locked())
        with pytest.raises(Busy):
            await node.scrubbing.run(None)
        running.cancel()
        await asyncio.wait([running])
        assert (await node.scrubbing.run(None))["files"] == 1
