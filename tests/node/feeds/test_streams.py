"""Messages handed to local readers as they come, whatever room these have."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from kachery_p2p.node.feeds.reader import Wanted
from kachery_p2p.protocol.errors import FeedDeleted, FeedForked, NotFound
from kachery_p2p.protocol.feeds.feed import Slice, decode_messages, sign_head
from kachery_p2p.protocol.feeds.fork import make_fork
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory, patience, until


@dataclass
class Reader:
    """Takes what is offered, or, as chance will have it, not yet."""

    chance: random.Random
    refusals: float = 0.0
    found: list[object] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    flushed: int = 0

    def offer(self, slice: Slice) -> bool:
        if self.chance.random() < self.refusals:
            return False
        self.positions.append(slice.start)
        assert slice.start == len(self.found)
        self.found += decode_messages(slice.texts)
        return True

    async def room(self) -> None:
        await asyncio.sleep(0)

    def flush(self) -> None:
        self.flushed = len(self.found)


@asynccontextmanager
async def streaming(
    lab: Lab, node: str, feed: Subfeed, *readers: Reader, wait: float = 60.0
) -> AsyncIterator[list[asyncio.Task[None]]]:
    tasks = [
        asyncio.create_task(
            lab[node].feed_reader.stream(
                Wanted(feed.where, 0),
                reader.offer,
                reader.room,
                reader.flush,
                wait=wait,
                timeout=patience(),
                channel=None,
            )
        )
        for reader in readers
    ]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("node", ["A", "B"])
@pytest.mark.parametrize("refusals", [0.0, 0.5])
async def test_each_reader_gets_every_message_once_and_in_order(node: str, refusals: float) -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(10))
        readers = [Reader(random.Random(seed), refusals) for seed in range(10)]
        async with streaming(lab, node, feed, *readers):
            for number in range(10, 200, 2):
                await feed.append("A", number, number + 1)
                if number % 20 == 0:
                    await until(lambda n=number: all(len(each.found) > n for each in readers))
            await until(lambda: all(len(each.found) == 200 for each in readers))
        assert all(each.found == list(range(200)) for each in readers)
        assert all(each.flushed == 200 for each in readers)
        assert not lab[node].feeds._listeners


async def test_who_has_all_that_came_before_is_told_without_a_task_being_woken() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        reader = Reader(random.Random(0))
        async with streaming(lab, "A", feed, reader):
            await feed.append("A", "first")
            await until(lambda: reader.found)
            await lab["A"].feeds.settle()
            feeds = lab["A"].feeds
            looked = 0
            read = feeds.read

            async def look(*args: object) -> object:
                nonlocal looked
                looked += 1
                return await read(*args)  # type: ignore[arg-type]

            feeds.read = look  # type: ignore[method-assign, assignment]
            for number in range(5):
                await feed.append("A", number)
                await until(lambda number=number: reader.found[-1] == number)
            assert reader.found == ["first", 0, 1, 2, 3, 4]
            assert looked == 0


async def test_a_stream_ends_when_nothing_came_for_so_long() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 1, 2)
        reader = Reader(random.Random(0))
        async with streaming(lab, "B", feed, reader, wait=0.05) as [task]:
            await asyncio.wait_for(task, patience())
        assert reader.found == [1, 2]


async def test_a_stream_ends_with_the_reason_why_there_is_nothing() -> None:
    async with laboratory() as lab:
        nobodys = Subfeed(lab, bytes(32))
        async with streaming(lab, "B", nobodys, Reader(random.Random(0)), wait=0.0) as [task]:
            with pytest.raises(NotFound):
                await asyncio.wait_for(task, patience())


async def test_a_stream_ends_where_a_fork_begins() -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1)
        reader = Reader(random.Random(0))
        async with streaming(lab, "A", feed, reader) as [task]:
            await until(lambda: len(reader.found) == 2)
            log = lab["A"].feeds.store._open(*feed.where)
            assert log.key is not None
            assert log.info.head is not None
            other = sign_head(log.key, feed.where[1], 2, b"r" * 32, log.timestamp)
            await lab["A"].feeds.record_fork(make_fork(log.info.head, other), "a test")
            with pytest.raises(FeedForked):
                await asyncio.wait_for(task, patience())
        assert reader.found == [0, 1]


@pytest.mark.parametrize("node", ["A", "B"])
@pytest.mark.parametrize("messages", [0, 2])
async def test_who_reads_a_feed_that_is_deleted_here_hears_it(node: str, messages: int) -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        for number in range(messages):
            await feed.append("A", number)
        reader = Reader(random.Random(0))
        async with streaming(lab, node, feed, reader) as [task]:
            waiting = asyncio.create_task(feed.answer(node, messages, wait=600.0, timeout=5.0))
            feeds = lab[node].feeds
            await until(lambda: len(feeds._listeners.get(feed.where, ())) == 2)
            await until(lambda: len(reader.found) == messages)
            await lab.call(node, "feed.delete", feed=feed.feed)
            for each in (task, waiting):
                with pytest.raises(
                    FeedDeleted, match=r"deleted here while it was read.*by its URI"
                ):
                    await asyncio.wait_for(each, patience())
        assert not feeds._listeners


async def test_who_follows_a_holder_that_deletes_the_feed_finds_another() -> None:
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1)
        assert await feed.read("B") == [0, 1]
        await lab.announced("B")
        reader = Reader(random.Random(0))
        async with streaming(lab, "C", feed, reader):
            await until(lambda: reader.found == [0, 1])
            follower = lab["C"].feed_reader.follower(feed.where)
            assert follower is not None
            await until(lambda: len(follower.sources) == 2)
            await lab.call("B", "feed.delete", feed=feed.feed)
            await until(lambda: list(follower.sources) == [lab.id("A")])
            await feed.append("A", 2)
            await until(lambda: reader.found == [0, 1, 2])
