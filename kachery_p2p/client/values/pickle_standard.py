"""Values of Python's standard library out of a pickle: dates and times, Decimal, UUID, Path.

The constructors that a pickle calls believe what they are told: ``datetime`` takes any day and hour out
of its bytes. Here each value is made from checked parts by the constructor that its users have. The
modules are imported only when a pickle names something of them.

Non-goals: time zones by name (``zoneinfo``), whose pickles call functions; subclasses.
"""

from __future__ import annotations

import sys
from typing import Any, Final

from kachery_p2p.protocol.errors import UnsafePickle

from .pickle_arrays import damaged

_PATHS: Final = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
NAMES: Final[dict[tuple[str, str], str]] = {
    **{("datetime", n): n for n in ("date", "time", "datetime", "timedelta", "timezone")},
    **{(module, "Decimal"): "Decimal" for module in ("decimal", "_decimal", "_pydecimal")},
    ("uuid", "UUID"): "UUID",
    **{(module, name): name for module in ("pathlib", "pathlib._local") for name in _PATHS},
}
"""What a pickle may name, and the name under which :func:`make` knows it."""

_VALUES: Final = frozenset(
    {
        *(("datetime", n) for n in ("date", "time", "datetime", "timedelta", "timezone")),
        ("decimal", "Decimal"),
        ("uuid", "UUID"),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS),
    }
)


class PickledUuid:
    """A UUID that has no number yet, and the memo keys that must get it."""

    stands_for = "UUID without a number"
    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: list[int] = []

    def build(self, state: Any) -> Any:
        """The UUID of a state."""
        import uuid

        match state:
            case {"int": int(number)} if set(state) <= {"int", "is_safe"}:
                safe = uuid.SafeUUID(state.get("is_safe", uuid.SafeUUID.unknown.value))
                return uuid.UUID(int=number, is_safe=safe)
        raise UnsafePickle(what="a UUID of such parts")


def is_standard(value: Any) -> bool:
    """Whether it is of one of these types, exactly, and so is what it holds."""
    kind = type(value)
    if (kind.__module__, kind.__qualname__) not in _VALUES:
        return False
    if getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind:
        return False  # another type that calls itself so
    zone = getattr(value, "tzinfo", None)
    return zone is None or (type(zone).__module__, type(zone).__qualname__) == (
        "datetime",
        "timezone",
    )


def make(name: str, args: tuple[Any, ...]) -> Any:
    """The value of a call that a pickle asks for. Raises UnsafePickle, ValueError, OverflowError."""
    import datetime

    match name, args:
        case "timedelta", (int(days), int(seconds), int(microseconds)):
            return datetime.timedelta(days, seconds, microseconds)
        case "timezone", (datetime.timedelta() as offset,):
            return datetime.timezone(offset)
        case "timezone", (datetime.timedelta() as offset, str(label)):
            return datetime.timezone(offset, label)
        case "date", (bytes(packed),) if len(packed) == 4:
            return datetime.date(packed[0] << 8 | packed[1], packed[2], packed[3])
        case "time", (bytes(packed), *zone) if len(packed) == 6:
            return datetime.time(*_clock(packed, 0), tzinfo=_zone(zone), fold=packed[0] >> 7)
        case "datetime", (bytes(packed), *zone) if len(packed) == 10:
            year, month = packed[0] << 8 | packed[1], packed[2] & 0x7F
            return datetime.datetime(
                year, month, packed[3], *_clock(packed, 4), tzinfo=_zone(zone), fold=packed[2] >> 7
            )
        case "Decimal", (str(text),):
            return _decimal(text)
        case (("PosixPath" | "WindowsPath" | "PurePosixPath" | "PureWindowsPath"), parts) if all(
            isinstance(part, str) for part in parts
        ):
            return _path(name, parts)
    raise UnsafePickle(what=f"a call of {name} with these arguments")


def _clock(packed: bytes, at: int) -> tuple[int, int, int, int]:
    """Hour, minute, second and microsecond; the hour's highest bit is the fold of a time."""
    hour = packed[at] & 0x7F if at == 0 else packed[at]
    return hour, packed[at + 1], packed[at + 2], int.from_bytes(packed[at + 3 : at + 6], "big")


def _zone(zone: list[Any]) -> Any:
    import datetime

    match zone:
        case []:
            return None
        case [datetime.timezone() as one]:
            return one
    raise UnsafePickle(what="a time zone by its name")


def _decimal(text: str) -> Any:
    import decimal

    try:
        return decimal.Decimal(text)
    except decimal.InvalidOperation:
        raise damaged(f"{text[:40]!r} is no number") from None


def _path(name: str, parts: tuple[str, ...]) -> Any:
    import pathlib

    if name == "PosixPath":
        return pathlib.Path(*parts)
    # A path of another system names nothing here.
    return getattr(pathlib, "PureWindowsPath" if name == "WindowsPath" else name)(*parts)
