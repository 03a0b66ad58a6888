"""What people hand in where text or several things are wanted. Numbers are in :mod:`.numbers`.

Text is what counts as such: numpy's, too, which is what an array of names gives one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .errors import BadInput
from .json_values import one


def text(what: str, value: Any) -> str:
    """A text as Python's own. Raises BadInput, which names ``what``, if it is none."""
    if not isinstance(value, str):
        raise BadInput(what=what, reason=f"{one(value)}, not text")
    return str(value)


def text_or_none(what: str, value: Any) -> str | None:
    """As :func:`text`, or None."""
    return None if value is None else text(what, value)


def several(what: str, value: Any) -> list[Any]:
    """The items of a list or of anything else that has some. Raises BadInput, which names ``what``, if
    it has none to go through, or is a text, whose letters nobody means."""
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Iterable):
        raise BadInput(what=what, reason=f"{one(value)}; give a list")
    return list(value)
