"""Sizes, rates and times as people write them: ``500G``, ``1.5TiB``, ``10M``, ``30d``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

from .errors import BadInput
from .limits import LEAST_RATE, MAX_FILE, MAX_KEEP_SECONDS, MOST_RATE

_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE)
_TIME: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhdwy])\s*")
_POWERS: Final = "kmgtp"
_SECONDS: Final = {
    "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0, "y": 365 * 86_400.0,
}  # fmt: skip


def parse_size(text: str | int, what: str = "size") -> int:
    """Bytes. ``k``, ``M``, ``G``, ``T``, ``P`` are powers of 1000, with an ``i`` of 1024; a ``B``
    may follow.

    Raises:
        BadInput: it is no size, or none that a disk can have.
    """
    found = _SIZE.fullmatch(str(text))
    if found is None or (found[3] and not found[2]):
        raise BadInput(what=f"{what} {text!r}", reason="write it like 500G, 1.5T or 20GiB")
    power = _POWERS.index(found[2].lower()) + 1 if found[2] else 0
    unit = 1024 if found[3] else 1000
    size = float(found[1]) * float(unit**power)
    if size > MAX_FILE:
        raise BadInput(
            what=f"{what} {str(text)[:40]!r}", reason=f"it is more than {MAX_FILE} bytes"
        )
    return round(size)


def parse_rate(text: str | int, what: str = "rate") -> int:
    """Bytes a second, as :func:`parse_size`, with or without ``/s``; 0 for ``none``: without a limit.

    Raises:
        BadInput: it is no rate, or none that can be kept to.
    """
    if str(text).strip() == "none":
        return 0
    rate = parse_size(str(text).strip().removesuffix("/s"), what)
    check_rate(rate or -1, what)
    return rate


def check_rate(rate: int, what: str = "rate") -> None:
    """Raise BadInput unless it is one that can be kept to, or 0: without a limit."""
    if rate and not LEAST_RATE <= rate <= MOST_RATE:
        reason = (
            f"{LEAST_RATE // 1000}k bytes a second at least, such as 10M for 10,000,000; or none"
        )
        raise BadInput(what=what, reason=reason)


def parse_seconds(time: str | float | timedelta, what: str = "time") -> float:
    """Seconds of a number of them, of text such as ``30d`` (s, m, h, d, w, y of 365 days), or of a
    timedelta.

    Raises:
        BadInput: it is no time, is none at all, or more than a hundred years.
    """
    seconds = math.nan
    if isinstance(time, timedelta):
        seconds = time.total_seconds()
    elif isinstance(time, int | float) and not isinstance(time, bool):
        seconds = float(time)
    elif isinstance(time, str) and (found := _TIME.fullmatch(time)) is not None:
        seconds = float(found[1]) * _SECONDS[found[2]]
    if not 0 < seconds <= MAX_KEEP_SECONDS:
        reason = "write it like 12h, 30d or 2y; a hundred years at most"
        raise BadInput(what=f"{what} {time!r}", reason=reason)
    return seconds
