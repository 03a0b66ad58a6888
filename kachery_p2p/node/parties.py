"""For whom a node works, and how much of its time those have who have just come.

Whose work it is says :data:`on_behalf_of`, which tasks inherit.
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import NamedTuple

from kachery_p2p.protocol.limits import NEWCOMERS_LEAST, OWN_USAGE_WEIGHT

_REMEMBERED = 1.0
"""Seconds over which it is found out what those who stay need."""
_ROOM = 4.0
"""So many times what they use is left to them: they are answered soon, and may use more."""
_SAVED = 0.02
"""Seconds of the loop that newcomers may use at once after a pause."""
_OWED = 0.1
"""Seconds that they may be behind: they wait half a second for it at the most."""


class Party(NamedTuple):
    """For whom work is done: a peer, by its id, or several that share an account. ``weight``: what it
    pays for what it uses."""

    name: str
    weight: float = 1.0

    @property
    def new(self) -> bool:
        """Whether it pays the full price."""
        return self.weight >= 1.0


OWN_USER = Party("", OWN_USAGE_WEIGHT)
on_behalf_of: ContextVar[Party] = ContextVar("on_behalf_of", default=OWN_USER)
"""For whom the present task works."""

STRANGERS = Party("strangers")
"""All who have not shown yet that they are members."""
KNOCKED = Party("those who knocked")
"""Those of them who have shown that they know a channel: they do not wait behind a crowd of others."""


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
