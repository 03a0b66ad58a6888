"""Who reads at equal distances, and what of that comes next: pure decisions, no I/O.

So read programs that look at one thing in each chunk of a file: HDF5, at the nodes of the index of a
data set when it is asked for the names in a file, and who plots one channel of a recording. Each of
these reads waits for the one before it, so a hundred of them are a hundred round trips.

What comes next is known when two distances in a row were the same. Something else between two things,
now and then, moves the rest of them: a distance that is a little longer or shorter ends nothing.

Invariant: who jumps anywhere gets nothing. What is here already says nothing, since who looks into a
table between its jumps does not go anywhere.
"""

from __future__ import annotations

from kachery_p2p.protocol.limits import (
    PLACE_NEAR,
    READ_AHEAD_MOST,
    STRIDES_FIRST,
    STRIDES_MOST,
)

Range = tuple[int, int]


class Strides:
    """Of one reader of a file of ``size`` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._last: int | None = None
        self._step = 0
        self._window = 0
        """How many are fetched ahead; 0: the distance was seen once."""
        self._ahead = 0
        """How many of these have not been read yet."""

    def next(self, start: int, stop: int, *, here: bool) -> list[Range]:
        """Somebody reads [start, stop), of which everything is ``here`` or not: what to fetch, too."""
        if self._last is None:
            self._last = start
        step = start - self._last
        if self._ahead and step == self._step:
            self._last = start
            self._ahead -= 1
            return self._more(start, stop - start) if self._ahead <= self._window // 2 else []
        if here or abs(step) <= PLACE_NEAR:
            return []
        self._last = start
        is_like = abs(step - self._step) <= PLACE_NEAR
        goes_on = step == self._step or (is_like and self._window)
        self._ahead = 0
        if not goes_on:
            self._step, self._window = step, 0
            return []
        self._window //= 2  # what was fetched beyond was of no use
        return self._more(start, stop - start)

    def _more(self, start: int, length: int) -> list[Range]:
        """Some beyond those that are ahead already."""
        fits = READ_AHEAD_MOST // max(1, length)
        self._window = min(max(STRIDES_FIRST, 2 * self._window), STRIDES_MOST, fits)
        places = range(self._ahead + 1, self._window + 1)
        found = [start + self._step * each for each in places]
        self._ahead = max(self._ahead, self._window)
        return [(at, min(at + length, self._size)) for at in found if 0 <= at < self._size]
