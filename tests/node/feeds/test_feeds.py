"""Feeds between real nodes: what is appended on one is read on the others, once and in order."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    FeedReadOnly,
    NotAWriter,
    NotFound,
    StorageFull,
)
from tests.node.feeds.lab import Subfeed
from tests.node.harness import laboratory, patience, until


async def test_what_is_appended_on_one_node_is_read_on_another_and_live() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        for number in range(5):
            assert await feed.append("A", {"n": number}) == number
        assert await feed.read("B") == [{"n": number} for number in range(5)]
        waiting = asyncio.create_task(feed.next("B", 5))
        await asyncio.sleep(0)
        await feed.append("A", {"n": 5}, {"n": 6})
        assert await waiting == [{"n": 5}, {"n": 6}]
        assert await feed.read("B", 5) == [{"n": 5}, {"n": 6}]


async def test_large_and_many_messages_arrive_whole() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        large = "x" * 900_000
        await feed.append("A", *range(3000))
        await feed.append("A", large)
        await feed.append("A", *(str(number) * 50 for number in range(3000)))
        found = await feed.read("B")
        assert found == [*range(3000), large, *(str(number) * 50 for number in range(3000))]


async def test_a_third_reads_from_the_second_while_the_owner_is_gone_and_hears_of_its_return() -> (
    None
):
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(100))
        assert await feed.read("B") == list(range(100))
        await lab.announced("B")
        await lab.stop("A")
        assert await feed.read("C") == list(range(100))
        waiting = asyncio.create_task(feed.next("C", 100, wait=30.0))
        await lab.restart("A")
        await feed.append("A", "back")
        assert await waiting == ["back"]


async def test_a_reader_begins_late_and_reads_what_came_before_afterwards() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(5000))
        assert await feed.read("B", 4990) == list(range(4990, 5000))
        info = await lab["B"].feeds.info(feed.where)
        assert info is not None
        assert info.base == 4990, "what came before was not fetched"
        assert (await feed.read("B", 10))[:5] == [10, 11, 12, 13, 14]
        assert await feed.read("B") == list(range(5000))


async def test_who_reads_hears_of_a_message_before_its_node_has_it_on_its_disk() -> None:
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0)
        assert await feed.read("B") == [0]
        await lab.announced("B")
        store, may_store = lab["B"].feeds.store, threading.Event()
        take_in = store.extend

        def slow(incoming: Any) -> int:
            assert may_store.wait(10)
            return take_in(incoming)

        store.extend = slow  # type: ignore[method-assign]
        waiting = asyncio.create_task(feed.next("B", 1))
        await until(lambda: lab["B"].feed_reader.follower(feed.where) is not None)
        await feed.append("A", 1)
        assert await waiting == [1]
        assert await feed.next("B", 1) == [1]
        # What is said of the log otherwise is what is on the disk: so it waits.
        asked = [
            asyncio.create_task(lab.call("B", "feed.info", feed=feed.feed)),
            asyncio.create_task(feed.answer("B", 1, proofs=True)),
            asyncio.create_task(feed.read("B", 0)),
        ]
        done, _ = await asyncio.wait(asked, timeout=0.1)
        assert not done
        may_store.set()
        info, proven, everything = await asyncio.gather(*asked)
        assert info["subfeeds"][0]["size"] == 2
        assert proven["heads"][0][2] == 2
        assert everything == [0, 1]


async def test_a_disk_that_takes_no_message_costs_its_readers_none() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0)
        assert await feed.read("B") == [0]
        store = lab["B"].feeds.store
        take_in, full = store.extend, [True, True]

        def sometimes(incoming: Any) -> int:
            if full and full.pop():
                raise StorageFull(what="feeds", path="/full")
            return take_in(incoming)

        store.extend = sometimes  # type: ignore[method-assign]
        found: list[Any] = []
        for number in range(1, 6):
            await feed.append("A", number)
            while not found or found[-1] != number:
                try:
                    found += await feed.next("B", 1 + len(found))
                except StorageFull:
                    await asyncio.sleep(0.05)
        assert found == [1, 2, 3, 4, 5]
        assert await feed.read("B") == list(range(6))


async def test_waiting_at_a_position_that_is_not_reached_yet() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1, 2)
        waiting = asyncio.create_task(feed.next("B", 5))
        await until(lambda: lab["B"].feed_reader.follower(feed.where) is not None)
        assert await feed.read("B", 1) == [1, 2], "a reader further back is not held up by it"
        await feed.append("A", 3, 4, 5)
        assert await waiting == [5]


async def test_who_waits_further_on_is_not_held_up_by_a_reader_further_back() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1, 2)
        waiting = asyncio.create_task(feed.answer("B", 5, wait=60.0, timeout=60.0))
        await until(lambda: lab["B"].feed_reader.follower(feed.where) is not None)
        assert await feed.read("B", 1) == [1, 2]
        await feed.append("A", 3, 4, 5)
        async with asyncio.timeout(patience()):
            assert (await waiting)["data"] == b"5"


async def test_the_owner_of_a_feed_that_it_has_deleted_reads_it_as_others_do() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1, 2)
        assert await feed.read("B") == [0, 1, 2]
        await lab.announced("B")
        assert (await lab.call("A", "feed.delete", feed=feed.feed))["deleted"]
        await lab.announced("A")
        assert await feed.read("A") == [0, 1, 2]
        with pytest.raises(FeedReadOnly):
            await feed.append("A", 3)


async def test_a_subfeed_without_messages_is_empty_and_not_missing() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await lab.announced("A")
        assert await feed.read("B") == []
        waiting = asyncio.create_task(feed.next("B", 0))
        await feed.append("A", "first")
        assert await waiting == ["first"]


async def test_a_feed_that_nobody_has_is_not_found() -> None:
    async with laboratory() as lab:
        feed = Subfeed(lab, b"n" * 32)
        error = await feed.error("B")
        assert isinstance(error, NotFound)
        assert "asked P" in str(error)


async def test_only_the_owner_appends() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 1)
        await feed.read("B")
        with pytest.raises(FeedReadOnly):
            await feed.append("B", 2)


# --- roles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granted", "wanted", "side"),
    [
        ({"A": "all", "B": "files,provide-feeds"}, {}, "requester"),
        ({"A": "all", "B": "all"}, {"B": "files,provide-feeds"}, "requester"),
        ({"A": "files,request-feeds", "B": "all"}, {}, "provider"),
        ({"A": "all", "B": "all"}, {"A": "files,request-feeds"}, "provider"),
    ],
)
async def test_without_its_role_nothing_moves_and_the_error_says_whose(
    granted: dict[str, str], wanted: dict[str, str], side: str
) -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", granted, wanted=wanted)
        feed = await Subfeed.create(lab)
        await feed.append("A", "secret")
        error = await feed.error("B")
        assert isinstance(error, AccessDenied), error
        assert error.fields["role"] == ("request" if side == "requester" else "provide") + "-feeds"
        assert side in error.fields["who"]
        assert await lab["B"].feeds.info(feed.where) is None


async def test_a_removed_member_gets_nothing_more() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0)
        assert await feed.read("B") == [0]
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("B"))
        await until(lambda: not lab["A"].feed_server.following)
        await feed.append("A", 1)
        assert await feed.next("B", 1, wait=2.0) == []
        info = await lab["B"].feeds.info(feed.where)
        assert info is not None
        assert info.size == 1


async def test_what_came_on_one_channel_is_not_served_on_another() -> None:
    async with laboratory("A", "B", "C") as lab:
        await lab.channel("other", {"B": "all", "C": "all"}, owner="B")
        await lab.call("A", "channel.remove-node", channel="lab", node=lab.id("C"))
        feed = await Subfeed.create(lab)
        await feed.append("A", "for lab only")
        assert await feed.read("B") == ["for lab only"]
        await lab.announced("B")
        await feed.error("C", timeout=2.0)
        assert await lab["C"].feeds.info(feed.where) is None


# --- submitting --------------------------------------------------------------------------------


async def test_a_member_with_the_right_submits_and_learns_the_number() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", "mine")
        await feed.grant("A", "B")
        assert await feed.submit("B", "theirs", submission=b"1" * 16) == 1
        answer = await feed.answer("A")
        assert [author for _, _, author in answer["runs"]] == [None, bytes.fromhex(lab.id("B"))]
        assert await feed.read("B") == ["mine", "theirs"]


async def test_a_repeated_submission_is_appended_once() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.grant("A", "B")
        first = await feed.submit("B", "once", submission=b"1" * 16)
        assert await feed.submit("B", "once", submission=b"1" * 16) == first
        await lab.restart("A")
        assert await feed.submit("B", "once", submission=b"1" * 16) == first
        assert await feed.read("A") == ["once"]


async def test_a_member_without_the_right_is_refused() -> None:
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.grant("A", "C")
        with pytest.raises(NotAWriter):
            await feed.submit("B", "no")
        assert await feed.read("A") == []


async def test_a_submission_waits_for_the_owner_to_come_back() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.grant("A", "B")
        await lab.announced("A")
        await lab.stop("A")
        submitting = asyncio.create_task(feed.submit("B", "late", timeout=30.0))
        await lab.restart("A")
        assert await submitting == 0
        await lab.stop("A")
        with pytest.raises(NotFound, match="offline"):
            await feed.submit("B", "never", timeout=0.5)


async def test_bad_input_is_refused_and_changes_nothing() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        for data, count in ((b"{", 1), (b"1\n2", 1), (b"NaN", 1), (b"", 1)):
            with pytest.raises(BadInput):
                await lab.call("A", "feed.append", feed=feed.feed, subfeed=feed.where[1],
                               name="x", data=data, count=count)  # fmt: skip
        assert await feed.read("A") == []
