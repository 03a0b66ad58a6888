"""Signed messages from before the part of a log that a node holds: proven by who holds them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ForgedFeed, KacheryError, NotFound
from kachery_p2p.protocol.feeds.feed import Head, Run, Slice, feed_uri, sign_head, subfeed_hash
from kachery_p2p.protocol.feeds.messages import FEED_EVIDENCE, FeedEvidence, FeedLeaf
from kachery_p2p.protocol.feeds.signed_message import check_signed_message, signed_messages
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MOST_ASKED_PROOFS
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory


async def signed(feed: Subfeed, node: str, position: int, most: int = 0) -> list[Any]:
    """The messages of one answer, in the form that proves them, checked."""
    answer = await feed.answer(node, position, most=most, proofs=True)
    runs = codec.convert(list[Run], answer["runs"])
    slice = Slice(answer["start"], runs, answer["data"].split(b"\n"))
    heads = codec.convert(list[Head], answer["heads"])
    found = signed_messages(slice, [(heads[at], path) for at, path in answer["proofs"]])
    for each in found:
        check_signed_message(each, feed_uri(feed.feed, feed.name))
    return [each["body"]["message"] for each in found]


async def late(lab: Lab) -> Subfeed:
    """``B`` holds the last ten of two hundred messages."""
    feed = await Subfeed.create(lab)
    await feed.append("A", *range(200))
    assert await feed.read("B", 190) == list(range(190, 200))
    return feed


async def test_they_are_proven_by_who_holds_them() -> None:
    async with laboratory() as lab:
        feed = await late(lab)
        assert await signed(feed, "B", 10) == list(range(10, 10 + MOST_ASKED_PROOFS))
        assert await signed(feed, "B", 187, most=2) == [187, 188]
        assert await signed(feed, "B", 189) == [189]
        assert await signed(feed, "B", 190) == list(range(190, 200)), "these are held"


async def test_the_log_may_grow_meanwhile() -> None:
    async with laboratory() as lab:
        feed = await late(lab)
        grows = True

        async def grow() -> None:
            while grows:
                await feed.append("A", "more")
                await asyncio.sleep(0)

        growing = asyncio.create_task(grow())
        try:
            assert await signed(feed, "B", 0, most=20) == list(range(20))
        finally:
            grows = False
            await growing


async def test_when_nobody_is_there_the_error_says_so() -> None:
    async with laboratory() as lab:
        feed = await late(lab)
        await lab.stop("A")
        with pytest.raises(KacheryError) as caught:
            await signed(feed, "B", 10)
        assert not isinstance(caught.value, ForgedFeed)


def another_leafs_proof(leaf: FeedLeaf, key: NodeKey) -> FeedLeaf:
    return msgspec.structs.replace(leaf, proof=[b"x" * 32, *leaf.proof[1:]])


def no_proof(leaf: FeedLeaf, key: NodeKey) -> FeedLeaf:
    return msgspec.structs.replace(leaf, proof=[])


def a_head_that_nobody_signed(leaf: FeedLeaf, key: NodeKey) -> FeedLeaf:
    return msgspec.structs.replace(leaf, head=msgspec.structs.replace(leaf.head, root=b"r" * 32))


def a_head_of_another_subfeed(leaf: FeedLeaf, key: NodeKey) -> FeedLeaf:
    head = leaf.head
    other = sign_head(key, subfeed_hash("other"), head.size, head.root, head.timestamp)
    return msgspec.structs.replace(leaf, head=other)


@pytest.mark.parametrize(
    "lie",
    [another_leafs_proof, no_proof, a_head_that_nobody_signed, a_head_of_another_subfeed],
    ids=lambda lie: lie.__name__,
)
async def test_a_proof_that_proves_nothing_is_a_forgery(
    lie: Callable[[FeedLeaf, NodeKey], FeedLeaf],
) -> None:
    async with laboratory() as lab:
        feed = await late(lab)
        key = lab["A"].feeds.store.key(feed.feed)
        assert key is not None
        _, tell = lab["A"].network.handlers.requests[FEED_EVIDENCE]

        async def answer(link: Any, params: Any) -> Any:
            leaf = codec.convert(FeedLeaf, await tell(link, params))
            return codec.plain(lie(leaf, key) if params.index == 20 else leaf)

        lab["A"].network.on_request_of(FEED_EVIDENCE, FeedEvidence, answer)
        assert await signed(feed, "B", 0, most=12) == list(range(12))
        with pytest.raises(ForgedFeed):
            await signed(feed, "B", 20, most=12)
        assert await feed.read("B", 5) == list(range(5, 200)), "the messages themselves are true"


async def test_of_a_feed_that_nobody_has_there_are_none() -> None:
    async with laboratory() as lab:
        feed = Subfeed(lab, NodeKey(b"z" * 32).public)
        with pytest.raises(NotFound):
            await signed(feed, "B", 0)
