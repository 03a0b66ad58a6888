"""Who is online: those that this node is linked to, and those that its proxies are.

A proxy tells any member of a channel which other members are linked to it. A node asks when somebody
looks at its status, and not again for a moment.

Non-goals: telling that somebody has come or gone, for which there are watches of content
(:mod:`.gossip.watches`); deciding whom to ask for content, which is :mod:`.gossip.lookup`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.channels.messages import CHANNEL_ONLINE, ChannelQuery, Online
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import MAX_ONLINE, PRESENCE_ASK_SECONDS, PRESENCE_SECONDS


class Presence:
    def __init__(self, network: Network) -> None:
        self._network = network
        self._told: dict[bytes, frozenset[str]] = {}
        """By channel: who is linked to its proxies, as of the last time that they were asked."""
        self._asked = -PRESENCE_SECONDS
        self._asking: asyncio.Task[None] | None = None
        network.on_request_of(CHANNEL_ONLINE, ChannelQuery, self._tell)

    def online(self, channel: bytes) -> frozenset[str]:
        """The ids of the members that are online, as far as this node knows; without itself."""
        linked = {link.peer for link in self._network.links_on(channel)}
        known = linked | self._told.get(channel, frozenset())
        return frozenset(known - {self._network.context.node_id})

    async def refresh(self) -> None:
        """Ask the proxies again, if it is time. Takes no longer than PRESENCE_ASK_SECONDS."""
        now = asyncio.get_running_loop().time()
        if self._asking is None and now - self._asked >= PRESENCE_SECONDS:
            self._asking = self._network.spawn(self._ask_all(), name="who is online")
            self._asking.add_done_callback(self._on_asked)
        if self._asking is not None:
            await asyncio.wait([self._asking])

    def _on_asked(self, asking: asyncio.Task[None]) -> None:
        self._asking = None
        self._asked = asyncio.get_running_loop().time()

    async def _ask_all(self) -> None:
        channels = list(self._network.book)
        answers = await asyncio.gather(*map(self._ask_proxies, channels))
        self._told = dict(zip(channels, answers, strict=True))

    async def _ask_proxies(self, channel: bytes) -> frozenset[str]:
        proxies = self._network.proxies_on(channel)
        answers = await asyncio.gather(*(self._ask(link, channel) for link in proxies))
        return frozenset().union(*answers)

    async def _ask(self, link: Link, channel: bytes) -> Iterable[str]:
        params = codec.plain(ChannelQuery(channel))
        try:
            answer = await link.request(CHANNEL_ONLINE, params, seconds=PRESENCE_ASK_SECONDS)
            nodes = codec.convert(Online, answer).nodes
        except KacheryError:  # it is slow, or older than this question: then it is not known
            return ()
        members = (node.hex() for node in nodes)
        return [node for node in members if self._network.is_member(channel, node)]

    async def _tell(self, link: Link, query: ChannelQuery) -> Any:
        self._network.require_shared(link, query.channel)
        self._network.require_proxy(query.channel)
        there = {each.peer for each in self._network.links_on(query.channel)} - {link.peer}
        return codec.plain(Online([bytes.fromhex(node) for node in sorted(there)[:MAX_ONLINE]]))
