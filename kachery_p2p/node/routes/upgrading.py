"""A direct link beside a relayed one: both ends of a circuit try to reach the other by the addresses
that it has signed.

Who opened the circuit begins at once. The other end does so a moment later, or at once if it says of
itself that nobody can dial it: so a provider behind a router that lets nobody in dials the requester
that has an address, and seldom both dial. If they do, there are two direct links, and the one that is
not used is closed for being idle; none is closed while something flows.

Nothing is moved from one link to another: what is asked next goes over the better one
(:meth:`Network.links_to`), and a transfer asks again each second. The relayed link is there for what is
under way, and in case that the direct one breaks, until it has been idle for long.

Invariants: a member is dialled by one attempt at a time, and at most once in ``UPGRADE_FIRST`` seconds
however many circuits it opens; at the addresses that it has signed, judged as ever
(:mod:`.dialling`); and nothing but its own proof of who it is makes a link of it. So the most that a
hostile member gets out of its circuits is that its addresses are knocked at now and then.

Non-goals: holes in routers that let nobody in at either end; those pairs stay relayed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.limits import (
    MAX_BAD_ROUTES,
    MAX_UPGRADES,
    REVERSE_SECONDS,
    UPGRADE_FIRST,
    UPGRADE_MOST,
)

from .reach import Reach


class Upgrading:
    def __init__(self, network: Network, reach: Reach) -> None:
        self._network = network
        self._reach = reach
        self._trying: dict[str, asyncio.Task[None]] = {}
        """By member."""
        self._tried: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By member, the last one last: when it was dialled, and seconds until it may be again."""
        self._places = asyncio.Semaphore(MAX_UPGRADES)
        network.on_shared.append(self._on_shared)

    def _on_shared(self, link: Link, channel: bytes) -> None:
        if link.via is not None and link.peer not in self._trying and self._urls(link):
            task = self._network.spawn(self._try(link, channel), name="upgrade")
            self._trying[link.peer] = task
            task.add_done_callback(lambda _: self._trying.pop(link.peer, None))

    def neighbour(self, node: str) -> None:
        """A member has been found in the local network: a circuit to it can be left now."""
        for link in list(self._network.links):
            if link.peer == node and link.closed_by is None:
                self._tried.pop(node, None)
                for channel in sorted(self._network.shared(link)):
                    self._on_shared(link, channel)

    def _urls(self, link: Link) -> list[str]:
        said = [] if link.hello is None else link.hello.urls
        return [*self._reach.neighbours(link.peer), *said]

    async def _try(self, relayed: Link, channel: bytes) -> None:
        """As long as the circuit lasts: see to it that there is a direct link beside it."""
        loop = asyncio.get_running_loop()
        node = relayed.peer
        at, pause = self._tried.get(node, (0.0, 0.0))
        begin = at + pause if pause else loop.time()
        if not relayed.initiator and self._network.context.urls:
            begin = max(begin, loop.time() + REVERSE_SECONDS)
        while not await _over(relayed, begin - loop.time()):
            straight = self._direct(node, channel)
            if straight is None:
                async with self._places:
                    pause = min(UPGRADE_MOST, max(UPGRADE_FIRST, 2 * pause))
                    self._remember(node, loop.time(), pause)
                    straight = await self._reach.direct(node, channel, self._urls(relayed))
            if straight is not None:
                pause = 0.0
                await _either(straight, relayed)
            begin = loop.time() + max(pause, UPGRADE_FIRST)

    def _direct(self, node: str, channel: bytes) -> Link | None:
        found = (link for link in self._network.links_to(node, channel) if link.via is None)
        return next(found, None)

    def _remember(self, node: str, now: float, pause: float) -> None:
        self._tried[node] = now, pause
        self._tried.move_to_end(node)
        while len(self._tried) > MAX_BAD_ROUTES:
            self._tried.popitem(last=False)


async def _over(link: Link, seconds: float) -> bool:
    """Wait so long; whether the link has ended meanwhile."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await link.closed.wait()
    except TimeoutError:
        return False
    return True


async def _either(*links: Link) -> None:
    """Wait until one of them has ended."""
    ends = [asyncio.ensure_future(link.closed.wait()) for link in links]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in ends:
            each.cancel()
