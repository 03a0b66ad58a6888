"""What all clients of a daemon together make it hold: answers that wait for who does not read, and
frames that were begun and not ended.

Each client has a bound of its own (``LOCAL_QUEUE``, ``MAX_LOCAL_FRAME``); a thousand of them have not
a thousand times as much. Beyond ``LOCAL_QUEUES_FAIR`` in all each may have no more than its share, and
beyond ``LOCAL_QUEUES_MOST`` whoever has not read for longest is cut off. Of unfinished frames beyond
``LOCAL_UNFINISHED`` the one that was begun first is.
"""

from __future__ import annotations

from typing import Protocol

from kachery_p2p.protocol.errors import Busy, KacheryError
from kachery_p2p.protocol.limits import (
    LOCAL_QUEUES_FAIR,
    LOCAL_QUEUES_MOST,
    LOCAL_UNFINISHED,
    MIB,
)


class Client(Protocol):
    """What is looked at of a client's socket (:class:`~.framed.FramedSocket`)."""

    stuck_since: float
    """Since when it has not read what waits for it."""
    begun_at: float
    """When the frame began whose end has not come."""
    begun_bytes: int

    @property
    def holds(self) -> int:
        """Bytes that wait for it."""

    def close(self, error: KacheryError | None = None) -> None:
        """Cut it off."""


class Budget:
    def __init__(self) -> None:
        self.sockets: dict[Client, None] = {}
        self.queued = 0
        """Bytes that wait to be read by clients."""
        self.unfinished = 0
        """Bytes of frames whose end has not come."""

    def is_over(self, mine: int) -> bool:
        """Whether a client with so many bytes waiting has more than its share, while all have more than
        they should."""
        return self.queued > LOCAL_QUEUES_FAIR and mine > LOCAL_QUEUES_FAIR // max(
            1, len(self.sockets)
        )

    def add_queued(self, count: int) -> None:
        self.queued += count
        while self.queued > LOCAL_QUEUES_MOST and self.sockets:
            worst = min(self.sockets, key=lambda each: each.stuck_since)
            if not worst.holds:
                break
            worst.close(
                Busy(limit=f"{LOCAL_QUEUES_MOST // MIB} MiB that local clients do not read")
            )

    def add_unfinished(self, count: int) -> None:
        self.unfinished += count
        while self.unfinished > LOCAL_UNFINISHED and self.sockets:
            oldest = min(self.sockets, key=lambda each: each.begun_at)
            if not oldest.begun_bytes:
                break
            oldest.close(Busy(limit=f"{LOCAL_UNFINISHED // MIB} MiB of unfinished local frames"))
