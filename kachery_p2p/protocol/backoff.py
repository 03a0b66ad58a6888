"""How long a dialer waits before it tries again.

Exponential backoff with full jitter: the ceiling doubles from ``first`` to ``most``, and the wait
is drawn uniformly between zero and the ceiling, so that the nodes of a laboratory that lost their
proxy together do not come back together.

Pure: the random numbers are an argument, the waiting is the caller's. Not a retry policy: whether
to try again at all is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable

from .errors import BadInput


class Backoff:
    """The waits of one dialer.

    Args:
        first: ceiling of the first wait, in seconds, more than 0.
        most: ceiling of every later wait, in seconds, at least ``first``.
        rng: gives floats in [0, 1), such as ``random.Random(seed).random``.

    Raises:
        BadInput: the bounds are not 0 < first <= most.
    """

    __slots__ = ("_ceiling", "_first", "_most", "_rng")

    def __init__(self, first: float, most: float, rng: Callable[[], float]) -> None:
        if not 0 < first <= most:
            raise BadInput(what="backoff", reason=f"needs 0 < first <= most, not {first}, {most}")
        self._first = first
        self._most = most
        self._rng = rng
        self._ceiling = first

    def next(self) -> float:
        """Seconds to wait before the next attempt; each call counts as a failed attempt."""
        wait = self._rng() * self._ceiling
        self._ceiling = min(self._most, self._ceiling * 2)
        return wait

    def reset(self) -> None:
        """An attempt succeeded: the next wait is short again."""
        self._ceiling = self._first
