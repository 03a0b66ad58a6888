"""Feeds that are pushed to a keeper, which follows and serves them from then on."""

from __future__ import annotations

import pytest

from kachery_p2p.node.keepers.pusher import Wish
from kachery_p2p.protocol.errors import KeepRefused, NotFound
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory, until

from .lab import kept_at, offer


def held(lab: Lab, name: str, feed: bytes) -> int:
    return sum(info.size for _, _, info in lab[name].feed_store.logs(feed))


async def push_feed(lab: Lab, feed: bytes) -> int:
    answer = await lab.call("A", "keep.push", feed=feed.hex())
    count: int = answer["count"]
    return count


async def test_a_kept_feed_grows_at_its_keeper_and_is_read_there_while_its_owner_is_gone() -> None:
    async with laboratory("A", "K", "C") as lab:
        await offer(lab, "K")
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(100))
        assert await push_feed(lab, feed.feed) == 1
        assert held(lab, "K", feed.feed) == 100
        await feed.append("A", "later")
        await until(lambda: held(lab, "K", feed.feed) == 101)
        await lab.restart("K")
        await lab.linked("K", "lab")
        await lab["K"].keepers.keeper.sweep()
        await feed.append("A", "after its restart")
        await until(lambda: held(lab, "K", feed.feed) == 102)
        await lab.announced("K")
        await lab.stop("A")
        assert await feed.read("C") == [*range(100), "later", "after its restart"]


async def test_subfeeds_that_come_later_are_pushed_by_themselves() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        first = await Subfeed.create(lab)
        await first.append("A", 1)
        await push_feed(lab, first.feed)
        second = Subfeed(lab, first.feed, "second")
        await second.append("A", 2, 3)
        await lab["A"].feeds.settle()
        lab["A"].keepers.pusher._next_look = 0.0
        await lab["A"].keepers.pusher.push_new_subfeeds()
        assert held(lab, "K", first.feed) == 3
        (row,) = lab["A"].state.pushed()
        assert row.number == 2


async def test_a_feed_that_came_only_to_be_kept_goes_with_that() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(10))
        await push_feed(lab, feed.feed)
        await lab.call("A", "keep.drop", feed=feed.feed.hex())
        await lab["K"].keepers.keeper.sweep()
        assert held(lab, "K", feed.feed) == 0
        assert await kept_at(lab, "K") == []
        with pytest.raises(NotFound):
            await push_feed(lab, bytes(32))


async def test_a_feed_counts_and_is_followed_no_longer_when_it_outgrows_the_limit() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=20_000)
        feed = await Subfeed.create(lab)
        await feed.append("A", "x" * 10_000)
        await push_feed(lab, feed.feed)
        keeper = lab["K"].keepers.keeper
        await feed.append("A", "x" * 15_000)
        await until(lambda: held(lab, "K", feed.feed) == 2)
        keeper._next_look = 0.0
        await keeper.sweep()
        (row,) = lab["K"].state.all_kept()
        assert row.size > 20_000
        other = await Subfeed.create(lab, name="other")
        await other.append("A", 1)
        with pytest.raises(KeepRefused, match="20000 bytes"):
            await push_feed(lab, other.feed)
        reader = lab["K"].feed_reader
        assert not any(reader.followed().values())


async def test_a_kept_feed_that_its_keepers_user_deletes_is_kept_no_longer() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        feed = await Subfeed.create(lab)
        await feed.append("A", *range(10))
        await push_feed(lab, feed.feed)
        keeper, pusher = lab["K"].keepers.keeper, lab["A"].keepers.pusher
        await lab.call("K", "feed.delete", feed=feed.feed)
        keeper._next_look = 0.0
        await keeper.sweep()
        assert not any(lab["K"].feed_reader.followed().values())
        assert (held(lab, "K", feed.feed), await kept_at(lab, "K")) == (0, [])
        (listed,) = (await lab.call("A", "keep.list"))["elsewhere"]
        assert listed["confirmed"] is False
        second = Subfeed(lab, feed.feed, "second")
        await second.append("A", 2, 3)
        await lab["A"].feeds.settle()
        pusher._next_look = 0.0
        await pusher.push_new_subfeeds()
        assert (held(lab, "K", feed.feed), await kept_at(lab, "K")) == (0, [])
        assert await push_feed(lab, feed.feed) == 2
        assert held(lab, "K", feed.feed) == 12


async def test_a_feed_that_grows_while_it_is_pushed_counts_as_it_is() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K", limit=20_000)
        pusher = lab["A"].keepers.pusher
        feed, large = await Subfeed.create(lab), await Subfeed.create(lab, name="large")
        for each in (feed, large):
            await each.append("A", "x")
        await lab["A"].feeds.settle()
        things = [await pusher.feed(each.feed, "") for each in (feed, large)]
        await feed.append("A", "x" * 8_000)
        await large.append("A", "x" * 16_000)
        await lab["A"].feeds.settle()
        (pushed,) = await pusher.push(things[0], Wish(), lambda *_: None)
        assert pushed.keeper == lab.id("K")
        (row,) = lab["K"].state.all_kept()
        assert (row.size, row.whole) == (lab["A"].feed_store.content_bytes(feed.feed), True)
        with pytest.raises(KeepRefused, match="20000 bytes"):
            await pusher.push(things[1], Wish(), lambda *_: None)
        assert await kept_at(lab, "K") == [feed.feed.hex()]
