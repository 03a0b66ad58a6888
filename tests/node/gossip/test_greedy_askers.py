"""Members that ask a proxy for more keys than anybody needs: what it remembers for them is bounded."""

from __future__ import annotations

import asyncio
import os

import pytest

from kachery_p2p.node.gossip import held_lookups, watches
from kachery_p2p.node.gossip.held_lookups import HeldLookups
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.gossip.keys import ContentKind
from kachery_p2p.protocol.gossip.messages import WATCH, Watch, WhoHas
from kachery_p2p.protocol.limits import MAX_HELD_KEYS, MAX_QUERY_KEYS
from tests.node.harness import laboratory, until

CHANNEL, ME = b"c" * 32, b"m" * 32


def question(keys: list[bytes]) -> WhoHas:
    return WhoHas(CHANNEL, "files", keys, secret_version=1, hold=60_000)


def nobody(channel: bytes, kind: ContentKind, secret_version: int) -> list[bytes]:
    return []


def some_keys(count: int = MAX_QUERY_KEYS) -> list[bytes]:
    return [os.urandom(16) for _ in range(count)]


async def test_questions_of_many_keys_are_answered_at_once_when_too_many_wait() -> None:
    """Each of 64 questions of a link was held with all its keys: 100 MB for one peer."""
    held = HeldLookups(nobody)
    waits = [
        asyncio.create_task(held.wait("greedy", ME, question(some_keys()), 60))
        for _ in range(MAX_HELD_KEYS // MAX_QUERY_KEYS)
    ]
    await asyncio.sleep(0)
    assert not await held.wait("greedy", ME, question(some_keys(1)), 60)
    other = asyncio.create_task(held.wait("other", ME, question([b"k" * 16]), 60))
    await asyncio.sleep(0)
    held.appeared(CHANNEL, [b"k" * 16])
    assert await other
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    assert not held._by_key
    assert not held._counts
    assert held._keys == 0


async def test_progress_that_answers_nothing_wakes_nobody() -> None:
    """Each announcement of anybody had a proxy look up all keys of all questions that waited: a hundred
    members that ask and announce left it no time for anything else."""
    left = [b"x" * 32, ME]
    looked: list[int] = []

    def unknown(channel: bytes, kind: ContentKind, secret_version: int) -> list[bytes]:
        looked.append(secret_version)
        return list(left)

    held = HeldLookups(unknown)
    mine = asyncio.create_task(held.wait("me", ME, question(some_keys()), 60))
    other = asyncio.create_task(held.wait("other", b"o" * 32, question(some_keys()), 60))
    await asyncio.sleep(0)
    for _ in range(100):
        held.progressed(CHANNEL)
    await until(lambda: looked == [1], "those who wait are looked at together, once")
    assert not mine.done()
    del left[0]
    held.progressed(CHANNEL)
    assert await mine, "who asks does not wait for itself"
    assert not other.done()
    left.clear()
    held.progressed(CHANNEL)
    assert await other
    assert not held._by_channel
    assert not held._by_key


async def test_who_waits_hears_that_rights_have_changed() -> None:
    held = HeldLookups(lambda channel, kind, secret_version: [b"x" * 32])
    wait = asyncio.create_task(held.wait("me", ME, question(some_keys()), 60))
    await asyncio.sleep(0)
    held.changed(CHANNEL)
    assert await wait


async def test_all_together_hold_no_more_keys_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_lookups, "MAX_HELD_KEYS_OF_ALL", 10)
    held = HeldLookups(nobody)
    waits = [
        asyncio.create_task(held.wait(f"p{n}", ME, question(some_keys(5)), 60)) for n in range(2)
    ]
    await asyncio.sleep(0)
    assert not await held.wait("third", ME, question(some_keys(1)), 60)
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def test_of_too_many_watched_keys_the_oldest_of_who_has_most_are_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hundred members with eight links each could have a proxy watch three million keys."""
    monkeypatch.setattr(watches, "MAX_WATCHED_KEYS_OF_ALL", 600)
    async with laboratory("A", "B") as lab:
        channel = lab.channels["lab"]
        table = lab["P"].availability.watch_list

        def watch(name: str, keys: list[bytes]) -> None:
            [link] = lab[name].network.links_to(lab.id("P"), channel)
            link.note(WATCH, codec.plain(Watch(channel, "files", keys, True)))

        few = some_keys(10)
        watch("B", few)
        await until(lambda: len(table._watchers) == 10)
        for _ in range(3):
            watch("A", last := some_keys())
        await until(lambda: all((channel, key) in table._watchers for key in last))
        assert sum(map(len, table._watched.values())) <= 600
        assert all((channel, key) in table._watchers for key in few)
