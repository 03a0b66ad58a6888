"""Who stays, and who only comes: whose work goes before that of newcomers. Pure accounting.

A peer has a *standing* when a link of it has lasted ``SETTLED_SECONDS``. It keeps it for
``STANDING_SECONDS`` after it was last seen: who has to link anew in the middle of an attack, because a
cable was pulled, would else wait behind all attackers. It loses it when most of what it asks for comes
to nothing: it goes, again and again, with exchanges under way, or asks for more than one node may.

Non-goals: what somebody has used (:mod:`.usage`), what it holds (:mod:`.shares`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from kachery_p2p.protocol.limits import (
    MAX_USAGE_ACCOUNTS,
    SETTLED_SECONDS,
    STANDING_SECONDS,
    WASTE_HALF_LIFE,
    WASTE_LEAST,
)

_OF_ONE_LINK: Final = WASTE_LEAST // 2
"""Exchanges of a link that broke that count at the most: a link may break through nobody's fault."""


@dataclass(slots=True)
class _Peer:
    seen: float
    stays: bool = False
    kept: float = 0.0
    """Exchanges that came to an end, faded."""
    wasted: float = 0.0
    """Those that did not."""


class Standings:
    """``now`` is in seconds, of any clock that only goes on."""

    def __init__(self) -> None:
        self._peers: dict[str, _Peer] = {}
        """In the order in which they were last seen."""

    def __len__(self) -> int:
        return len(self._peers)

    def linked(self, peer: str, since: float, now: float) -> None:
        """A link of it is there, since then."""
        if now - since >= SETTLED_SECONDS:
            each = self._seen(peer, now)
            each.stays = each.stays or each.wasted <= max(_OF_ONE_LINK, each.kept)

    def kept(self, peer: str, now: float) -> None:
        """Something that it asked for came to an end, a good one or an error that was told."""
        self._seen(peer, now).kept += 1

    def wasted(self, peer: str, now: float, count: int = 1) -> None:
        """It asked for so many things that were refused, because they are too many, or that it left
        when its link ended."""
        each = self._seen(peer, now)
        each.wasted += min(count, _OF_ONE_LINK)
        each.stays = each.stays and not _wasteful(each)

    def stays(self, peer: str, now: float) -> bool:
        """Whether its work goes before that of newcomers."""
        each = self._peers.get(peer)
        return each is not None and each.stays and now - each.seen <= STANDING_SECONDS

    def _seen(self, peer: str, now: float) -> _Peer:
        each = self._peers.pop(peer, None)
        if each is None or now - each.seen > STANDING_SECONDS:
            each = _Peer(now)
        fades = 0.5 ** ((now - each.seen) / WASTE_HALF_LIFE)
        each.kept *= fades
        each.wasted *= fades
        each.seen = now
        self._peers[peer] = each
        if len(self._peers) > MAX_USAGE_ACCOUNTS:
            # Who comes under ever new names does not push out those who stay.
            first = next((name for name, x in self._peers.items() if not x.stays), None)
            del self._peers[next(iter(self._peers)) if first is None else first]
        return each


def _wasteful(peer: _Peer) -> bool:
    return peer.wasted >= WASTE_LEAST and peer.wasted > peer.kept
