"""How much bulk may be under way through a proxy, so that control does not wait behind it.

A circuit is first in, first out: what is queued in it, here or at the proxy, stands before a control
frame that is sealed next. A fixed window that fills a fast path would be seconds of queue on a slow
one. So the window follows the measured rate: what the path carries in its round-trip time, and
:data:`~.limits.QUEUE_SECONDS` of queue beyond that.

The rate is taken from how fast credit comes back. It rises at once with a higher measurement, and
sinks only while the window is what holds the sender back: a sender with nothing to send says nothing
about the path. Pure: ``now`` is an argument, in seconds.
"""

from __future__ import annotations

from kachery_p2p.protocol.limits import (
    BULK_FRAME_SECONDS,
    CIRCUIT_CREDIT_BATCH,
    CIRCUIT_WINDOW_LEAST,
    MAX_BODY,
    MIN_BODY,
    QUEUE_SECONDS,
)

_SAMPLE_SECONDS = 0.05
_SINK = 0.25
"""Weight of a lower measurement."""


class Pace:
    """One direction of one circuit. ``most`` is the credit that the proxy granted, in bytes."""

    def __init__(self, most: int, now: float) -> None:
        self.rate = 0.0
        """Bytes per second, 0 while unknown."""
        self._most = most
        self._sent = 0
        self._since = now
        self._acked_then = 0
        self._limited = False

    def sent(self, size: int) -> None:
        self._sent += size

    def window(self, outstanding: int, rtt: float, now: float) -> int:
        """Bytes that may be under way.

        Args:
            outstanding: bytes that are under way: sent, and their credit not yet back.
            rtt: the shortest round-trip time of the path that was seen, in seconds.
        """
        seconds = now - self._since
        if seconds >= _SAMPLE_SECONDS:
            acked = self._sent - outstanding
            measured = (acked - self._acked_then) / seconds
            if measured >= self.rate:
                self.rate = measured
            elif self._limited:
                self.rate += _SINK * (measured - self.rate)
            self._since, self._acked_then, self._limited = now, acked, False
        wanted = self.rate * (1.25 * rtt + QUEUE_SECONDS)
        return max(CIRCUIT_WINDOW_LEAST, min(self._most, int(wanted)))

    def allows(self, size: int, outstanding: int, rtt: float, now: float) -> bool:
        """Whether a message of ``size`` bytes may follow. One alone always may."""
        # Credit comes back in batches: so much may seem to be under way when nothing is.
        alone = outstanding < CIRCUIT_CREDIT_BATCH
        allowed = alone or outstanding + size <= self.window(outstanding, rtt, now)
        self._limited = self._limited or not allowed
        return allowed


def bulk_bytes(rate: float) -> int:
    """How long a bulk frame should be on a path of this rate: a power of two between ``MIN_BODY``
    and ``MAX_BODY`` that takes about ``BULK_FRAME_SECONDS``; the longest if the rate is unknown."""
    size = MAX_BODY
    while rate and size > rate * BULK_FRAME_SECONDS and size > MIN_BODY:
        size //= 2
    return size
