"""Announcement logs of any size get from one node to another, and nobody's link suffers by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from kachery_p2p.node.gossip.exchange import Exchange
from kachery_p2p.node.gossip.peer import Peer
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import AccessDenied, Busy, KacheryError, LinkClosed
from kachery_p2p.protocol.gossip.announcements import PROVIDE, Batch, make_batch, pack_entries
from kachery_p2p.protocol.gossip.messages import GOSSIP_BATCH, GOSSIP_PULL, Heard, OriginState, Pull
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.limits import (
    GOSSIP_HEARD_AFTER,
    GOSSIP_PUSHES,
    MAX_CONTROL_QUEUE,
    MAX_LOG_BATCHES,
    MAX_PULLS,
    PULL_BODY,
    PULL_CREDIT,
)
from tests.node.harness import Lab, laboratory, until

MEMBER = NodeKey(b"m" * 32)
"""A member that does not run; whoever has its batches can pass them on."""


def single(channel: bytes, number: int, *, origin: NodeKey = MEMBER) -> Batch:
    entries = pack_entries([(PROVIDE, number.to_bytes(16, "big"))])
    return make_batch(origin, channel, 1, number, entries)


@asynccontextmanager
async def two_proxies(count: int) -> AsyncIterator[tuple[Lab, bytes]]:
    """P and Q; Q knows a log of ``count`` batches, of which P has not heard."""
    async with laboratory("A", "Q", listening=("Q",)) as lab:
        channel = lab.channels["lab"]
        await lab.call(
            "A", "channel.add-node", channel="lab", node=MEMBER.node_id, label="M", roles="all"
        )
        await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("Q"), roles="all,proxy")
        text = await lab.export("A", "lab")
        for name in "PQ":
            await lab.call(name, "channel.join", document=text, roles="all,proxy")
        await until(lambda: lab["P"].network.proxies_on(channel), "P takes Q for a proxy")
        await until(lambda: lab["Q"].network.proxies_on(channel), "Q takes P for a proxy")
        for number in range(1, count + 1):
            lab["Q"].availability.index.apply(single(channel, number), checked=True)
        yield lab, channel


def known(lab: Lab, name: str, channel: bytes) -> tuple[int, int] | None:
    return lab[name].availability.index.position(channel, MEMBER.public)


async def knows(lab: Lab, name: str, channel: bytes, count: int) -> None:
    """Wait until a proxy knows so many batches, as long as it gets on."""

    def more(before: tuple[int, int] | None) -> bool:
        return known(lab, name, channel) != before

    while (position := known(lab, name, channel)) != (1, count):
        await until(partial(more, position), f"{name} knows more")


def between(lab: Lab, channel: bytes) -> Link:
    (link,) = lab["Q"].network.links_to(lab.id("P"), channel)
    return link


async def test_proxies_that_are_more_batches_apart_than_a_link_queues_get_in_step() -> None:
    """The link died each time, and a socket buffer's worth got through."""
    count = MAX_CONTROL_QUEUE + 800
    assert count < MAX_LOG_BATCHES
    async with two_proxies(count) as (lab, channel):
        link = between(lab, channel)
        lab["Q"].availability.exchange._greet(link, channel)
        await knows(lab, "P", channel, count)
        assert link.closed_by is None


async def test_a_pull_that_was_cut_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count, taken, cuts = 3_000, 0, 0
    async with two_proxies(count) as (lab, channel):
        take = Exchange._take

        def counting(self: Exchange, batch: Batch, peer: Peer | None, **more: Any) -> bool:
            nonlocal taken, cuts
            if batch.origin == MEMBER.public and self is lab["P"].availability.exchange:
                taken += 1
                if taken % 800 == 0 and peer is not None:
                    cuts += 1
                    peer.link.close(LinkClosed(peer="Q", reason="a cut"))
            return take(self, batch, peer, **more)

        pulls = lab["P"].availability.exchange.pulls
        monkeypatch.setattr(Exchange, "_take", counting)
        monkeypatch.setattr(
            pulls, "_take", lambda *a, **b: lab["P"].availability.exchange._take(*a, **b)
        )
        lab["Q"].availability.exchange._greet(between(lab, channel), channel)
        await knows(lab, "P", channel, count)
        assert cuts >= 3
        # What was in the frame that was cut, and in those under way, comes twice.
        assert taken <= count + cuts * (PULL_CREDIT + PULL_BODY) // 160


async def test_one_who_does_not_say_that_it_heard_is_pushed_a_few_batches_and_no_more() -> None:
    async with two_proxies(0) as (lab, channel):
        heard: list[Batch] = []
        network, exchange = lab["Q"].network, lab["P"].availability.exchange

        def hear(link: Link, batch: Batch) -> None:
            if batch.origin == MEMBER.public:
                heard.append(batch)

        network.on_note_of(GOSSIP_BATCH, Batch, hear)
        (link,) = lab["P"].network.links_to(lab.id("Q"), channel)
        peer = exchange.peer(link, channel)
        before = peer.pushed
        for number in range(1, 200):
            exchange._take(single(channel, number), None)
        assert peer.untold
        await link.request("channel.online", {"channel": channel})  # behind the notes
        assert len(heard) <= GOSSIP_PUSHES - before
        exchange._on_heard(link, Heard(channel, len(heard) + before))
        await until(lambda: known(lab, "Q", channel) == (1, 199), "Q pulled the rest")


async def test_news_reach_a_proxy_although_few_of_them_were_pushed_before_it_pulled() -> None:
    """Fewer batches are under way than are told of: nobody will say that they were heard."""
    async with two_proxies(0) as (lab, channel):
        exchange = lab["P"].availability.exchange
        (link,) = lab["P"].network.links_to(lab.id("Q"), channel)
        peer, number = exchange.peer(link, channel), 0
        while not 0 < peer.pushed < GOSSIP_HEARD_AFTER:
            number += 1
            exchange._take(single(channel, number), None)
            await link.request("channel.online", {"channel": channel})  # behind what was heard
        peer.serving += 1  # as if Q were pulling
        for _ in range(3):
            number += 1
            exchange._take(single(channel, number), None)
        assert peer.untold
        peer.serving -= 1
        exchange._tell(peer)
        await until(lambda: known(lab, "Q", channel) == (1, number), "Q knows all")


async def test_a_leaf_is_not_given_the_logs_of_others_and_a_stranger_to_the_channel_nothing() -> (
    None
):
    async with laboratory("A", "B") as lab:
        channel = lab.channels["lab"]
        await lab.store("A", b"something")
        (link,) = lab["B"].network.links_to(lab.id("P"), channel)
        asked = Pull(channel, [OriginState(lab["A"].context.key.public, -1, 0)])
        stream = link.open(GOSSIP_PULL, codec.plain(asked))
        with pytest.raises(AccessDenied):
            await stream.receive()


async def test_a_proxy_that_opens_pulls_without_end_is_told_busy() -> None:
    async with two_proxies(300) as (lab, channel):
        (link,) = lab["P"].network.links_to(lab.id("Q"), channel)
        asked = codec.plain(Pull(channel, [OriginState(MEMBER.public, -1, 0)]))
        streams = [link.open(GOSSIP_PULL, asked, credit=0) for _ in range(3 * MAX_PULLS)]
        refused = []
        for stream in streams[2 * MAX_PULLS :]:
            with pytest.raises(Busy):
                await stream.receive()
            refused.append(stream)
        assert len(refused) == MAX_PULLS
        for stream in streams:
            stream.end()


async def test_who_claims_more_than_it_has_or_sends_what_was_not_asked_for_costs_a_pause() -> None:
    async with two_proxies(0) as (lab, channel):
        served = 0

        async def nonsense(link: Link, stream: Any, pull: Pull) -> None:
            nonlocal served
            served += 1
            batch = single(channel, 1)
            while True:
                await stream.send(None, codec.pack([codec.plain(batch)]))

        lab["Q"].network.on_stream_of(GOSSIP_PULL, Pull, nonsense)
        exchange = lab["P"].availability.exchange
        (link,) = lab["P"].network.links_to(lab.id("Q"), channel)
        peer = exchange.peer(link, channel)
        exchange._hear_of(peer, MEMBER.public, (7, 1 << 40))
        exchange.pulls.begin(peer)
        await until(lambda: known(lab, "P", channel) == (1, 1), "the batch was good")
        before = served
        await until(lambda: served > before, "asked again after a pause")
        assert link.closed_by is None


async def test_what_is_not_on_disk_is_neither_sent_nor_in_the_log() -> None:
    """A crash after it was heard would make the node sign another entry under its number."""
    async with laboratory("A", "B") as lab:
        channel, announcer = lab.channels["lab"], lab["A"].announcer
        await lab.announced("A")
        own = announcer.log(channel)
        assert own is not None
        head, state = own.head, lab["A"].state
        append, full = state.append_announcements, True

        def failing(*arguments: Any) -> None:
            if full:
                raise KacheryError(reason="no space left")
            append(*arguments)

        state.append_announcements = failing  # type: ignore[method-assign]
        sha1, _ = await lab.store("A", b"when the disk was full", tell=None)
        await until(lambda: lab["A"].context.warnings, "the user is warned")
        assert own.head == head
        full = False
        await lab.announced("A")
        assert own.head == head + 1
        await asyncio.wait_for(lab.load("B", sha1), 10)
