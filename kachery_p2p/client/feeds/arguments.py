"""What readers of feeds give and get: counts, times, and the errors that mean that there is nothing."""

from __future__ import annotations

from typing import Any, Final

from kachery_p2p.protocol.errors import BadInput, NotFound, NotKnownYet
from kachery_p2p.protocol.limits import MAX_CALL_SECONDS, MAX_FEED_MESSAGES
from kachery_p2p.protocol.numbers import real, whole

NOBODY_HAS_IT: Final = (NotFound, NotKnownYet)
"""What a read of a subfeed raises of which no message is to be had, nor an owner to be asked."""


def checked_count(what: str, value: int) -> int:
    """``value`` as an int. Raises BadInput if it counts no messages."""
    number = whole(what, value)
    if not 0 <= number <= MAX_FEED_MESSAGES:
        raise BadInput(what=what, reason=f"{number} is not from 0 to {MAX_FEED_MESSAGES}")
    return number


def checked_name(name: Any) -> Any:
    """A subfeed's name. Raises BadInput for None, which has a hash as any JSON value, and which no URI
    can name."""
    if name is None:
        reason = "None, as a variable that is not set is; give text, or any other JSON value"
        raise BadInput(what="subfeed name", reason=reason)
    return name


def seconds(wait_msec: float) -> float:
    """Milliseconds as seconds, bounded. Raises BadInput if they are none."""
    milliseconds = real("wait_msec", wait_msec)
    if not milliseconds >= 0:
        raise BadInput(what="wait_msec", reason=f"{wait_msec!r} is not 0 or more milliseconds")
    return min(milliseconds / 1000, MAX_CALL_SECONDS / 2)
