"""How much of something each party has used of late: sums that fade. Pure accounting.

With it, what cannot be measured before it is spent (a processor's time) is shared fairly all the same:
of those who wait, the one who has used least comes first. Who was away for a while starts with little
on its account, and has that advantage only until it has used as much as the others.

Non-goals: bounding what anybody holds (:mod:`.shares`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from kachery_p2p.protocol.limits import MAX_USAGE_ACCOUNTS, USAGE_HALF_LIFE


class Usage:
    """``now`` is in seconds, of any clock that only goes on."""

    def __init__(self) -> None:
        self._accounts: dict[str, tuple[float, float]] = {}
        """Of each party the sum, and when it was right."""

    def add(self, party: str, amount: float, now: float) -> None:
        """It has used so much more."""
        self._accounts[party] = (self.of(party, now) + amount, now)
        if len(self._accounts) > MAX_USAGE_ACCOUNTS:
            self._forget(now)

    def of(self, party: str, now: float) -> float:
        """What it has used, faded by half every ``USAGE_HALF_LIFE``."""
        account = self._accounts.get(party)
        if account is None:
            return 0.0
        used, then = account
        return float(used * 0.5 ** ((now - then) / USAGE_HALF_LIFE))

    def rank(self, party: str) -> float:
        """The less a party has used, the less this is. It stays as it is while nothing is added, for
        all fades alike: parties can be kept in order by it."""
        used, then = self._accounts.get(party, (0.0, 0.0))
        return math.log2(used) + then / USAGE_HALF_LIFE if used > 0.0 else -math.inf

    def least(self, parties: Iterable[str]) -> str:
        """The one that has used least; of equals the first. Raises ValueError if there is none."""
        return min(parties, key=self.rank)

    def _forget(self, now: float) -> None:
        """The half that has used least: they lose least of what is known of them."""
        order = sorted(self._accounts, key=lambda party: self.of(party, now))
        for party in order[: len(order) // 2]:
            del self._accounts[party]
