"""What a link serves ends with it, a little at a time."""

from __future__ import annotations

import asyncio
import itertools

from kachery_p2p.node.links.serving import _ENDED_AT_ONCE
from kachery_p2p.protocol.links.frames import Open
from tests.node.harness import laboratory, until
from tests.node.links.raw import rogue

STREAMS = 200


async def test_a_member_that_leaves_hundreds_of_exchanges_behind_does_not_hold_up_others() -> None:
    """All of them ended in one turn of the loop, in which nobody else was heard."""
    async with laboratory("A", "C", listening=("A",)) as lab:
        links = lab["A"].network.links
        before = set(links)
        async with rogue(lab["A"].listening, lab["C"].context.key) as peer:
            peer.channel = lab.channels["lab"]
            await peer.hello(lab["C"].context.book)
            await until(lambda: set(links) - before, "the link")
            (link,) = set(links) - before
            for number in range(1, 2 * STREAMS, 2):
                params = {"channel": peer.channel}
                await peer.send(Open(number, "channel.document", params, 0))  # that is, no credit
            await until(lambda: len(link._serving) == STREAMS, "all is served")
            await asyncio.sleep(0.1)  # until each waits for credit
        sizes = [STREAMS]
        while sizes[-1]:
            await asyncio.sleep(0)
            sizes.append(len(link._serving))
        fewer = [before - after for before, after in itertools.pairwise(sizes)]
        assert max(fewer) <= 2 * _ENDED_AT_ONCE
        await until(lambda: link not in links, "it is forgotten")
        assert lab["A"].network.budgets.exchanges.shares.held(lab.id("C")) == 0
