"""Files of clients that the node has open: how many there may be, over all of them.

A descriptor that comes when the process may have no more is lost. So the sockets of clients are not
read while their files take their share of what the process may have open; the kernel keeps what they
send, in order. Everything else that a node does needs descriptors too, and has the rest.
"""

from __future__ import annotations

import resource
from collections.abc import Callable

from kachery_p2p.protocol.limits import (
    LOCAL_DESCRIPTORS_EACH,
    LOCAL_DESCRIPTORS_SHARE,
    MAX_DESCRIPTORS,
)


class ClientFiles:
    """Those of one client. ``resume`` is called when there may be room again."""

    def __init__(self, everybodys: AllFiles, resume: Callable[[], None]) -> None:
        self._everybodys = everybodys
        self._resume = resume
        self._open = 0

    def has_room(self) -> bool:
        """Whether there may be one more."""
        return self._open < LOCAL_DESCRIPTORS_EACH and self._everybodys.has_room(self._resume)

    def opened(self) -> bool:
        """Count one; whether there may be one more."""
        self._open += 1
        self._everybodys.open += 1
        return self.has_room()

    def closed(self) -> None:
        self._open -= 1
        self._everybodys.closed()
        self._resume()


class AllFiles:
    """Those of all clients."""

    def __init__(self) -> None:
        self.open = 0
        self._waiting: list[Callable[[], None]] = []

    def has_room(self, resume: Callable[[], None]) -> bool:
        """Whether there may be one more; if not, ``resume`` is called when there may."""
        now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = MAX_DESCRIPTORS if now == resource.RLIM_INFINITY else now
        if self.open < most // LOCAL_DESCRIPTORS_SHARE:
            return True
        self._waiting.append(resume)
        return False

    def closed(self) -> None:
        self.open -= 1
        waiting, self._waiting = self._waiting, []
        for resume in waiting:
            resume()
