"""Before what was stored here is deleted, the others are asked for their copies."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kachery_p2p.protocol.errors import CopyLocked, KacheryError, LastCopy
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from kachery_p2p.storage.paths import path_of
from tests.node.backing.lab import lab_with
from tests.node.harness import Lab, laboratory

from .lab import content, has, offer, push


async def delete(lab: Lab, name: str, sha1: str, **more: object) -> int:
    freed: int = (await lab.call(name, "delete_file", sha1=sha1, **more))["freed"]
    return freed


async def test_the_last_copy_of_what_was_stored_goes_by_force_only() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        with pytest.raises(LastCopy, match="fewer than 1 other nodes"):
            await delete(lab, "A", sha1)
        assert has(lab["A"], sha1)
        await delete(lab, "A", sha1, force=True)
        assert not has(lab["A"], sha1)


async def test_a_copy_that_is_pushed_or_stored_elsewhere_suffices() -> None:
    async with laboratory("A", "B", "K") as lab:
        await offer(lab, "K")
        big = content(MANIFEST_CHUNK + 10)
        one, manifest = await lab.store("A", big)
        two, _ = await lab.store("A", content(1_000, 2))
        empty, _ = await lab.store("A", b"")
        await push(lab, "A", one, manifest)
        await lab.store("B", content(1_000, 2))
        await lab.store("B", b"")
        await lab.announced("K")
        for sha1 in (one, two, empty):
            await delete(lab, "A", sha1)
            assert not has(lab["A"], sha1)
        with pytest.raises(CopyLocked):  # what A relied on stays, also if somebody else has it
            await delete(lab, "B", two, copies=0)


async def test_a_copy_that_was_only_fetched_is_named_and_does_not_count() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        await lab.load("B", sha1)
        await lab.announced("B")
        with pytest.raises(LastCopy, match="has only fetched it"):
            await delete(lab, "A", sha1)
        await lab.call("B", "pin", sha1=sha1)
        with pytest.raises(LastCopy, match="fewer than 2"):
            await delete(lab, "A", sha1, copies=2)
        await delete(lab, "A", sha1)


async def test_a_copy_for_a_time_says_until_when() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(1_000))
        await push(lab, "A", sha1, seconds=86_400.0)
        await lab.announced("K")
        with pytest.raises(LastCopy, match="has it until"):
            await delete(lab, "A", sha1)


async def test_a_damaged_copy_is_found_out_and_does_not_count() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(200_000))
        await lab.store("B", content(200_000))
        blob = lab["B"].store.find(sha1)
        assert blob is not None
        blob.path.chmod(0o644)
        blob.path.write_bytes(bytes(200_000))
        with pytest.raises(LastCopy):
            await delete(lab, "A", sha1)
        assert has(lab["A"], sha1)


async def test_of_two_that_delete_at_once_at_least_one_keeps_it() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        await lab.store("B", content(1_000))
        results = await asyncio.gather(
            delete(lab, "A", sha1), delete(lab, "B", sha1), return_exceptions=True
        )
        assert any(isinstance(each, KacheryError) for each in results)
        assert has(lab["A"], sha1) or has(lab["B"], sha1)


async def test_what_was_fetched_or_linked_goes_without_asking() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        await lab.load("B", sha1)
        await lab.stop("P")
        await delete(lab, "B", sha1)
        assert not has(lab["B"], sha1)


async def test_a_node_on_no_channel_deletes_as_its_user_says() -> None:
    async with laboratory("A", channel=False) as lab:
        sha1, _ = await lab.store("A", content(1_000), tell=None)
        await delete(lab, "A", sha1)
        assert not has(lab["A"], sha1)


async def test_nobody_online_is_said_at_once() -> None:
    async with laboratory("A", "B") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        await lab.stop("P")
        with pytest.raises(LastCopy):
            async with asyncio.timeout(12):
                await delete(lab, "A", sha1)


@pytest.mark.parametrize("own", [False, True])
async def test_what_is_in_an_archive_has_a_copy_there_as_long_as_it_is_there(
    tmp_path: Path, own: bool
) -> None:
    async with lab_with(str(tmp_path), archive=True, own=own) as lab:
        kept, lost, wrong, empty, both = [
            (await lab.store("A", content(size, size)))[0]
            for size in (200_000, 100_001, 100_002, 0, 100_003)
        ]
        for sha1 in (kept, lost, wrong, empty, both):
            await lab.call("A", "archive", sha1=sha1)
        path_of(tmp_path, lost).unlink()
        path_of(tmp_path, wrong).write_bytes(content(100_002, 7))
        for sha1 in (lost, wrong):
            with pytest.raises(LastCopy, match=str(tmp_path)):
                await delete(lab, "A", sha1)
            assert has(lab["A"], sha1)
        # What was found out there is known from now on: neither is let go for it.
        assert (await lab.call("A", "collect", to=1))["count"] == (2 if own else 0)
        if own:
            return
        await delete(lab, "A", kept)
        await delete(lab, "A", empty)
        with pytest.raises(LastCopy, match="fewer than 2"):
            await delete(lab, "A", both, copies=2)
        await lab.store("B", content(100_003, 100_003))
        await delete(lab, "A", both, copies=2)
        assert not any(has(lab["A"], sha1) for sha1 in (kept, empty, both))
        await lab.load("B", kept)  # out of the archive


async def test_what_may_go_for_its_archive_is_deleted_with_the_archive_as_the_copy(
    tmp_path: Path,
) -> None:
    async with lab_with(str(tmp_path), archive=True, own=True) as lab:
        sha1, _ = await lab.store("A", content(50_000))
        await lab.call("A", "archive", sha1=sha1)
        await delete(lab, "A", sha1)
        assert not has(lab["A"], sha1)
        await lab.load("A", sha1)
