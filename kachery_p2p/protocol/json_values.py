"""What people hand in as JSON: what counts as a number, and what is wrong with a value and where.

Python's encoder is fast and says neither; it also writes keys that are no text as text, so that a
reader would get another value. So who encodes asks here: :func:`careful` after it succeeded, and
:func:`flaw` after it failed.

numpy's integers, floats and booleans count as the numbers that they are, without importing numpy.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

_CONTAINERS: Final = (dict, list, tuple)
_HALVES: Final = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_SHOWN_CHARS: Final = 80
_SHOWN_STEPS: Final = 20

_REMEDIES: Final = {
    **dict.fromkeys(
        ("datetime", "date", "time", "Timestamp"),
        "write its .isoformat(), which fromisoformat() reads, or store it with store_pkl",
    ),
    "timedelta": "write its .total_seconds(), or store it with store_pkl",
    "Decimal": "write str(x), which keeps all its digits, or store it with store_pkl",
    **dict.fromkeys(
        ("UUID", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
        "write str(x), or store it with store_pkl",
    ),
}
"""What to do with values of the standard library, by the name of their type."""

_Path = tuple[Any, Any] | None
"""Where a value is: (path of its container, key or index in it)."""


def number_of(value: Any) -> bool | int | float | None:
    """A numpy number as Python's of the same value; None if it is none, or has no such."""
    kind = type(value)
    # Its scalars have no dimension, as some arrays, and unlike these can be hashed.
    scalar = kind.__module__ == "numpy" and kind.__hash__ is not None
    if not scalar or getattr(value, "shape", None) != () or value.dtype.kind not in "biuf":
        return None
    number = value.item()
    return number if type(number) in (bool, int, float) else None


def default(value: Any) -> bool | int | float:
    """For :class:`json.JSONEncoder`: the numbers that it does not know. Raises TypeError."""
    number = number_of(value)
    if number is None:
        raise TypeError(f"{one(value)} is no JSON value")
    return number


def careful(value: Any) -> Literal["keys", "named", ""]:
    """What an encoder does wrong with a value that it can encode: it has keys that are no text, or
    named tuples, whose names would be lost; '' if nothing."""
    named: Literal["named", ""] = ""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    return "keys"
            item = item.values()
        elif is_named(item):
            named = "named"
        elif not isinstance(item, list | tuple):
            continue
        todo += [inner for inner in item if isinstance(inner, _CONTAINERS)]
    return named


def is_named(value: Any) -> bool:
    """Whether it is a named tuple."""
    return isinstance(value, tuple) and callable(getattr(value, "_asdict", None))


def as_objects(value: Any) -> Any:
    """The value with named tuples as dicts of their fields."""
    if is_named(value):
        return {name: as_objects(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {key: as_objects(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_objects(item) for item in value]
    return value


def flaw(value: Any, *, surrogates: bool = True, halves: bool = False) -> str | None:
    """What in a value is not JSON, and where; None if that cannot be told.

    Args:
        surrogates: whether text with half a surrogate pair will do.
        halves: whether text in which both halves of one follow one another will not: read as JSON they
            are one letter.
    """
    around: set[int] = set()
    stack: list[tuple[Any, _Path, bool]] = [(value, None, False)]
    while stack:
        item, path, leaving = stack.pop()
        if leaving:
            around.discard(id(item))
        elif isinstance(item, _CONTAINERS):
            if id(item) in around:
                return at(path, f"this {type_name(item)} contains itself (Circular reference)")
            around.add(id(item))
            stack.append((item, path, True))
            if isinstance(item, dict):
                for key in item:
                    if not isinstance(key, str):
                        return at(path, bad_key(key))
                    if not surrogates and not _is_text(key):
                        return at(path, "a key has half a surrogate pair in it")
                    if halves and _HALVES.search(key):
                        return at(path, "a key has both halves of a surrogate pair in it")
                members = list(item.items())
            else:
                members = list(enumerate(item))
            stack.extend((inner, (path, step), False) for step, inner in reversed(members))
        elif halves and isinstance(item, str) and _HALVES.search(item):
            return at(path, "a text has both halves of a surrogate pair in it, one by one")
        elif (reason := _flaw_of(item, surrogates)) is not None:
            return at(path, reason)
    return None


def _flaw_of(value: Any, surrogates: bool) -> str | None:
    if isinstance(value, str):
        return None if surrogates or _is_text(value) else "it has half a surrogate pair in a text"
    if value is None or isinstance(value, bool):
        return None
    number = number_of(value)
    if number is not None:
        value = number
    if isinstance(value, int):
        try:
            int.__repr__(value)
        except ValueError as error:
            return f"{error}"
        return None
    if isinstance(value, float):
        return None if value - value == 0 else f"{value} is a number that JSON does not have"
    return bad_type(value)


def bad_key(key: Any) -> str:
    """Why a key is refused."""
    shown = f"{repr(key)[:_SHOWN_CHARS]} ({one(key)})"
    return f"a key is {shown}, and JSON has text keys only: use str()"


def bad_type(value: Any) -> str:
    """Why a value that is no number, text or container is refused, and what to do."""
    remedy = "convert it to str, int, float, bool, list or dict first"
    if type(value).__module__.partition(".")[0] == "numpy":
        if hasattr(value, "shape") and value.shape:
            remedy = "use its .tolist(), or store the array with store_npy"
        else:
            remedy = "use its .item(), or int(...), float(...), bool(...)"
    elif type(value).__name__ in _REMEDIES:
        remedy = _REMEDIES[type(value).__name__]
    elif isinstance(value, bytes | bytearray):
        remedy = "use its .decode(), or store it as a file and give the URI"
    return f"{one(value)} is not a JSON type: {remedy}"


def type_name(value: Any) -> str:
    """The name of a type as its user knows it."""
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def one(value: Any) -> str:
    """What a value is, with its article: "an int", "a numpy.ndarray"."""
    name = type_name(value)
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def at(path: _Path, reason: str) -> str:
    """A reason with the place that it is about, as one would write it."""
    steps = []
    while path is not None:
        path, step = path
        steps.append(f"[{repr(step)[:_SHOWN_CHARS]}]")
    if len(steps) > _SHOWN_STEPS:
        half = _SHOWN_STEPS // 2
        steps = [*steps[:half], "[...]", *steps[-half:]]
    return f"at {''.join(reversed(steps))}: {reason}" if steps else reason


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
