"""Keepers, and holders who are asked for their copies, that say absurd things or too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kachery_p2p.node.keepers import pusher
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import LastCopy, Stalled
from kachery_p2p.protocol.keepers.messages import KEEP_LIST, KEEP_LOCK, KEEP_PUT, KeepState
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory

from .lab import content, has, offer, push

NAN, INFINITE = float("nan"), float("inf")


def say(lab: Lab, name: str, method: str, answer: Callable[[Any], Any]) -> None:
    """Have a node answer requests of a method so, whatever is asked."""

    async def handle(link: Any, params: Any) -> Any:
        return answer(params)

    kind, _ = lab[name].network.handlers.requests[method]
    lab[name].network.handlers.requests[method] = (kind, handle)


def thing(sha1: bytes, **changes: Any) -> list[Any]:
    fields = {"content": sha1, "label": "x", "size": 1, "count": 1, "since": 1.0, "until": None,
              "whole": True}  # fmt: skip
    return list((fields | changes).values())


@pytest.mark.parametrize(
    "lie",
    [
        {"size": 2**64 - 1},
        {"size": -1},
        {"count": 2**64 - 1},
        {"since": NAN},
        {"since": 1e300},
        {"until": NAN},
        {"until": INFINITE},
        {"until": -1e12},
        {"content": bytes(21)},
    ],
)
async def test_a_keeper_that_tells_absurd_things_keeps_nobody_from_seeing_the_others(
    lie: dict[str, Any],
) -> None:
    async with laboratory("A", "K", "L") as lab:
        await offer(lab, "K")
        await offer(lab, "L")
        sha1, _ = await lab.store("A", content(1_000))
        await push(lab, "A", sha1, to=lab.id("K"))
        say(lab, "L", KEEP_LIST, lambda _: {"kept": [thing(bytes(20), **lie)], "more": False})
        (listed,) = (await lab.call("A", "keep.list"))["elsewhere"]
        assert (listed["content"], listed["confirmed"]) == (sha1, True)


async def test_a_keeper_that_says_to_keep_more_than_it_may_is_not_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pusher, "MAX_KEPT_EACH", 50)

    def page(asked: Any) -> Any:
        first = int.from_bytes(asked.after or bytes(1)) + 1
        things = [thing((first + number).to_bytes(20)) for number in range(20)]
        return {"kept": things, "more": True}

    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        say(lab, "K", KEEP_LIST, page)
        assert (await lab.call("A", "keep.list"))["elsewhere"] == []
        assert lab["A"].state.pushed() == []


async def test_who_says_to_keep_a_feed_that_it_was_never_asked_to_is_told_none_of_its_subfeeds() -> (
    None
):
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        feed = await Subfeed.create(lab)
        await feed.append("A", 1)
        say(lab, "K", KEEP_LIST, lambda _: {"kept": [thing(feed.feed, count=7)], "more": False})
        await lab.call("A", "keep.list")
        heard: list[Any] = []

        async def put(link: Any, stream: Any, params: Any) -> None:
            heard.append(params)

        kind, _ = lab["K"].network.handlers.streams[KEEP_PUT]
        lab["K"].network.handlers.streams[KEEP_PUT] = (kind, put)
        await lab["A"].keepers.pusher.push_new_subfeeds()
        assert heard == []


async def test_the_keepers_word_about_a_feed_counts_if_it_was_asked() -> None:
    async with laboratory("A", "K") as lab:
        await offer(lab, "K")
        feed = await Subfeed.create(lab)
        await feed.append("A", 1)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(lab["A"].state, "push", lambda _: None)  # as if it had been killed
            await lab.call("A", "keep.push", feed=feed.feed.hex())
        (listed,) = (await lab.call("A", "keep.list"))["elsewhere"]
        assert (listed["content"], listed["confirmed"]) == (feed.feed.hex(), True)


@pytest.mark.parametrize("until", [NAN, INFINITE, 1e300, -1e300])
async def test_a_holder_whose_copy_goes_at_an_absurd_time_is_no_copy(until: float) -> None:
    async with laboratory("A", "B", "C") as lab:
        sha1, _ = await lab.store("A", content(1_000))
        for name in "BC":
            await lab.load(name, sha1)
            await lab.announced(name)
        say(lab, "B", KEEP_LOCK, lambda _: {"size": 1_000, "stays": True, "until": until})
        with pytest.raises(LastCopy, match="has only fetched it"):
            await lab.call("A", "delete_file", sha1=sha1)
        assert has(lab["A"], sha1)
        await lab.call("C", "pin", sha1=sha1)
        await lab.call("A", "delete_file", sha1=sha1)


@pytest.mark.parametrize("step", [0, 1])
async def test_a_keeper_that_goes_on_without_end_is_given_up_for_another(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    monkeypatch.setattr(pusher, "KEEP_PROGRESS_SECONDS", 0.3)

    async def go_on(link: Any, stream: Any, params: Any) -> None:
        done = 0
        while True:
            await stream.send(codec.plain(KeepState(done, False, None)))
            done += step
            await asyncio.sleep(0.02)

    async with laboratory("A", "K", "L") as lab:
        kind, _ = lab["K"].network.handlers.streams[KEEP_PUT]
        lab["K"].network.handlers.streams[KEEP_PUT] = (kind, go_on)
        await offer(lab, "K")
        sha1, _ = await lab.store("A", content(3_000_000))
        with pytest.raises(Stalled):
            await push(lab, "A", sha1)
        await offer(lab, "L")
        (kept,) = (await push(lab, "A", sha1))["kept"]
        assert kept["node"] == lab.id("L")
