"""Yes or no, read as a value and called as a function alike.

kachery_client has ``feed.is_writeable``, kachery_p2p 0.8 had ``feed.is_writeable()``; a bound method
is always true, and a bool cannot be called. This is an int, 0 or 1, since nothing can derive from bool.
"""

from __future__ import annotations


class Flag(int):
    """0 or 1, shown as False or True; a call gives the bool."""

    def __call__(self) -> bool:
        return bool(self)

    def __repr__(self) -> str:
        return repr(bool(self))

    __str__ = __repr__
