"""The gate: inbound connections that have not yet proved who they are, few, and none for long.

Whoever comes is let in; if that makes too many strangers, the oldest of the address with the most of
them has to go. So strangers, however many, however silent and however quick to come back, cost each
other their places. (Not the silent ones first: then those who say one word and stop would keep out
everybody who has not spoken yet.) Those who have shown that they know a channel are counted by
themselves: no stranger makes one of them go.

Non-goals: deadlines (the listener's), what is said (the handshake's).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

from kachery_p2p.protocol.limits import (
    MAX_LINKS,
    MAX_PENDING_HANDSHAKES,
    MAX_PENDING_KNOWN,
    MAX_PENDING_PER_ADDRESS,
)


class Waiting:
    """One connection at the gate. ``drop`` ends it at once; ``known``: it has shown that it knows a
    channel of this node."""

    __slots__ = ("address", "drop", "known")

    def __init__(self, address: str | None, drop: Callable[[], None]) -> None:
        self.address = address
        self.drop = drop
        self.known = False


class Gate:
    def __init__(self) -> None:
        # Both are ordered: who comes first stands first.
        self._strangers: dict[Waiting, None] = {}
        self._known: dict[Waiting, None] = {}
        self._by_address: Counter[str | None] = Counter()
        """Strangers."""
        self.open = 0
        """Links of those that have proved who they are."""
        self.refused = 0
        """Connections that had to go before they had."""

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def strangers(self, address: str) -> int:
        """How many of an address wait."""
        return self._by_address[address]

    def enter(self, address: str | None, drop: Callable[[], None]) -> Waiting | None:
        """Somebody has come; None if there is no room at all. ``address`` None: the connection is a
        reverse proxy's, and for whom it is will be known later."""
        if self.open >= MAX_LINKS:
            self.refused += 1
            return None
        waiting = Waiting(None, drop)
        self._add(waiting)
        if address is not None:
            self.locate(waiting, address)
        while len(self._strangers) > MAX_PENDING_HANDSHAKES:
            self.expel(min(self._strangers, key=self._worth))
        return waiting

    def recognise(self, waiting: Waiting) -> None:
        """It has shown that it knows a channel."""
        if waiting in self._strangers:
            self._remove(waiting)
            waiting.known = True
            self._known[waiting] = None
            if len(self._known) > MAX_PENDING_KNOWN:
                self.expel(next(iter(self._known)))

    def locate(self, waiting: Waiting, address: str) -> None:
        """It is known now where it comes from."""
        if waiting not in self._strangers:
            return
        self._uncount(waiting.address)
        waiting.address = address
        self._by_address[address] += 1
        if self._by_address[address] > MAX_PENDING_PER_ADDRESS:
            self.expel(next(each for each in self._strangers if each.address == address))

    def leave(self, waiting: Waiting, *, proved: bool = False) -> bool:
        """It has gone, or has ``proved`` who it is; whether it was still waiting."""
        if waiting in self._strangers:
            self._remove(waiting)
        elif waiting in self._known:
            del self._known[waiting]
        else:
            return False
        self.open += proved
        return True

    def clear(self, share: float = 1.0) -> None:
        """Show out that share of those that wait: strangers first, the oldest first."""
        everybody = [*self._strangers, *self._known]
        for waiting in everybody[: math.ceil(share * len(everybody))]:
            self.expel(waiting)

    def _add(self, waiting: Waiting) -> None:
        self._strangers[waiting] = None
        self._by_address[waiting.address] += 1

    def _remove(self, waiting: Waiting) -> None:
        del self._strangers[waiting]
        self._uncount(waiting.address)

    def _uncount(self, address: str | None) -> None:
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def _worth(self, waiting: Waiting) -> int:
        return -self._by_address[waiting.address]

    def expel(self, waiting: Waiting) -> None:
        """It has to go, for want of room or because its time is over."""
        self.leave(waiting)
        self.refused += 1
        waiting.drop()
