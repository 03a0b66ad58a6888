"""What is done when a link falls silent: another one takes its place, and what was under way on it is
asked for again there.

It takes minutes until TCP says that an address has changed or that a computer is gone, and what is sent
meanwhile waits longer and longer to be sent again, also when the path is long there again. A new
connection finds out in a round trip. So beside a doubtful link (:mod:`.heartbeat`) a new one is made,
over any route there is; when its peer has greeted on it and the old one is still silent, that ends.

Who dialled does that. Who was dialled does it for a circuit, and else only ends a link that is silent
if its peer has come again; so a proxy, which dials nobody, lets go of what a member's old address left.

Invariants: one attempt at a time for each link; each has a deadline, and they end when the link does.
A link that is not silent is never ended here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import KacheryError, LinkClosed
from kachery_p2p.protocol.limits import RECONNECT_FIRST, REPLACE_FIRST, REPLACE_MOST

from .reach import Reach


class Replacing:
    """``kept``: whether somebody else sees to a link that has ended, such as one to a bootstrap."""

    def __init__(self, network: Network, reach: Reach) -> None:
        self._network = network
        self._reach = reach
        network.on_shared.append(self._on_shared)

    def _on_shared(self, link: Link, channel: bytes) -> None:
        others = [each for each in self._network.links_to(link.peer, channel) if each is not link]
        for each in others:
            each.heart.doubt()  # it may be what its peer has left behind
        if not self._reach.is_kept(link) and self._network.shared(link) == {channel}:
            self._network.spawn(self._watch(link, channel), name="watch a link")

    async def _watch(self, link: Link, channel: bytes) -> None:
        while True:
            await link.heart.trouble.wait()
            if link.closed_by is not None or self._reach.is_kept(link):
                return
            await self._replace(link, channel)
            await asyncio.sleep(RECONNECT_FIRST)

    async def _replace(self, link: Link, channel: bytes) -> None:
        tries = Tries(self._network.context.random)
        since = asyncio.get_running_loop().time()
        while link.closed_by is None and link.heart.is_doubtful:
            for other in self._network.links_to(link.peer, channel):
                other.doubt()
            if self._makes(link) and await self._made(link, channel, tries):
                give_up(link)
            await asyncio.sleep(tries.pause())
            if self._lives(link, channel, since):
                give_up(link)

    def _lives(self, link: Link, channel: bytes, since: float) -> bool:
        """Whether the same peer has been heard on another link, since this one is silent."""
        return any(
            other is not link and other.heard_at > since
            for other in self._network.links_to(link.peer, channel)
        )

    def _makes(self, link: Link) -> bool:
        """Whether a new link is made here, and not at the other end or when somebody needs one."""
        return (link.initiator or link.via is not None) and not link.idle_seconds

    async def _made(self, link: Link, channel: bytes, tries: Tries) -> bool:
        urls = link.hello.urls if link.hello is not None else ()
        if not urls and all(x.heart.is_doubtful for x in self._network.proxies_on(channel)):
            return False  # whatever carried it is being replaced itself
        try:
            async with asyncio.timeout(tries.seconds()):
                await self._network.greeted(await self._reach.anew(link.peer, channel, urls=urls))
        except (KacheryError, TimeoutError):
            return False
        return True


class Tries:
    """How long each of several attempts to make a link may take, and the pauses between them."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._seconds = REPLACE_FIRST / 1.5
        self._backoff = Backoff(RECONNECT_FIRST, REPLACE_FIRST, random)

    def seconds(self) -> float:
        self._seconds = min(REPLACE_MOST, 1.5 * self._seconds)
        return self._seconds

    def pause(self) -> float:
        return self._backoff.next()


def give_up(link: Link) -> None:
    """End a link that is silent, as others have taken its place."""
    if link.closed_by is None and link.heart.is_doubtful:
        reason = "it fell silent, and a newer link takes its place"
        link.close(LinkClosed(peer=link.peer[:8], reason=reason), at_once=True)
