"""Holders of feeds that say nothing, or keep back what they say that they have.

They cost a reader a moment, and then it reads from another; if there is none, it hears so.
"""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.node.feeds import fetch as fetch_module
from kachery_p2p.node.feeds import follower as follower_module
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import NotFound, ProtocolViolation, Unreachable
from kachery_p2p.protocol.feeds.feed import sign_head
from kachery_p2p.protocol.links.frames import SEALED_TAIL, Data, encode_header, join_headers
from kachery_p2p.protocol.links.noise import nonce
from tests.node.feeds.hostile_holder import Say, Trap, everything, news, part, runs_of, send, trap
from tests.node.harness import until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is silence after a moment."""
    for module in (follower_module, fetch_module):
        monkeypatch.setattr(module, "FEED_SILENCE_SECONDS", 0.7)


async def say_nothing(it: Trap, link: Link, stream: Stream) -> None:
    pass


async def go_on(it: Trap, link: Link, stream: Stream) -> None:
    """Say again and again that there are messages."""
    while True:
        await send(stream, news(it, it.served.head))
        await asyncio.sleep(0.05)


async def end_at_once(it: Trap, link: Link, stream: Stream) -> None:
    stream.end()


@pytest.mark.parametrize("say", [say_nothing, end_at_once])
async def test_a_holder_that_says_nothing_is_given_up_for_another(say: Say) -> None:
    async with trap(owner_there=True) as it:
        it.answer(say)
        assert await everything(it.feed, "B", it.total) == list(range(it.total))
        assert it.streams
        await it.truth(banned=False)


@pytest.mark.parametrize("held", [0, 50])
async def test_who_is_silent_does_not_keep_the_places_of_those_who_are_not(held: int) -> None:
    """As many silent ones as are followed at once, and all of them asked first."""
    async with trap("C", "D", held=held) as it:
        it.answer(say_nothing, "H", "C", "D")
        for name in ("C", "D"):
            await it.lab["B"].reach.to(it.lab.id(name), it.lab.channels["lab"])
        await it.restart("A")
        assert await everything(it.feed, "B", it.total) == list(range(it.total))
        assert it.streams >= 3


@pytest.mark.parametrize("say", [say_nothing, end_at_once])
async def test_a_read_that_only_a_silent_holder_could_answer_ends(say: Say) -> None:
    async with trap() as it:
        it.answer(say)
        error = await it.feed.error("B", wait=1.0)
        assert isinstance(error, Unreachable | NotFound), error
        await it.unharmed()
        await it.truth(banned=False)


@pytest.mark.parametrize("say", [say_nothing, end_at_once])
async def test_the_past_is_read_from_another_if_a_holder_says_nothing(say: Say) -> None:
    async with trap("C") as it:
        assert await it.feed.read("B", 90) == list(range(90, 100))
        await until(lambda: it.follows("C") and it.follows("H"))
        it.answer(say)
        for _ in range(2):
            assert (await it.feed.answer("B", 0, most=10))["start"] == 0
            assert (await it.feed.read("B"))[:90] == list(range(90))
        it.answer(say, "C")
        error = await it.feed.error("B")
        assert isinstance(error, Unreachable | NotFound), error


async def test_a_message_of_a_gigabyte_that_is_begun_costs_the_link() -> None:
    async with trap(owner_there=True) as it:
        links: list[Link] = []

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            links.append(link)
            meta = codec.plain(part(it.served, runs=runs_of(it.served, 1)))
            header = join_headers([encode_header(Data(stream.number, meta, SEALED_TAIL, 1 << 30))])
            seal = link.session.seal()
            box = seal.aead.encrypt(nonce(2 * seal.number), header, None)
            await link.transport.send(len(box).to_bytes(4, "big") + box + bytes(1_000))

        it.answer(say)
        assert await everything(it.feed, "B", it.total) == list(range(it.total))
        await until(lambda: any(isinstance(each.closed_by, ProtocolViolation) for each in links))
        await it.truth(banned=False)


@pytest.mark.parametrize("held", [0, 50])
async def test_a_head_of_a_million_messages_that_never_come(held: int) -> None:
    """The owner signed that head, so it is no forgery; whoever has it keeps the messages back."""
    async with trap(held=held) as it:
        head = sign_head(it.key, it.feed.where[1], 1_000_000, b"r" * 32, 2_000)

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, news(it, head))

        it.answer(say)
        if held:
            assert await it.feed.next("B", held, wait=0.1) == []
        else:
            error = await it.feed.error("B", wait=0.1)
            assert isinstance(error, Unreachable), error
            assert "H" in str(error)
        await it.unharmed()


async def test_messages_that_one_holder_keeps_back_come_from_another() -> None:
    async with trap("C") as it:

        async def say(it: Trap, link: Link, stream: Stream) -> None:
            await send(stream, news(it, it.served.head))

        it.answer(say)
        assert await everything(it.feed, "B", it.total) == list(range(it.total))
        await it.truth(banned=False)


async def test_the_past_is_not_waited_for_from_who_only_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch_module, "STALL_SECONDS", 0.7)
    async with trap("C") as it:
        assert await it.feed.read("B", 90) == list(range(90, 100))
        await until(lambda: it.follows("C") and it.follows("H"))
        it.answer(go_on)
        assert (await it.feed.read("B"))[:90] == list(range(90))
        it.answer(go_on, "C")
        error = await it.feed.error("B")
        assert isinstance(error, Unreachable), error
