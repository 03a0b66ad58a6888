"""For whom a node works: whose work comes next, and how much of its time those have who have just come.

Whose work it is says :data:`on_behalf_of`, which tasks inherit.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import Generic, NamedTuple, TypeVar

from kachery_p2p.protocol.limits import NEWCOMERS_LEAST, OWN_USAGE_WEIGHT, SETTLED_WEIGHT
from kachery_p2p.protocol.links.usage import Usage

T = TypeVar("T")

_PASSED = round(1 / NEWCOMERS_LEAST) - 1
"""So many things of those who stay go before one of a newcomer."""
_REMEMBERED = 1.0
"""Seconds over which it is found out what those who stay need."""
_ROOM = 4.0
"""So many times what they use is left to them: they are answered soon, and may use more."""
_SAVED = 0.02
"""Seconds of the loop that newcomers may use at once after a pause."""
_NOTHING = 1e-3
"""Seconds in a second that pings and the like need."""
_OWED = 0.1
"""Seconds that they may be behind: they wait half a second for it at the most."""


class Party(NamedTuple):
    """For whom work is done: a peer, by its id, or several that share an account. ``weight``: what it
    pays for what it uses."""

    name: str
    weight: float = 1.0

    @property
    def new(self) -> bool:
        """Whether it comes after all who stay."""
        return self.weight > SETTLED_WEIGHT


OWN_USER = Party("", OWN_USAGE_WEIGHT)
on_behalf_of: ContextVar[Party] = ContextVar("on_behalf_of", default=OWN_USER)
"""For whom the present task works."""

STRANGERS = Party("strangers")
"""All who have not shown yet that they are members."""
KNOCKED = Party("those who knocked", 1 / 4)
"""Those of them who have shown that they know a channel: they do not wait behind a crowd of others.
Many share this account, so it pays less; it is a newcomer's all the same."""


class Allowance:
    """How much of the loop's time newcomers may have together.

    All that those who stay do not need; but of what these need, newcomers take nothing: a loop that is
    never idle answers nobody soon. They have ``NEWCOMERS_LEAST`` in any case.
    """

    def __init__(self) -> None:
        self._left = _SAVED
        self._then: float | None = None
        self._needed = 0.0
        """Seconds in a second that those who stay have used of late."""

    def left(self, now: float) -> bool:
        """Whether there is time for them."""
        self._pass(now)
        return self._left > 0

    def is_shared(self, now: float) -> bool:
        """Whether anybody who stays needs some of the time."""
        self._pass(now)
        return self._needed > _NOTHING

    def spend(self, seconds: float, now: float, *, new: bool) -> None:
        """Work that has just ended took so long."""
        if new:
            self._left -= seconds
        self._pass(now)
        if not new:
            self._needed += seconds / _REMEMBERED

    def _pass(self, now: float) -> None:
        if self._then is not None and now > self._then:
            seconds = now - self._then
            self._needed *= math.exp(-seconds / _REMEMBERED)
            share = max(NEWCOMERS_LEAST, 1.0 - _ROOM * self._needed)
            # One step that took very long is not all newcomers' to pay for.
            self._left = max(-_OWED, min(_SAVED, self._left + share * seconds))
        self._then = now


class Line(Generic[T]):
    """Things that wait to be done, each for a party; for several places at which they are done.

    Next is what waits for who has used least, of those who stay; newcomers have every fifth place, and
    all that is left. What one party waits for is done in the order in which it came.
    """

    def __init__(self) -> None:
        self._staying: dict[str, deque[tuple[Party, T]]] = {}
        self._new: dict[str, deque[tuple[Party, T]]] = {}
        self._passed = 0
        """How often in a row newcomers were passed over."""
        self._usage = Usage()

    def __bool__(self) -> bool:
        return bool(self._staying or self._new)

    def add(self, party: Party, thing: T, *, first: bool = False) -> None:
        """``first``: before all else that this party waits for."""
        waiting = self._of(party).setdefault(party.name, deque())
        if first:
            waiting.appendleft((party, thing))
        else:
            waiting.append((party, thing))

    def remove(self, party: Party, thing: T) -> None:
        """Raises KeyError, ValueError if it does not wait."""
        table = self._of(party)
        table[party.name].remove((party, thing))
        if not table[party.name]:
            del table[party.name]

    def take(self, suits: Callable[[T], bool] | None = None) -> tuple[Party, T] | None:
        """What is next, of what ``suits``; None if there is nothing."""
        tables = [self._staying, self._new]
        if self._passed >= _PASSED:
            tables.reverse()
        for table in tables:
            taken = self._take(table, suits)
            if taken is not None:
                self._passed = self._passed + 1 if table is self._staying and self._new else 0
                return taken
        return None

    def used(self, party: Party, seconds: float, now: float) -> None:
        """What was taken for a party has taken so long."""
        self._usage.add(party.name, party.weight * seconds, now)

    def clear(self) -> list[T]:
        """Nothing waits any more; what did."""
        waiting = [*self._staying.values(), *self._new.values()]
        self._staying.clear()
        self._new.clear()
        return [thing for each in waiting for _, thing in each]

    def _of(self, party: Party) -> dict[str, deque[tuple[Party, T]]]:
        return self._new if party.new else self._staying

    def _take(
        self, table: dict[str, deque[tuple[Party, T]]], suits: Callable[[T], bool] | None
    ) -> tuple[Party, T] | None:
        if not table:
            return None
        if suits is None:
            names = [self._usage.least(table) if len(table) > 1 else next(iter(table))]
        else:
            names = sorted(table, key=self._usage.rank)
        for name in names:
            waiting = table[name]
            for place, taken in enumerate(waiting):
                if suits is None or suits(taken[1]):
                    del waiting[place]
                    if not waiting:
                        del table[name]
                    return taken
        return None
