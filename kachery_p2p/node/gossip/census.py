"""Who has told a proxy all that it has, and who has not yet.

A member that is linked to us, and may and wants to provide content of a kind, has told everything if
it said on its newest link how far its log is, we have the log up to there, and the log says that it is
complete, for that kind and under the secret that is asked about
(:mod:`kachery_p2p.protocol.gossip.completeness`).

After its own start a proxy also counts the members that were not back yet, for ``REJOIN_SECONDS``: they
lost it a moment ago, and are about to dial. A member that owes something and says nothing for
``ANNOUNCE_SILENCE_SECONDS`` is *silent*: named, but not waited for.

Non-goals: members that are not linked to us. Through us nobody reaches them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.protocol.gossip.completeness import says_complete
from kachery_p2p.protocol.gossip.index import Index
from kachery_p2p.protocol.gossip.keys import ContentKind, provide_role
from kachery_p2p.protocol.limits import ANNOUNCE_SILENCE_SECONDS, REJOIN_SECONDS

from .announcer import Announcer
from .exchange import Exchange
from .peer import Peer


class Census:
    def __init__(
        self, network: Network, announcer: Announcer, exchange: Exchange, index: Index
    ) -> None:
        self._network = network
        self._book = network.book
        self._announcer = announcer
        self._exchange = exchange
        self._index = index
        self._missing: dict[bytes, set[str]] = {}
        """Providers that have not come back since we started, by channel."""
        self._until = 0.0
        network.on_shared.append(self._on_shared)

    def begin(self) -> None:
        """The node starts, and its channels are loaded: their members are about to come back."""
        self._until = asyncio.get_running_loop().time() + REJOIN_SECONDS
        me = self._network.context.node_id
        for channel in self._book:
            if self._network.is_proxy(channel):
                members = self._book.signed(channel).document.members
                self._missing[channel] = {each.node_id for each in members} - {me}

    def _on_shared(self, link: Link, channel: bytes) -> None:
        if channel in self._missing and link.via is None:
            self._missing[channel].discard(link.peer)

    def incomplete(
        self, channel: bytes, kind: ContentKind, secret_version: int
    ) -> tuple[list[bytes], list[bytes]]:
        """Members that may have content of which we do not know yet: those to wait for, and those that
        are silent."""
        now = asyncio.get_running_loop().time()
        role = provide_role(kind)
        waits: dict[str, bool] = {}
        for link in self._newest_links(channel):
            if role not in self._book.effective(channel, link.peer):
                continue
            peer = self._exchange.peer(link, channel)
            if not self._is_complete(
                peer, kind, secret_version
            ) and not self._network.sayings.switched_off(link, channel, role):
                waits[link.peer] = self._gets_on(peer, now)
        if role in self._network.own_roles(channel) and not self._own_complete(
            channel, kind, secret_version
        ):
            waits[self._network.context.node_id] = True
        if now < self._until:
            for node in sorted(self._missing.get(channel, ())):
                if role in self._book.effective(channel, node):
                    waits.setdefault(node, True)
        owing = [(bytes.fromhex(node), wait) for node, wait in waits.items()]
        return [node for node, wait in owing if wait], [node for node, wait in owing if not wait]

    def _newest_links(self, channel: bytes) -> Iterable[Link]:
        """The newest direct link to each member. An older one may be that of a process that has died,
        which is not known yet: what was said on it need not be so any more."""
        links = self._network.links_on(channel)  # in the order in which they were made
        return {link.peer: link for link in links if link.via is None}.values()

    def _is_complete(self, peer: Peer, kind: ContentKind, secret_version: int) -> bool:
        origin = bytes.fromhex(peer.link.peer)
        position = self._index.position(peer.channel, origin)
        return (
            peer.own is not None
            and position is not None
            and not peer.restored
            and position[0] == peer.own[0]
            and position[1] >= peer.own[1]
            and says_complete(self._index.mark(peer.channel, origin), secret_version, kind)
        )

    @staticmethod
    def _gets_on(peer: Peer, now: float) -> bool:
        return peer.queued or now - peer.heard_at <= ANNOUNCE_SILENCE_SECONDS

    def _own_complete(self, channel: bytes, kind: ContentKind, secret_version: int) -> bool:
        own = self._announcer.log(channel)
        me = self._network.context.key.public
        return (
            own is not None
            and self._index.position(channel, me) == (own.epoch, own.head)
            and says_complete(own.mark, secret_version, kind)
        )
