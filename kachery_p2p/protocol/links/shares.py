"""Who may hold how much of something that is scarce: bytes, exchanges, descriptors. Pure accounting.

Each *party* (a peer, with everything that is done on its behalf) has a part that nobody can take from
it, and may draw more from a pool that all share, up to a bound of its own. So one party cannot take
all, a hundred together cannot take more than the pool and their parts, and who takes little is never
refused because others take much.

Invariants: a party that holds nothing may take one item, of whatever size, so nothing waits for ever;
beyond that no party holds more than ``most``, all together draw at most ``pool``, and the parts of
their own are at most ``guaranteed`` together (the more parties, the smaller each).

Non-goals: waiting (:mod:`kachery_p2p.node.links.budget`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ShareBounds:
    """``least``: what each party may always hold; ``guaranteed``: how much that is for all together at
    the most; ``most``: what one party may hold; ``pool``: what all may hold beyond their parts."""

    least: int
    guaranteed: int
    most: int
    pool: int


@dataclass(slots=True)
class _Held:
    own: int = 0
    drawn: int = 0


class Shares:
    """See the module."""

    def __init__(self, bounds: ShareBounds) -> None:
        self.bounds = bounds
        self.drawn = 0
        """What all have drawn from the pool."""
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        """How many parties hold something."""
        return len(self._held)

    @property
    def total(self) -> int:
        """What all hold together."""
        return sum(each.own + each.drawn for each in self._held.values())

    def held(self, party: str) -> int:
        """What a party holds."""
        each = self._held.get(party)
        return 0 if each is None else each.own + each.drawn

    def free(self, party: str) -> int:
        """What a party may take now, in one or several items."""
        each = self._held.get(party) or _Held()
        own = max(0, self._least(party) - each.own)
        left = max(0, self.bounds.most - each.own - each.drawn)
        return min(own + self.bounds.pool - self.drawn, left)

    def take(self, party: str, amount: int) -> bool:
        """Take so much, if it is there; whether it was."""
        if amount <= self.free(party) or party not in self._held:
            self.force(party, amount)
            return True
        return False

    def force(self, party: str, amount: int) -> None:
        """Take so much, whether it is there or not: of what is held already, and is only counted."""
        each = self._held.setdefault(party, _Held())
        own = min(amount, max(0, self._least(party) - each.own))
        each.own += own
        each.drawn += amount - own
        self.drawn += amount - own

    def give(self, party: str, amount: int) -> None:
        """Give so much back. Raises ValueError if the party does not hold it."""
        each = self._held.get(party)
        if each is None or amount > each.own + each.drawn:
            raise ValueError("more is given back than was taken")
        drawn = min(amount, each.drawn)
        each.drawn -= drawn
        self.drawn -= drawn
        each.own -= amount - drawn
        if not each.own and not each.drawn:
            del self._held[party]

    def _least(self, party: str) -> int:
        parties = len(self._held) + (party not in self._held)
        return min(self.bounds.least, self.bounds.guaranteed // parties)
