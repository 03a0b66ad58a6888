"""numpy values out of a pickle, made by numpy's public constructors only.

numpy's own ``__setstate__`` believes what it is told: a dtype whose flags lie, or whose fields lie
outside it, makes an array that reads and writes foreign memory. Here every part is checked, and no
dtype with Python objects can be named. Byte order, units, fields, nested and aligned structures are
kept; the dtype's metadata is not.

Used by pickle_reader.py alone. numpy is imported only when a pickle names something of it.
"""

from __future__ import annotations

import math
from typing import Any, Final

from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import BadInput, UnsafePickle

_DTYPE_KINDS: Final = frozenset("biufcmMSUV")
_ALIGNED_STRUCT: Final = 0x80
_MAX_DIMENSIONS: Final = 64


def damaged(reason: str) -> BadInput:
    """The error for a pickle that nobody's pickler wrote."""
    return BadInput(what="pickle", reason=f"it is damaged or not plain: {reason}")


class PickledDType:
    """A dtype; BUILD replaces the plain one with one that has byte order, unit or fields.

    ``fields`` and ``depth`` count this dtype and all inside it.
    """

    stands_for = "numpy.dtype"
    __slots__ = ("code", "depth", "dtype", "fields")

    def __init__(self, code: str) -> None:
        self.code = code
        self.dtype = _plain_dtype(code)
        self.fields = 1
        self.depth = 1

    def build(self, state: Any) -> None:
        """What numpy's ``__setstate__`` would do, by numpy's public constructors."""
        inside = _inner_dtypes(state)
        self.fields = 1 + sum(part.fields for part in inside)
        self.depth = 1 + max((part.depth for part in inside), default=0)
        if self.fields > limits.MAX_DTYPE_FIELDS or self.depth > limits.MAX_DTYPE_DEPTH:
            raise damaged("a dtype has too many fields")
        self.dtype = _dtype_of_state(self.code, state)


class PickledArray:
    """An array that has no content yet, and the memo keys that must get it."""

    stands_for = "numpy array without content"
    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: list[int] = []


def _plain_dtype(code: str) -> Any:
    import numpy as np

    if code[:1] not in _DTYPE_KINDS or not (code[1:].isdecimal() or code in ("M8", "m8")):
        raise UnsafePickle(what=f"the dtype {code[:40]!r}")
    return np.dtype(code)


def _inner_dtypes(state: Any) -> list[PickledDType]:
    match state:
        case (_, _, (PickledDType() as base, _), *_):
            return [base]
        case (_, _, _, _, dict(fields), *_):
            inner = [part for field in fields.values() if type(field) is tuple for part in field]
            return [part for part in inner if type(part) is PickledDType]
    return []


def _dtype_of_state(code: str, state: Any) -> Any:
    import numpy as np

    plain = _plain_dtype(code)
    match state:
        case (3, str(order), None, None, None, int(), int(), int()):
            return _ordered(plain, order)
        case (4, str(order), None, None, None, int(), int(), int(), metadata):
            if plain.kind not in "mM":
                return _ordered(plain, order)
            match metadata:
                case (_, (bytes(unit), int(count), int(), int())):
                    name = f"[{count}{unit.decode('ascii')}]" if unit != b"generic" else ""
                    return _ordered(np.dtype(f"{plain.kind}8{name}"), order)
        case (3 | 4, "|", (PickledDType() as base, shape), None, None, int(), int(), int(), *_):
            return np.dtype((base.dtype, _checked_shape(shape)))
        case (3 | 4, "|", None, tuple(names), dict(fields), int(size), int(), int(flags), *_):
            chosen = [fields[name] for name in names]
            if not all(type(field) is tuple and len(field) == 2 for field in chosen):
                raise UnsafePickle(what="a dtype with titles")
            if not all(type(field[0]) is PickledDType for field in chosen):
                raise damaged("a dtype has a field without a dtype")
            parts = {
                "names": list(names),
                "formats": [field[0].dtype for field in chosen],
                "offsets": [field[1] for field in chosen],
                "itemsize": size,
            }
            return np.dtype(parts, align=bool(flags & _ALIGNED_STRUCT))  # type: ignore[call-overload]
    raise damaged("a dtype has a state that numpy does not write")


def _ordered(dtype: Any, order: str) -> Any:
    if order not in ("<", ">", "|", "="):
        raise damaged("a dtype has an unknown byte order")
    return dtype if order == "|" else dtype.newbyteorder(order)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if (
        type(shape) is not tuple
        or len(shape) > _MAX_DIMENSIONS
        or not all(type(length) is int and length >= 0 for length in shape)
    ):
        raise damaged("an array has an impossible shape")
    return shape


def new_array(dtype: Any, shape: Any, data: bytes | bytearray, order: Any) -> Any:
    """A writable array of its own memory that holds exactly ``data``."""
    import numpy as np

    shape = _checked_shape(shape)
    if order not in ("C", "F"):
        raise damaged("an array has an unknown order")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise damaged("an array has a shape that does not fit its bytes")
    return np.ndarray(shape, dtype, buffer=data, order=order).copy(order)
