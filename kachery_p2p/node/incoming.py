"""Room for large messages that come: one account for all connections of an event loop.

Of a message that is longer than a few kilobytes, all its bytes are reserved before memory is taken for
it, and given back when it is dealt with. Where there is no room for it nothing more is read: TCP tells
the sender. So nobody holds a part of something while it waits for the rest, and nobody waits in a
circle.

Each party (protocol/links/shares.py) has a part that suffices for one message, whatever others hold;
beyond that all share a pool. Those that wait are tried in turn.

Non-goals: small messages, which are bounded by their number (:mod:`.websocket`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from kachery_p2p.protocol.limits import (
    INCOMING_GUARANTEED,
    INCOMING_LEAST,
    INCOMING_MOST,
    INCOMING_POOL,
)
from kachery_p2p.protocol.links.shares import ShareBounds, Shares

_TRIED: Final = 8
"""Parties that are tried when room has come: a crowd that waits must not cost much each time."""

Waiting = OrderedDict[object, tuple[int, Callable[[], None]]]


class Incoming:
    """See the module."""

    def __init__(self, bounds: ShareBounds) -> None:
        self.shares = Shares(bounds)
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()

    def reserve(self, party: str, amount: int, who: object, admitted: Callable[[], None]) -> bool:
        """Take so much room now, or else ``admitted()`` is called when it has been taken for ``who``;
        whether it was taken now."""
        if party not in self._waiting and self.shares.take(party, amount):
            return True
        self._waiting.setdefault(party, OrderedDict())[who] = (amount, admitted)
        return False

    def give(self, party: str, amount: int) -> None:
        """Give room back; who waits for it goes on."""
        self.shares.give(party, amount)
        if self._waiting:
            self._admit(party)
            for other in list(self._waiting)[:_TRIED]:
                self._admit(other)

    def leave(self, party: str, who: object) -> None:
        """It waits no more."""
        waiting = self._waiting.get(party)
        if waiting is not None:
            waiting.pop(who, None)
            if not waiting:
                del self._waiting[party]
            else:
                self._admit(party)  # what it asked for may have been more than the next one does

    def move(self, party: str, other: str, amount: int) -> None:
        """What is held for one party is another's: it is known now who that is."""
        self.shares.force(other, amount)
        self.give(party, amount)

    def _admit(self, party: str) -> None:
        """Those of a party that wait and for whom there is room."""
        waiting = self._waiting.get(party)
        while waiting:
            who, (amount, admitted) = next(iter(waiting.items()))
            if not self.shares.take(party, amount):
                self._waiting.move_to_end(party)
                return
            del waiting[who]
            if not waiting:
                del self._waiting[party]
            admitted()
            waiting = self._waiting.get(party)


_BY_LOOP: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Incoming]] = WeakKeyDictionary()


def incoming() -> Incoming:
    """That of the running loop: who waits is told in its thread."""
    loop = asyncio.get_running_loop()
    found = _BY_LOOP.get(loop)
    if found is None:
        bounds = ShareBounds(INCOMING_LEAST, INCOMING_GUARANTEED, INCOMING_MOST, INCOMING_POOL)
        found = _BY_LOOP[loop] = Incoming(bounds)
    return found
