"""Whose record is looked at next: the peers take turns, and who has asked for little goes first.

A record costs its receiver time on the event loop: what is in it is deciphered and dealt with at once,
and what it asks for is begun. Without turns a member that floods a node with announcements or requests
would have all of that time. Each peer has an account of what its records cost, in nominal microseconds,
so that what a node does depends on no clock; of those that wait, the ones with the least on theirs are
served first. Who comes back after a pause has ``TURN_CREDIT`` from before, and no more.

While several wait, as much time is left for all else that the node does, and for the other programs of
its computer, as dear records take: those that begin something or are long.

Invariants: who is alone waits for nothing; whoever waits has its turn in the end; a peer
that asks for less than its part waits for a few records at most, whatever the others do. Cancelling is
safe.

Non-goals: bounding what anybody holds (:mod:`.budget`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from kachery_p2p.protocol.codec import Buffer
from kachery_p2p.protocol.limits import (
    BACKLOG_PAUSE_SECONDS,
    BULK_BYTES_PER_MICROSECOND,
    DEAR_MICROSECONDS,
    EXCHANGE_MICROSECONDS,
    HEADER_BYTES_PER_MICROSECOND,
    MAX_BACKLOG,
    MAX_TURN_ACCOUNTS,
    RECORD_MICROSECONDS,
    TURN_CREDIT,
    TURN_MICROSECONDS,
)
from kachery_p2p.protocol.links.frames import Frame, Note, Open, Request
from kachery_p2p.protocol.links.session import header_bytes


class Turns:
    """``backlog``: how much waits for the disk; beyond ``MAX_BACKLOG`` fewer records are looked at."""

    def __init__(self, backlog: Callable[[], int] = lambda: 0) -> None:
        self._backlog = backlog
        self._cost: dict[str, float] = {}
        self._floor = 0.0
        """The least account of those that had their turn last."""
        self._left = float(TURN_MICROSECONDS)
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], float]]] = {}
        self._dear = 0.0
        """What dear records cost since it was made up for."""
        self._next: asyncio.Handle | None = None

    def ready(self) -> bool:
        """Whether a record may be looked at without waiting."""
        return self._left > 0 and not self._waiting

    def spend(self, peer: str, cost: float) -> None:
        """A record of a peer was looked at."""
        self._left -= cost
        if cost > DEAR_MICROSECONDS:
            self._dear += cost
        self._cost[peer] = self._account(peer) + cost
        if len(self._cost) > MAX_TURN_ACCOUNTS:
            self._forget()

    async def wait(self, peer: str, record: Buffer) -> None:
        """Until it is the turn of this peer, which has sent this record."""
        future = asyncio.get_running_loop().create_future()
        likely = RECORD_MICROSECONDS + header_bytes(record) / HEADER_BYTES_PER_MICROSECOND
        self._waiting.setdefault(peer, deque()).append((future, likely))
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._round)
        await future

    def _round(self) -> None:
        """One turn of the loop: what it may take, and who comes first."""
        self._next = None
        self._left = float(TURN_MICROSECONDS)
        order = sorted(self._waiting, key=self._account)
        pause = self._dear / 1e6 if len(order) > 1 else 0.0
        self._dear = 0.0
        if order:
            self._floor = max(self._floor, self._account(order[0]))
        left = self._left
        for peer in order:
            waiting = self._waiting[peer]
            while waiting and waiting[0][0].done():  # who waited has gone
                waiting.popleft()
            if waiting and left > 0:
                future, likely = waiting.popleft()
                future.set_result(None)
                left -= likely
            if not waiting:
                del self._waiting[peer]
        if self._waiting:
            loop = asyncio.get_running_loop()
            if self._backlog() > MAX_BACKLOG:
                pause = max(pause, BACKLOG_PAUSE_SECONDS)
            if pause:
                self._next = loop.call_later(pause, self._round)
            else:
                self._next = loop.call_soon(self._round)

    def _account(self, peer: str) -> float:
        return max(self._cost.get(peer, 0.0), self._floor - TURN_CREDIT)

    def _forget(self) -> None:
        """Accounts that are as good as none; if there are not enough of those, all."""
        self._cost = {
            peer: cost for peer, cost in self._cost.items() if cost > self._floor - TURN_CREDIT
        }
        if len(self._cost) > MAX_TURN_ACCOUNTS // 2:
            self._cost.clear()


def cost_of(frame: Frame, size: int) -> float:
    """Nominal microseconds that it costs to deal with a frame in a record of ``size`` bytes."""
    if isinstance(frame, Request | Open):
        return RECORD_MICROSECONDS + EXCHANGE_MICROSECONDS + size / HEADER_BYTES_PER_MICROSECOND
    if isinstance(frame, Note):
        return RECORD_MICROSECONDS + size / HEADER_BYTES_PER_MICROSECOND
    return RECORD_MICROSECONDS + size / BULK_BYTES_PER_MICROSECOND
