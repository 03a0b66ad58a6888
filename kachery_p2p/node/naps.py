"""Time that this process did not have: it was stopped, or its computer slept, and its clock went on.

Who measures how long nothing came takes that off. What else has a deadline ends by it, and is tried
again as after any other failure.
"""

from __future__ import annotations

from kachery_p2p.protocol.limits import HOUSEKEEPING_SECONDS, STOPPED_SECONDS


class Naps:
    """``now`` is in seconds of any clock that never goes back. :meth:`beat` is to be called
    ``HOUSEKEEPING_SECONDS`` apart."""

    def __init__(self) -> None:
        self._total = 0.0
        self._beat: float | None = None

    def beat(self, now: float) -> None:
        """This process runs."""
        self._total = self.total(now)
        self._beat = now

    def total(self, now: float) -> float:
        """Seconds that it has slept by now, as far as it was noticed."""
        late = 0.0 if self._beat is None else now - self._beat - HOUSEKEEPING_SECONDS
        return self._total + (late if late > STOPPED_SECONDS else 0.0)


class Patience:
    """How long something is waited for that makes no progress: ``first`` seconds, and ``later`` ones
    once it has made some. What this process slept does not count."""

    def __init__(self, naps: Naps, first: float, later: float) -> None:
        self.seconds = first
        self._later = later
        self._naps = naps
        self._since = 0.0

    def begin(self, now: float) -> None:
        """From now on it is waited for."""
        self._since = now - self._naps.total(now)

    def progressed(self, now: float) -> None:
        self.begin(now)
        self.seconds = self._later

    def is_over(self, now: float) -> bool:
        return now - self._naps.total(now) - self._since > self.seconds
