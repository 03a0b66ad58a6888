"""What each peer makes this node hold, over all its links and with everything done on its behalf.

Three things are scarce: bytes (read from disk or received, and not yet sent or dealt with), exchanges
(requests and streams that are being served) and open files. The accounting is
:mod:`kachery_p2p.protocol.links.shares`; here one waits for room. Who waits holds nothing meanwhile, so
nobody waits in a circle.

Invariants: whoever waits is served in its turn, peers in turn with one another; cancelling is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.links.shares import ShareBounds, Shares

_Waiting = deque[tuple[int, asyncio.Future[None]]]


class Pool:
    """One scarce thing, shared between the peers."""

    def __init__(self, bounds: ShareBounds) -> None:
        self.shares = Shares(bounds)
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()

    def take(self, peer: str, amount: int) -> bool:
        """Take it, if that needs no waiting; whether it was taken."""
        return peer not in self._waiting and self.shares.take(peer, amount)

    async def acquire(self, peer: str, amount: int) -> None:
        """Take it, when there is room. To be called while nothing is held that waits for this."""
        if self.take(peer, amount):
            return
        future = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(peer, deque()).append((amount, future))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(peer, amount)
            raise

    def give(self, peer: str, amount: int) -> None:
        """Give it back; who waits for it goes on."""
        self.shares.give(peer, amount)
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        for peer in list(self._waiting):
            waiting = self._waiting[peer]
            while waiting:
                amount, future = waiting[0]
                if future.done():  # who waited has gone
                    waiting.popleft()
                elif self.shares.take(peer, amount):
                    waiting.popleft()
                    future.set_result(None)
                    self._waiting.move_to_end(peer)
                else:
                    break
            if not waiting:
                del self._waiting[peer]


@dataclass(frozen=True, slots=True)
class Share:
    """One peer's share of a pool."""

    pool: Pool
    peer: str

    def take(self, amount: int = 1) -> bool:
        return self.pool.take(self.peer, amount)

    def give(self, amount: int = 1) -> None:
        self.pool.give(self.peer, amount)

    def force(self, amount: int) -> None:
        """Count what is held already."""
        self.pool.shares.force(self.peer, amount)

    async def acquire(self, amount: int = 1) -> None:
        await self.pool.acquire(self.peer, amount)

    @contextlib.asynccontextmanager
    async def hold(self, amount: int = 1) -> AsyncIterator[None]:
        """Have it for as long as the block lasts."""
        await self.acquire(amount)
        try:
            yield
        finally:
            self.give(amount)

    @property
    def free(self) -> int:
        """What may be taken now."""
        return self.pool.shares.free(self.peer)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one peer may make this node hold."""

    bytes: Share
    exchanges: Share
    files: Share


class Budgets:
    """Those of all peers."""

    def __init__(self) -> None:
        self.bytes = Pool(
            ShareBounds(
                limits.HELD_LEAST, limits.HELD_GUARANTEED, limits.HELD_MOST, limits.HELD_POOL
            )
        )
        self.exchanges = Pool(
            ShareBounds(
                limits.EXCHANGES_LEAST,
                limits.EXCHANGES_GUARANTEED,
                limits.EXCHANGES_MOST,
                limits.EXCHANGES_POOL,
            )
        )
        self.files = Pool(
            ShareBounds(
                limits.FILES_LEAST, limits.FILES_GUARANTEED, limits.FILES_MOST, limits.FILES_POOL
            )
        )

    def of(self, peer: str) -> Budget:
        """A peer's, the same for all its links."""
        return Budget(Share(self.bytes, peer), Share(self.exchanges, peer), Share(self.files, peer))
