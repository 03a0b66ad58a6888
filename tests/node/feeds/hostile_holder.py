"""A member that holds a subfeed and serves what it likes of it, over real links.

It is a whole node, with a member's key and a true copy of the log; only its answers to ``feed.follow``
and ``feed.evidence`` are the test's.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from kachery_p2p.node.feeds.feeds import Served
from kachery_p2p.node.feeds.follower import Follower
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.feeds.feed import Head, Run, pack_texts
from kachery_p2p.protocol.feeds.messages import (
    FEED_EVIDENCE,
    FEED_FOLLOW,
    FeedEvidence,
    FeedFollow,
    FeedPart,
)
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import MAX_SLICE
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory, until

Say = Callable[["Trap", Link, Stream], Awaitable[None]]
"""What the holder does on one stream of ``feed.follow``. The stream stays open afterwards."""


@dataclass
class Trap:
    """``B`` holds the first ``held`` messages of a subfeed of ``A``'s, and wants the rest; ``H`` has
    it all. The messages are the numbers from 0 to ``total``."""

    lab: Lab
    feed: Subfeed
    held: int
    total: int
    served: Served
    """What an honest holder would send to ``B``."""
    key: NodeKey
    """The feed's. No holder but the owner has it."""
    streams: int = 0
    """How many were opened to the hostile holder."""

    @property
    def follower(self) -> Follower | None:
        return self.lab["B"].feed_reader.follower(self.feed.where)

    def follows(self, name: str) -> bool:
        """Whether ``B`` follows a node now, and has heard from it."""
        follower = self.follower
        source = follower.sources.get(self.lab.id(name)) if follower is not None else None
        return source is not None and source.size is not None

    async def restart(self, name: str) -> None:
        await self.lab.restart(name)
        await self.lab.linked(name, "lab")
        await self.lab.announced(name)

    def answer(self, say: Say, *names: str) -> None:
        """From now on ``H``, or these nodes, say this to everybody who follows."""

        async def follow(link: Link, stream: Stream, params: FeedFollow) -> None:
            self.streams += 1
            with contextlib.suppress(KacheryError):
                await say(self, link, stream)
                await stream.receive()  # nothing comes: until it is ended

        for name in names or ("H",):
            self.lab[name].network.on_stream_of(FEED_FOLLOW, FeedFollow, follow)

    def prove(self, evidence: Callable[[FeedEvidence], Any]) -> None:
        """From now on ``H`` gives this evidence."""

        async def answer(link: Link, params: FeedEvidence) -> Any:
            return codec.plain(evidence(params))

        self.lab["H"].network.on_request_of(FEED_EVIDENCE, FeedEvidence, answer)

    async def unharmed(self) -> None:
        """``B`` has what it had, and nothing else."""
        info = await self.lab["B"].feeds.info(self.feed.where)
        assert (0 if info is None else info.size) == self.held
        assert info is None or info.fork is None
        if self.held:
            assert await self.feed.next("B", 0) == list(range(self.held))

    async def truth(self, *, banned: bool = True) -> None:
        """The owner is there again: ``B`` reads all that is true, old and new."""
        if "A" not in self.lab.nodes:
            await self.restart("A")
        await until(lambda: self.follows("A"), "B follows A")
        assert not (banned and self.follows("H"))
        await self.feed.append("A", "new")
        expected = [*range(self.total), "new"]
        assert await everything(self.feed, "B", len(expected)) == expected


async def everything(feed: Subfeed, node: str, count: int) -> list[Any]:
    """The first ``count`` messages, as they come."""
    found: list[Any] = []
    while len(found) < count:
        more = await feed.next(node, len(found), wait=10.0)
        assert more, f"no message {len(found)}"
        found += more
    return found


@contextlib.asynccontextmanager
async def trap(
    *others: str, held: int = 0, total: int = 100, owner_there: bool = False
) -> AsyncIterator[Trap]:
    """``others``: nodes that hold all as ``H`` does. ``owner_there``: ``A`` is online."""
    async with laboratory("A", "B", "H", *others) as lab:
        feed = await Subfeed.create(lab)
        if held:
            await feed.append("A", *range(held))
            assert await feed.read("B") == list(range(held))
            await lab.announced("B")
        await lab.stop("B")
        await feed.append("A", *range(held, total))
        for name in ("H", *others):
            assert await feed.read(name) == list(range(total))
            await lab.announced(name)
        served = await lab["H"].feeds.serve(
            feed.where, held, None, peaks=True, most_bytes=MAX_SLICE
        )
        assert served is not None
        key = lab["A"].feeds.store.key(feed.feed)
        assert key is not None
        if not owner_there:
            await lab.stop("A")
        await lab.restart("B")
        await lab.linked("B", "lab")
        # Who is linked is asked first.
        await lab["B"].reach.to(lab.id("H"), lab.channels["lab"])
        yield Trap(lab, feed, held, total, served, key)


def part(served: Served, **changes: Any) -> FeedPart:
    """The meta of a frame that would carry these messages, but for ``changes``."""
    slice = served.slice
    fields: dict[str, Any] = {
        "owner": False, "base": 0, "start": slice.start, "runs": slice.runs,
        "peaks": served.peaks, "right": served.right, "head": served.head,
    }  # fmt: skip
    return FeedPart(**fields | changes)


def news(trap: Trap, head: Head | None, **changes: Any) -> FeedPart:
    """A frame without messages."""
    return part(trap.served, runs=[], peaks=[], right=[], head=head, **changes)


async def send(stream: Stream, meta: FeedPart, texts: list[bytes] | None = None) -> None:
    await stream.send(codec.plain(meta), None if texts is None else pack_texts(texts))


def runs_of(served: Served, count: int) -> list[Run]:
    """As the true runs, for another number of messages (at most 256)."""
    first = served.slice.runs[0]
    return [Run(count, first.timestamp, first.author)]
