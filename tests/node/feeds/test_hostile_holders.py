"""Holders, submitters and owners of feeds that break every rule, over real links.

What they send is refused with an error of its own, or read from an honest holder instead. Nothing of
it is kept: afterwards the reader gets exactly the true messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import (
    FeedForked,
    ForgedFeed,
    KacheryError,
    ProtocolViolation,
)
from kachery_p2p.protocol.feeds.decision import sign_decision
from kachery_p2p.protocol.feeds.feed import Run, sign_head, subfeed_hash
from kachery_p2p.protocol.feeds.fork import make_fork
from kachery_p2p.protocol.feeds.messages import FeedLeaf, FeedPart
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    MAX_FEED_MESSAGE,
    MAX_FEED_MESSAGES,
    MAX_RUN,
    MAX_SLICE_RUNS,
)
from tests.node.feeds.hostile_holder import Say, Trap, everything, news, part, runs_of, send, trap
from tests.node.harness import until

# --- what comes is not what was signed ----------------------------------------------------------

Forgery = Callable[[Trap], tuple[FeedPart, list[bytes] | None]]
"""A frame: its meta and its messages."""


def forged_signature(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    head = replace(it.served.head, sig=bytes(64))
    return part(it.served, head=head), it.served.slice.texts


def signed_by_the_holder(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    head = it.served.head
    mine = sign_head(NodeKey(b"h" * 32), head.subfeed, head.size, head.root, head.timestamp)
    return part(it.served, head=replace(mine, feed=head.feed)), it.served.slice.texts


def a_head_that_claims_more(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    head = replace(it.served.head, size=it.total + 1)
    return part(it.served, head=head), it.served.slice.texts


def reordered(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served), it.served.slice.texts[::-1]


def dropped(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    texts = it.served.slice.texts[:10] + it.served.slice.texts[11:]
    return part(it.served, runs=runs_of(it.served, len(texts))), texts


def dropped_at_the_end(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    texts = it.served.slice.texts[:-1]
    return part(it.served, runs=runs_of(it.served, len(texts))), texts


def dropped_at_the_beginning(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    texts = it.served.slice.texts[1:]
    meta = part(it.served, start=it.held + 1, runs=runs_of(it.served, len(texts)))
    return meta, texts


def duplicated(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    texts = it.served.slice.texts[:10] + it.served.slice.texts[9:]
    return part(it.served, runs=runs_of(it.served, len(texts))), texts


def altered(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served), [b"-1", *it.served.slice.texts[1:]]


def at_another_time(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    [run] = it.served.slice.runs
    run = Run(run.count, run.timestamp + 1, run.author)
    return part(it.served, runs=[run]), it.served.slice.texts


def by_another_author(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    [run] = it.served.slice.runs
    run = Run(run.count, run.timestamp, bytes.fromhex(it.lab.id("H")))
    return part(it.served, runs=[run]), it.served.slice.texts


def a_proof_of_something_else(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    half = len(it.served.slice.texts) // 2
    meta = part(it.served, runs=runs_of(it.served, half), right=[b"r" * 32] * 3)
    return meta, it.served.slice.texts[:half]


def more_proof_than_there_can_be(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served, right=[b"r" * 32] * 64), it.served.slice.texts


def a_proof_for_another_subfeed(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    """Its messages and its root are right; that head was signed for another subfeed."""
    head = it.served.head
    other = sign_head(it.key, subfeed_hash("other"), head.size, head.root, head.timestamp)
    return part(it.served, head=other), it.served.slice.texts


def a_proof_for_another_feed(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    head = it.served.head
    other = sign_head(NodeKey(b"h" * 32), head.subfeed, head.size, head.root, head.timestamp)
    return part(it.served, head=other), it.served.slice.texts


def a_head_of_another_subfeed_as_this_ones(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    head = it.served.head
    other = sign_head(it.key, subfeed_hash("other"), head.size, head.root, head.timestamp)
    return part(it.served, head=replace(other, subfeed=head.subfeed)), it.served.slice.texts


# --- what comes is no frame of messages ---------------------------------------------------------


def all_the_messages_there_can_be_and_no_data(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    runs = [Run(MAX_RUN, 1_000, None)] * MAX_SLICE_RUNS
    return part(it.served, runs=runs), None


def all_the_messages_there_can_be_in_an_empty_body(
    it: Trap,
) -> tuple[FeedPart, list[bytes] | None]:
    runs = [Run(MAX_RUN, 1_000, None)] * MAX_SLICE_RUNS
    return part(it.served, runs=runs), [b""]


def a_million_messages_and_no_data(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    runs = [Run(MAX_RUN, 1_000, None)] * (1_000_000 // MAX_RUN)
    return part(it.served, runs=runs), None


def a_run_of_a_million(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served, runs=[Run(1_000_000, 1_000, None)]), it.served.slice.texts


def a_message_over_the_limit(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served, runs=runs_of(it.served, 1)), [b'"%b"' % (b"x" * MAX_FEED_MESSAGE)]


def a_message_that_is_no_json(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return part(it.served), [b"{", *it.served.slice.texts[1:]]


def a_size_beyond_all_bounds(it: Trap) -> tuple[FeedPart, list[bytes] | None]:
    return news(it, replace(it.served.head, size=MAX_FEED_MESSAGES + 1)), None


FORGED = [
    forged_signature, signed_by_the_holder, a_head_that_claims_more, reordered, dropped,
    dropped_at_the_end, duplicated, altered, at_another_time, by_another_author,
    a_proof_of_something_else, more_proof_than_there_can_be,
    a_head_of_another_subfeed_as_this_ones,
]  # fmt: skip
BROKEN = [
    a_proof_for_another_subfeed, a_proof_for_another_feed, dropped_at_the_beginning,
    all_the_messages_there_can_be_and_no_data, all_the_messages_there_can_be_in_an_empty_body,
    a_million_messages_and_no_data, a_run_of_a_million, a_message_over_the_limit,
    a_message_that_is_no_json, a_size_beyond_all_bounds,
]  # fmt: skip
FORGERIES = [(forge, ForgedFeed) for forge in FORGED] + [
    (forge, ProtocolViolation) for forge in BROKEN
]


def saying(forge: Forgery) -> Say:
    async def say(it: Trap, link: Link, stream: Stream) -> None:
        meta, texts = forge(it)
        await send(stream, meta, texts)

    return say


@pytest.mark.parametrize("held", [0, 50])
@pytest.mark.parametrize(
    ("forge", "kind"), FORGERIES, ids=[forge.__name__ for forge, _ in FORGERIES]
)
async def test_what_was_not_signed_is_refused_with_its_error_and_leaves_nothing(
    forge: Forgery, kind: type[KacheryError], held: int
) -> None:
    async with trap(held=held) as it:
        it.answer(saying(forge))
        error = await it.feed.error("B", held, wait=5.0)
        assert type(error) is kind, error
        await it.unharmed()
        await it.truth()


@pytest.mark.parametrize("forge", [*FORGED, *BROKEN], ids=lambda forge: forge.__name__)
async def test_it_is_read_from_the_honest_holder_instead(forge: Forgery) -> None:
    async with trap(owner_there=True) as it:
        it.answer(saying(forge))
        assert await everything(it.feed, "B", it.total) == list(range(it.total))
        await until(lambda: it.streams and not it.follows("H"), "the liar is dropped")
        await it.truth()


# --- what comes is true, and not what was asked for ---------------------------------------------


@pytest.mark.parametrize("what", ["head", "messages"])
async def test_a_rollback_takes_nothing_back(what: str) -> None:
    """An old head, signed by the owner, and the messages that it was signed for."""
    async with trap() as it:
        await it.restart("A")
        await it.feed.append("A", "new")
        whole = [*range(it.total), "new"]
        assert await everything(it.feed, "B", len(whole)) == whole
        await it.lab.announced("B")

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, news(it, it.served.head))
            if what == "messages":
                await send(stream, part(it.served), it.served.slice.texts)

        it.answer(say)
        await it.lab.stop("A")
        await it.lab.restart("B")
        await it.lab.linked("B", "lab")
        if what == "head":
            assert await it.feed.next("B", len(whole), wait=0.5) == []
            assert it.follows("H")
        else:
            error = await it.feed.error("B", len(whole), wait=5.0)
            assert isinstance(error, ProtocolViolation), error
        info = await it.lab["B"].feeds.info(it.feed.where)
        assert info is not None
        assert info.size == len(whole)
        assert await it.feed.next("B", 0) == whole
        await it.restart("A")
        await it.feed.append("A", "newer")
        await until(lambda: it.follows("A"), "B follows A")
        assert await it.feed.next("B", len(whole)) == ["newer"]


async def test_a_mirror_cannot_be_made_to_begin_later_than_was_asked() -> None:
    """All is proven, but the first messages are left out."""
    async with trap() as it:
        late = await it.lab["H"].feeds.serve(
            it.feed.where, 60, None, peaks=True, most_bytes=1 << 20
        )
        assert late is not None

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, part(late), late.slice.texts)

        it.answer(say)
        error = await it.feed.error("B", wait=5.0)
        assert isinstance(error, ProtocolViolation), error
        await it.unharmed()
        await it.truth()


async def test_more_of_the_past_than_was_asked_for_is_refused() -> None:
    async with trap(held=0) as it:
        assert await it.feed.read("B", 90) == list(range(90, 100))

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, part(it.served), it.served.slice.texts)

        it.answer(say)
        with pytest.raises(ProtocolViolation):
            await it.feed.answer("B", 0, most=10)
        await it.truth(banned=False)


# --- two histories ------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 50])
async def test_two_signed_heads_of_one_size_are_a_fork(held: int) -> None:
    async with trap(held=held) as it:
        head = it.served.head
        other = sign_head(it.key, head.subfeed, head.size, b"r" * 32, head.timestamp)

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, part(it.served), it.served.slice.texts)
            await send(stream, news(it, other))

        it.answer(say)
        error = await it.feed.error("B", held, wait=5.0)
        assert isinstance(error, FeedForked), error
        info = await it.lab["B"].feeds.info(it.feed.where)
        assert info is not None
        assert info.fork is not None
        assert {info.fork.first.root, info.fork.second.root} == {head.root, other.root}
        # What was read before stands, and may be read still.
        assert (await it.feed.next("B", 0))[:50] == list(range(50))
        # The owner, too, signs nothing more until it has decided.
        await it.restart("A")
        with pytest.raises(FeedForked):
            await it.feed.append("A", "more")


async def test_a_claim_of_a_fork_without_a_proof_stops_nobody() -> None:
    async with trap(held=50) as it:

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            stream.end(FeedForked(feed=it.feed.feed.hex()))

        it.answer(say)
        error = await it.feed.error("B", 50, wait=5.0)
        assert isinstance(error, ProtocolViolation), error
        await it.unharmed()
        await it.truth()


@pytest.mark.parametrize("lie", ["one head twice", "a wrong proof", "an error", "not a leaf"])
async def test_false_evidence_of_a_fork_is_a_forgery(lie: str) -> None:
    async with trap(held=50) as it:
        it.answer(saying(altered))
        info = await it.lab["B"].feeds.info(it.feed.where)
        assert info is not None
        held = info.head
        assert held is not None

        def evidence(params: Any) -> Any:
            if lie == "an error":
                raise FeedForked(feed=it.feed.feed.hex())
            head = held if lie == "one head twice" else it.served.head
            return {"x": 1} if lie == "not a leaf" else FeedLeaf(head, b"l" * 32, [b"p" * 32] * 7)

        it.prove(evidence)
        error = await it.feed.error("B", 50, wait=5.0)
        assert isinstance(error, ForgedFeed), error
        await it.unharmed()
        await it.truth()


# --- decisions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("lie", ["another key", "another head", "another number", "another feed"])
async def test_nobody_but_the_owner_decides_for_a_history(lie: str) -> None:
    async with trap(held=50) as it:
        head = it.served.head
        other = sign_head(it.key, head.subfeed, head.size, b"r" * 32, head.timestamp)
        key = NodeKey(b"h" * 32) if lie == "another key" else it.key
        subfeed = subfeed_hash("other") if lie == "another feed" else head.subfeed
        true = sign_decision(
            key,
            subfeed,
            size=head.size,
            root=other.root,
            fork=make_fork(head, other),
            now_ms=head.timestamp + 1,
            last=None,
        )
        forged = {
            "another key": replace(true, head=replace(true.head, feed=head.feed)),
            "another head": replace(true, head=head),
            "another number": replace(true, number=7),
            "another feed": true,
        }[lie]

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, replace(news(it, head), decision=forged))

        it.answer(say)
        error = await it.feed.error("B", 50, wait=5.0)
        kind = ProtocolViolation if lie == "another feed" else ForgedFeed
        assert type(error) is kind, error
        await it.unharmed()
        await it.truth()
