"""How fast a source gives, measured while something is asked of it, and whether it has gone silent."""

from __future__ import annotations

from typing import Final

from kachery_p2p.protocol.limits import SILENCE_SECONDS, SILENCE_TRIPS

_HALF_LIFE: Final = 1.0
"""Seconds after which what was measured counts half."""
_OF_LATE: Final = 4
"""So many times as fast is that forgotten for the rate of late."""
_LEAST_SECONDS: Final = 0.02
"""What came in less time than this says little of the rate: it was under way together."""
_FASTEST: Final = 1e10
"""Bytes a second beyond which it does not matter how fast a source is that we hold back."""


class Delivery:
    """``rtt`` is the round-trip time to the source. Times are in seconds, on any clock that never goes
    back."""

    def __init__(self, rtt: float) -> None:
        self.rtt = rtt
        self._busy = False
        self._held = self._untaken = 0
        self._heard = self._measured = 0.0
        self._bytes = self._seconds = 0.0
        self._bytes_of_late = self._seconds_of_late = 0.0

    def asked(self, now: float) -> None:
        """It has something to give from now on."""
        if not self._busy:
            self._busy = True
            self._heard = now
            self._measured = now + self.rtt

    def idle(self) -> None:
        """Nothing more is asked of it."""
        self._busy, self._untaken = False, 0

    def hold(self, size: int, now: float) -> None:
        """So many bytes have come, and we do not take them yet: until :meth:`let_go` it is not the
        source that is slow."""
        self._measure(now)
        self._bytes = _grown(self._bytes, size, self._seconds)
        self._bytes_of_late = _grown(self._bytes_of_late, size, self._seconds_of_late)
        self._untaken += size
        self._held += 1

    def let_go(self, now: float) -> None:
        """We take them now, or never."""
        self._measure(now)
        self._held -= 1
        self._heard = now

    def _measure(self, now: float) -> None:
        self._bytes, self._seconds = self._sums(now)
        self._bytes_of_late, self._seconds_of_late = self._sums_of_late(now)
        self._measured = max(now, self._measured)

    def came(self, size: int, now: float) -> None:
        """So many bytes came from it."""
        self._measure(now)
        known = min(size, self._untaken)
        self._untaken -= known
        self._bytes += size - known
        self._bytes_of_late += size - known
        self._heard = now

    def _sums(self, now: float) -> tuple[float, float]:
        return self._faded(self._bytes, self._seconds, now, _HALF_LIFE)

    def _sums_of_late(self, now: float) -> tuple[float, float]:
        half_life = _HALF_LIFE / _OF_LATE
        return self._faded(self._bytes_of_late, self._seconds_of_late, now, half_life)

    def _faded(
        self, size: float, seconds: float, now: float, half_life: float
    ) -> tuple[float, float]:
        passed = self._passed(now)
        kept = 0.5 ** (passed / half_life)
        return size * kept, seconds * kept + passed

    def _passed(self, now: float) -> float:
        """Seconds since the last measurement in which something should have come."""
        return max(0.0, now - self._measured) if self._busy and not self._held else 0.0

    def rate(self, now: float) -> float | None:
        """Bytes a second; None while nothing has come yet. It falls while nothing comes that should."""
        if not self._bytes:
            return None
        size, seconds = self._sums(now)
        return max(1.0, size / max(seconds, _LEAST_SECONDS))

    def least_rate(self, now: float) -> float | None:
        """As :meth:`rate`, or the rate of late if it is less: who has become slow is known to be so
        long before the average says it."""
        rate = self.rate(now)
        if rate is None:
            return None
        size, seconds = self._sums_of_late(now)
        return max(1.0, min(rate, size / max(seconds, _LEAST_SECONDS)))

    def silence(self, now: float) -> float:
        """Seconds for which nothing has come that should."""
        return now - self._heard if self._busy and not self._held else 0.0

    def is_silent(self, now: float) -> bool:
        """Nothing has come for so long that others should do its work."""
        return self.silence(now) > max(SILENCE_SECONDS, SILENCE_TRIPS * self.rtt)


def _grown(came: float, size: int, seconds: float) -> float:
    """What came in so many seconds, with so many bytes more, of which not all count if that is faster
    than anything."""
    return max(came, min(came + size, _FASTEST * max(seconds, _LEAST_SECONDS)))
