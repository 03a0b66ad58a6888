"""Members that submit to a feed what they may not, or what makes no sense: the owner refuses it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.protocol.errors import KacheryError, NotAWriter, ProtocolViolation, RemoteError
from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.limits import MAX_FEED_MESSAGE
from tests.node.feeds.lab import Subfeed
from tests.node.harness import laboratory
from tests.patience import patience


async def submit(feed: Subfeed, submission: bytes = b"s" * 16, **changes: Any) -> list[int]:
    """What ``A`` answers to a submission by ``B``, which looks at nothing before it sends."""
    lab = feed.lab
    channel = lab.channels["lab"]
    link = await lab["B"].reach.to(lab.id("A"), channel)
    id_, subfeed = feed.where
    fields: dict[str, Any] = {
        "subfeed": subfeed,
        "name": feed.name,
        "count": 1,
        "body": b'"mine"',
    } | changes
    params = {"channel": channel, "feed": id_, "submission": submission}
    stream = link.open("feed.submit", params | {key: fields[key] for key in ("subfeed", "name")})
    try:
        async with asyncio.timeout(patience(10)):
            await stream.send([fields["count"]], fields["body"])
            item = await stream.receive()
            assert item is not None
            numbers: list[int] = item[0]
            return numbers
    finally:
        stream.end()


async def test_a_submission_without_the_right_to_is_refused_by_the_owner() -> None:
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        with pytest.raises(NotAWriter):
            await submit(feed)
        await feed.grant("A", "C")
        with pytest.raises(NotAWriter):
            await submit(feed)
        await feed.grant("A", "B")
        assert await submit(feed) == [0, 1]
        with pytest.raises(NotAWriter):
            await submit(feed, b"t" * 16, subfeed=subfeed_hash("other"), name="other")
        await feed.grant("A")
        with pytest.raises(NotAWriter):
            await submit(feed, b"t" * 16)
        with pytest.raises(NotAWriter):
            await submit(feed)
        assert await feed.read("A") == ["mine"]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"name": "other"}, RemoteError),
        ({"name": "~" + "0" * 40}, RemoteError),
        ({"name": "~"}, RemoteError),
        ({"name": ""}, RemoteError),
        ({"count": 1_000_000}, ProtocolViolation),
        ({"count": 0}, ProtocolViolation),
        ({"count": -1}, ProtocolViolation),
        ({"count": 2, "body": b"1"}, ProtocolViolation),
        ({"count": 1, "body": b"1\n2"}, ProtocolViolation),
        ({"body": b""}, ProtocolViolation),
        ({"body": None}, ProtocolViolation),
        ({"body": b"{"}, ProtocolViolation),
        ({"body": b"NaN"}, ProtocolViolation),
        ({"body": b'"%b"' % (b"x" * MAX_FEED_MESSAGE)}, ProtocolViolation),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_a_submission_that_makes_no_sense_appends_nothing(
    changes: dict[str, Any], kind: type[KacheryError]
) -> None:
    async with laboratory() as lab:
        feed = await Subfeed.create(lab)
        await feed.grant("A", "B")
        with pytest.raises(kind):
            await submit(feed, **changes)
        assert await feed.read("A") == []
        assert await submit(feed) == [0, 1], "the number of that submission was not used up"
        [log] = (await lab.call("A", "feed.info", feed=feed.feed))["subfeeds"]
        assert (log["name"], log["size"]) == (feed.name, 1)


async def test_a_submission_of_another_is_not_ones_own() -> None:
    """Whoever knows the number of somebody's submission neither sees nor stops it."""
    async with laboratory("A", "B", "C") as lab:
        feed = await Subfeed.create(lab)
        await feed.grant("A", "B", "C")
        assert await feed.submit("C", "first", submission=b"s" * 16) == 0
        assert await submit(feed) == [1, 1]
        assert await feed.read("A") == ["first", "mine"]
