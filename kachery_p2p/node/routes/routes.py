"""All that this room does, made and ended together."""

from __future__ import annotations

from kachery_p2p.node.config import Config
from kachery_p2p.node.links.dialling import Dialling
from kachery_p2p.node.links.network import Network

from .neighbours import Neighbours
from .reach import Dialer, Reach
from .replacing import Replacing
from .upgrading import Upgrading


class Routes:
    def __init__(self, network: Network, dialer: Dialer, dialling: Dialling) -> None:
        self.reach = Reach(network, dialer, dialling)
        self.upgrading = Upgrading(network, self.reach)
        self.replacing = Replacing(network, self.reach)
        self.neighbours = Neighbours(network.context, self.reach, self.upgrading.neighbour)
        self._network = network

    async def start(self, config: Config, listening: str | None) -> None:
        """``listening``: at which ``HOST:PORT``, if at all. Raises BadInput: there are no neighbours to
        be heard here."""
        if config.lan:
            # A certificate names no address of a local network, so nobody could check it there.
            at = None if config.tls_cert else listening
            await self.neighbours.start(self._network.supervisor, listening=at)
