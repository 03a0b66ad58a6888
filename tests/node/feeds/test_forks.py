"""Two histories of one feed: told apart, said to all, and decided by the owner."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kachery_p2p.protocol.errors import FeedBehind, FeedForked, FeedReadOnly, KacheryError
from kachery_p2p.protocol.feeds.feed import sign_head
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory, patience, until


def copy_state(lab_root: Path, name: str, to: Path) -> None:
    shutil.copytree(lab_root / name / "state", to)


async def restore(lab: Lab, name: str, backup: Path) -> None:
    root = lab.root / name / "state"
    shutil.rmtree(root)
    shutil.copytree(backup, root)


async def test_an_old_backup_takes_back_what_it_lacks_before_it_signs(tmp_path: Path) -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1)
        await lab.stop("A")
        copy_state(lab.root, "A", tmp_path / "backup")
        await lab.restart("A")
        await feed.append("A", 2, 3)
        assert await feed.read("B") == [0, 1, 2, 3]
        await lab.announced("B")
        await lab.stop("A")
        await restore(lab, "A", tmp_path / "backup")
        await lab.restart("A")
        await lab.linked("A", "lab")
        assert await feed.append("A", 4) == 4
        assert await feed.read("A") == [0, 1, 2, 3, 4]
        assert await feed.next("B", 4) == [4]


async def test_a_head_that_is_ahead_of_ones_own_log_stops_appends_at_once() -> None:
    """Also those that would be acknowledged before they are committed."""
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0)
        await feed.append("A", 1)
        key = lab["A"].feeds.store.key(feed.feed)
        assert key is not None
        ahead = sign_head(key, feed.where[1], 5, b"r" * 32, 1)
        await lab["A"].feeds.note_head(ahead, "a test")
        with pytest.raises(FeedBehind):
            await feed.append("A", 2)
        assert await feed.read("A") == [0, 1]
        assert not any("acknowledged" in text for text in warnings(lab, "A"))


@asynccontextmanager
async def forked(tmp_path: Path) -> AsyncIterator[tuple[Lab, Subfeed]]:
    """A, whose backup was restored, holds [0, 1, "another history"], and so does C; B holds the longer
    history. B knows of the fork."""
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.append("A", 0, 1)
        await lab.announced("A")
        await lab.stop("A")
        copy_state(lab.root, "A", tmp_path / "backup")
        await lab.restart("A")
        await feed.append("A", "one history", "longer")
        assert await feed.read("B") == [0, 1, "one history", "longer"]
        # The backup signs while nobody is there who could say that it is one.
        await lab.stop("A")
        await lab.stop("B")
        await restore(lab, "A", tmp_path / "backup")
        await lab.restart("A")
        await lab.linked("A", "lab")
        await feed.append("A", "another history")
        assert await feed.read("C") == [0, 1, "another history"]
        await lab.restart("B")
        await lab.linked("B", "lab")
        error = await feed.error("B", 4, wait=5.0)
        assert isinstance(error, FeedForked)
        yield lab, feed


def fork_at(lab: Lab, node: str, feed: Subfeed) -> Any:
    info = lab[node].feeds.store.info(*feed.where)
    return None if info is None else info.fork


def warnings(lab: Lab, node: str) -> list[str]:
    return [text for _, text in lab[node].context.warnings]


async def read_in_the_end(feed: Subfeed, node: str, wanted: list[Any]) -> None:
    """Somebody reads until it is there: what was decided comes by itself, and soon."""
    found: Any = None
    async with asyncio.timeout(patience()):
        while found != wanted:
            try:
                found = await feed.read(node)
            except KacheryError as error:
                found = error
            await asyncio.sleep(0.02)


async def test_two_histories_are_proven_kept_and_said_to_readers(tmp_path: Path) -> None:
    async with forked(tmp_path) as (lab, feed):
        shown = await lab.call("B", "feed.show", feed=feed.feed, subfeed=feed.where[1], timeout=1.0)
        assert {shown["fork"]["first"]["size"], shown["fork"]["second"]["size"]} == {3, 4}
        assert shown["decision"] is None
        # It reaches the others, the owner included, which signs nothing more.
        await until(lambda: fork_at(lab, "C", feed) is not None)
        info = await lab["C"].feeds.info(feed.where)
        assert info is not None
        assert info.size == 3


async def test_what_the_owner_decides_reaches_everybody_and_the_feed_goes_on(
    tmp_path: Path,
) -> None:
    async with forked(tmp_path) as (lab, feed):
        await until(lambda: fork_at(lab, "C", feed) is not None)
        log = {"feed": feed.feed, "subfeed": feed.where[1]}
        for reader in ("B", "C"):
            with pytest.raises(FeedReadOnly):
                await lab.call(reader, "feed.resolve", **log)
        assert await lab.call("A", "feed.resolve", **log) == {"resolved": True}
        assert await lab.call("A", "feed.resolve", **log) == {"resolved": False}
        history = [0, 1, "another history"]
        await read_in_the_end(feed, "B", history)
        assert any("4 messages" in text for text in warnings(lab, "B")), "who read them can know"
        assert not any("messages of a subfeed" in text for text in warnings(lab, "C"))
        await feed.append("A", "after")
        history.append("after")
        await read_in_the_end(feed, "B", history)
        await read_in_the_end(feed, "C", history)
        shown = await lab.call("B", "feed.show", timeout=1.0, **log)
        assert (shown["fork"], shown["decision"]["size"]) == (None, 3)
        # Nothing that anybody remembers brings the fork back.
        for node in ("A", "B", "C"):
            await lab.restart(node)
        await lab.linked("A", "lab")
        assert await feed.append("A", "later") == 4
        history.append("later")
        for reader in ("B", "C"):
            await read_in_the_end(feed, reader, history)
            waiting = asyncio.create_task(feed.next(reader, 5))
            await asyncio.sleep(0)
        await feed.append("A", "live")
        assert await waiting == ["live"]
        assert all(fork_at(lab, node, feed) is None for node in ("A", "B", "C"))


async def test_who_comes_later_hears_of_the_decision_from_any_holder(tmp_path: Path) -> None:
    async with forked(tmp_path) as (lab, feed):
        with pytest.raises(FeedForked):
            await feed.append("A", "nothing more")
        await lab.call("A", "feed.resolve", feed=feed.feed, subfeed=feed.where[1])
        assert await feed.append("A", "after") == 3
        history = [0, 1, "another history", "after"]
        await read_in_the_end(feed, "C", history)
        await until(lambda: lab["C"].feeds.store.info(*feed.where).decision is not None)
        await lab.stop("A")
        await read_in_the_end(feed, "B", history)
