"""Links of those who hold an invitation and are not members yet.

They have proved nothing, so they are few. One more than there may be makes the oldest go; one with an
exchange under way counts as younger. Each also has a deadline, which :mod:`.links.network` keeps.
"""

from __future__ import annotations

from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import Busy
from kachery_p2p.protocol.limits import GUEST_SECONDS, MAX_GUESTS

_BUSY_SECONDS = GUEST_SECONDS / 4
"""By so much a guest counts as younger that is in the middle of something."""


class Guests:
    def __init__(self) -> None:
        self._links: dict[Link, None] = {}

    def __contains__(self, link: Link) -> bool:
        return link in self._links

    def __len__(self) -> int:
        return len(self._links)

    def add(self, link: Link) -> None:
        while len(self._links) >= MAX_GUESTS:
            oldest = min(self._links, key=_age)
            del self._links[oldest]
            oldest.close(Busy(limit=f"{MAX_GUESTS} newcomers at once"))
        self._links[link] = None

    def discard(self, link: Link) -> None:
        self._links.pop(link, None)


def _age(link: Link) -> float:
    return link.opened_at + (0.0 if link.idle_seconds else _BUSY_SECONDS)
