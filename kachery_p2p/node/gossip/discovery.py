"""Finding who has something and getting to them: the services that feeds and tasks need for it."""

from __future__ import annotations

from dataclasses import dataclass

from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.protocol.gossip.holders import Holder

from .lookup import Lookup
from .watches import Watches


@dataclass(frozen=True)
class Discovery:
    """``lookup`` says who has it now, ``watches`` who comes to have it, ``reach`` makes the links."""

    network: Network
    reach: Reach
    lookup: Lookup
    watches: Watches

    async def link_to(self, holder: Holder) -> Link:
        """A link to a holder, over whatever route there is. Raises as :meth:`Reach.to`."""
        relays = self.lookup.relays.get((holder.node, holder.channel), set())
        return await self.reach.to(holder.node, holder.channel, urls=holder.urls, relays=relays)
