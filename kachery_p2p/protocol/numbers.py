"""Numbers that people hand in: Python's, and whatever counts as one, such as numpy's integers, floats
and booleans. Text is no number."""

from __future__ import annotations

import operator
from typing import Any

from .errors import BadInput
from .json_values import one


def whole(what: str, value: Any) -> int:
    """A whole number. Raises BadInput, which names ``what``, if it is none."""
    try:
        return operator.index(value)
    except TypeError:
        number = real(what, value)
    if not number.is_integer():
        raise BadInput(what=what, reason=f"{value!r} is not a whole number")
    return int(number)


def real(what: str, value: Any) -> float:
    """Any number. Raises BadInput, which names ``what``, if it is none."""
    try:
        if isinstance(value, str | bytes | bytearray) or getattr(value, "shape", ()) != ():
            raise TypeError
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadInput(what=what, reason=f"{one(value)}, not a number") from None
