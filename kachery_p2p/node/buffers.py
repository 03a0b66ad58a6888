"""Memory for large records, used again when nobody reads it any more.

Fresh memory of a megabyte is filled with zeros before it is overwritten: a tenth of what a node does
for a record that it only passes on. Who is done with a record does not say so; it lets go of its views,
and that is what is looked at here.

Invariants: memory to which there is a view is not lent again; at most ``MOST`` pieces are kept; what is
asked for takes no more than twice its length. Any thread may take some.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Final

from kachery_p2p.protocol.limits import MAX_RECORD

MOST: Final = 8
"""Pieces that are remembered; more may be in use, and are forgotten then."""
_LEAST: Final = MAX_RECORD // 2
"""Less has memory of its own: much of it may wait, and each would hold a whole piece."""


class Buffers:
    """See the module."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lent: deque[bytearray] = deque(maxlen=MOST)

    def take(self, length: int) -> memoryview:
        """So many bytes, ``MAX_RECORD`` at most, with whatever was in them before."""
        if length < _LEAST:
            return memoryview(bytearray(length))
        with self._lock:
            for piece in self._lent:
                if _is_free(piece):
                    return memoryview(piece)[:length]
            piece = bytearray(MAX_RECORD)
            self._lent.append(piece)
            return memoryview(piece)[:length]

    def forget(self) -> None:
        """Keep nothing: it may be a while until there is use for it."""
        with self._lock:
            self._lent.clear()


def _is_free(piece: bytearray) -> bool:
    """Whether there is no view of it: else Python lets nobody change its length. References are no
    measure, for how many a caller has itself differs from one Python to the next."""
    try:
        piece.append(0)
    except BufferError:
        return False
    piece.pop()
    return True


BUFFERS: Final = Buffers()
