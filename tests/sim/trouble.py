"""What happens to a simulated network besides its use: membership, crashes, partitions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.protocol.errors import ChangeNotKept
from tests.sim.files import Files
from tests.sim.internet import End
from tests.sim.world import Peer, Violation, World

REVOKE_SECONDS = 6.0
"""Virtual time in which a removal reaches everybody who is connected."""


@dataclass
class Channel:
    """A channel as its owner has it."""

    name: str
    owner: Peer
    removed: dict[str, float] = field(default_factory=dict)
    """Name of a removed peer -> when everybody knew; infinity until then."""


class Trouble(Files):
    """Every method is one event, of random peers."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.channels: list[Channel] = []
        self._changes = 0
        """Counts what may delay a message."""

    # --- membership ----------------------------------------------------------------------------

    def _channel_of_owner(self) -> Channel | None:
        channels = [channel for channel in self.channels if channel.owner.up]
        return self.rng.choice(channels) if channels else None

    async def remove(self, who: Peer | None = None) -> None:
        channel = self._channel_of_owner()
        if channel is None or channel.owner.node is None:
            return
        document = channel.owner.node.context.book.signed(self._id(channel)).document
        listed = {member.node_id for member in document.members}
        peer = self._some(
            [
                p
                for p in self.world.peers.values()
                if p is not channel.owner and not p.proxy and p.node_id in listed
                if who in (None, p)
            ]
        )
        if peer is None:
            return
        await self._change(channel, "channel.remove-node", node=peer.node_id)
        channel.removed[peer.name] = float("inf")
        self.world.log("removed", peer.name, channel.name)
        task = self.loop.create_task(self._revoked(channel, peer), name=f"removal of {peer.name}")
        self.calls[task] = ""

    def _id(self, channel: Channel) -> bytes:
        node = channel.owner.node
        assert node is not None
        return node.context.book.resolve(channel.name)

    async def _revoked(self, channel: Channel, peer: Peer) -> None:
        """Where the route is good, everybody knows within seconds."""
        node = channel.owner.node
        assert node is not None
        identity = self._id(channel)
        version = node.network.version_of(identity)
        reached = {
            p.name: p.life
            for p in self.world.honest()
            if any(
                link.peer == p.node_id and isinstance(link.transport, End) and link.transport.whole
                for link in node.network.links_on(identity)
            )
        }
        changes = self._changes
        await asyncio.sleep(REVOKE_SECONDS)
        if self._changes != changes or channel.owner.node is not node:
            return
        for other in self.world.honest():
            if reached.get(other.name) is other.life and other.node is not None:
                known = other.node.network.version_of(identity)
                if known < version and other is not peer:
                    raise Violation(
                        f"{other.name} did not hear of version {version} in {REVOKE_SECONDS} s"
                    )

    async def _add(self, channel: Channel, peer: Peer) -> None:
        channel.removed.pop(peer.name, None)
        await self._change(channel, "channel.add-node", node=peer.node_id, label=peer.name)

    async def _change(self, channel: Channel, method: str, **params: Any) -> None:
        """A call of the owner's. On a full disk its change counts, and the owner is told."""
        owner = channel.owner
        try:
            await owner.call(method, channel=channel.name, **params)
        except ChangeNotKept:
            if not owner.full:
                raise
            self.world.log("not kept", owner.name, method)
        else:
            if owner.full:
                raise Violation(f"{owner.name} acknowledged {method} on a full disk")

    async def add_again(self) -> None:
        channel = self._channel_of_owner()
        if channel is not None and channel.removed:
            peer = self.world.peers[self.rng.choice(sorted(channel.removed))]
            await self._add(channel, peer)
            self.world.log("added", peer.name, channel.name)

    async def set_roles(self, who: Peer | None = None, roles: str = "") -> None:
        channel = self._channel_of_owner()
        if channel is None or channel.owner.node is None:
            return
        document = channel.owner.node.context.book.signed(self._id(channel)).document
        names = [
            self.world.label(member.node_id)
            for member in document.members
            if member.node_id != channel.owner.node_id
            and (who is None or member.node_id == who.node_id)
        ]
        if not names:
            return
        name = self.rng.choice(sorted(names))
        peer = self.world.peers[name]
        roles = roles or self.rng.choice(("all", "all", "request", "provide", "none"))
        if peer.proxy:
            roles += ",proxy"
        await self._change(channel, "channel.set-roles", node=peer.node_id, roles=roles)
        self.world.log("roles", name, roles)

    async def revoke_midway(self) -> None:
        """A role is taken away, or a node removed, while it loads over a slow path."""
        peers = [p for p in self.world.honest() if not p.proxy]
        large = [content for content in self.contents if len(content.data) >= 100_000]
        peer = self._some(peers)
        if peer is None or not large:
            return
        host = peer.host
        rate, host.rate = host.rate, 1e5
        self._start(peer, self.rng.choice(large), None)
        await asyncio.sleep(0.2 + self.rng.random())
        if self.rng.random() < 0.5:
            await self.remove(peer)
        else:
            await self.set_roles(peer, "none")
        self.world.check()
        await asyncio.sleep(1.0)
        host.rate = rate

    # --- trouble -------------------------------------------------------------------------------

    async def crash(self) -> None:
        peer = self._some([p for p in self.world.peers.values() if p.up])
        if peer is not None:
            self._changes += 1
            silent = self.rng.random() < 0.4
            self.world.log("crash", peer.name, silent)
            peer.crash(silent=silent)

    async def stop(self) -> None:
        peer = self._some(self.world.honest())
        if peer is not None:
            self._changes += 1
            self.world.log("stop", peer.name)
            await peer.stop()

    async def start(self) -> None:
        peer = self._some([p for p in self.world.peers.values() if not p.up])
        if peer is not None:
            self.world.log("start", peer.name)
            await peer.start()

    async def part(self) -> None:
        self._changes += 1
        names = sorted(self.world.peers)
        side = set(self.rng.sample(names, self.rng.randrange(1, len(names))))
        if self.rng.random() < 0.5:
            a, b = self.rng.sample(names, 2)
            self.world.internet.part(a, b)
            return
        for a in sorted(side):
            for b in names:
                if b not in side:
                    self.world.internet.part(a, b)

    async def heal(self) -> None:
        self._changes += 1
        self.world.internet.heal()

    async def reset(self) -> None:
        self._changes += 1
        self.world.internet.break_one()

    async def slow(self) -> None:
        self._changes += 1
        host = self.rng.choice(list(self.world.internet.hosts.values()))
        host.latency = self.rng.choice((0.001, 0.1, 0.4))
        host.rate = self.rng.choice((1e5, 1e6, 1e8))
