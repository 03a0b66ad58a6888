"""A story of members that do not read, that flood, and of full disks, while others are removed.

Whatever they do, REMOVED_SECONDS after a document reached a node nobody whom it removed has anything
there (:meth:`~.world.Peer._watch_removals`). Queues are shorter than in the product, so that they
fill.
"""

from __future__ import annotations

import asyncio
from unittest import mock

from kachery_p2p.protocol.links import control
from kachery_p2p.protocol.links.frames import Ping, Request
from tests.sim.scenario import Outcome, Story, run

QUEUE = 150
"""Control frames that a link holds in this story."""
BYTES = 200_000
PAUSE = 50_000
FLOOD = 400


class Siege(Story):
    """See the module."""

    async def begin(self) -> None:
        await super().begin()
        self.happenings = {
            self.store: 3,
            self.load: 6,
            self.load_range: 2,
            self.remove: 5,
            self.add_again: 4,
            self.set_roles: 3,
            self.revoke_midway: 3,
            self.deafen: 5,
            self.dawdle: 3,
            self.hear: 3,
            self.flood: 5,
            self.fill: 4,
            self.free: 3,
            self.crash: 1,
            self.start: 3,
            self.reset: 1,
        }

    async def end(self) -> None:
        for peer in self.world.peers.values():
            peer.host.hear()
            peer.full = False
        await super().end()

    # --- reading -------------------------------------------------------------------------------

    async def deafen(self) -> None:
        """A member reads nothing any more, and goes on speaking."""
        self._changes += 1
        peer = self.rng.choice(list(self.world.peers.values()))
        self.world.log("deaf", peer.name)
        peer.host.deaf = True

    async def dawdle(self) -> None:
        """A member reads, but slowly."""
        self._changes += 1
        peer = self.rng.choice(list(self.world.peers.values()))
        self.world.log("slow reader", peer.name)
        peer.host.reading = self.rng.choice((200.0, 5_000.0))

    async def hear(self) -> None:
        self._changes += 1
        peer = self.rng.choice(list(self.world.peers.values()))
        self.world.log("hears", peer.name)
        peer.host.hear()

    async def flood(self) -> None:
        """A member says more than can be answered; mostly it does not read the answers."""
        self._changes += 1
        peer = self._some([p for p in self.world.peers.values() if p.up])
        if peer is None or peer.node is None:
            return
        self.world.log("floods", peer.name)
        peer.host.deaf = self.rng.random() < 0.7
        for link in list(peer.node.network.links):
            for number in range(FLOOD):
                if link.closed_by is not None:
                    break
                if number % (QUEUE // 2) == 0:
                    await asyncio.sleep(0.01)
                # As its own program would, without regard for what it holds itself.
                ask = self.rng.random() < 0.3
                frame = Request(link._mux._take_id(), "no-such", None) if ask else Ping(number)
                link._mux._push(frame)
                link._writer.wake()

    # --- disks ---------------------------------------------------------------------------------

    async def fill(self) -> None:
        self._changes += 1
        peer = self.rng.choice(list(self.world.peers.values()))
        self.world.log("full", peer.name)
        peer.full = True

    async def free(self) -> None:
        for peer in self.world.peers.values():
            if peer.full and self.rng.random() < 0.7:
                self.world.log("room", peer.name)
                peer.full = False


def besiege(
    seed: int, *, nodes: int | None = None, steps: int = 25, verbose: bool = False
) -> Outcome:
    """Run one seed of this story. Raises as :func:`~.scenario.run`."""
    with (
        mock.patch.object(control, "MAX_CONTROL_QUEUE", QUEUE),
        mock.patch.object(control, "MAX_CONTROL_BYTES", BYTES),
        mock.patch.object(control, "CONTROL_PAUSE_BYTES", PAUSE),
    ):
        return run(seed, nodes=nodes, steps=steps, verbose=verbose, story=Siege)
