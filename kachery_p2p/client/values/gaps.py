"""Bytes of an array that are no value of it.

Between the fields of an aligned structure, and beside an extended float, memory holds whatever was
there before; and some columns of a table (``table[["id", "score"]]``) are the whole table, of which the
other columns are the gaps. Neither may be stored: others would read what was not given to them, and the
same array would have another URI each time. Gaps are stored as zeros.

Pure. numpy is imported where an array is at hand.
"""

from __future__ import annotations

import sys
from typing import Any, Final

_EXTENDED: Final = "gG"
"""The dtypes that may have unused bytes without having fields: long doubles and pairs of them."""
_X87_MANTISSA: Final = 63
_X87_BYTES: Final = 10


def may_have_gaps(dtype: Any) -> bool:
    """False for nearly all; otherwise :func:`without_gaps` looks closer."""
    return dtype.fields is not None or dtype.base.fields is not None or dtype.base.char in _EXTENDED


def without_gaps(array: Any) -> Any:
    """An array or numpy scalar of the same value whose gaps are zeros: itself if it has none."""
    import numpy as np

    dtype = array.dtype
    if not may_have_gaps(dtype) or not dtype.itemsize:
        return array
    used = np.zeros(dtype.itemsize, bool)
    _mark(used, dtype)
    if used.all():
        return array
    if isinstance(array, np.generic):
        return without_gaps(np.array(array))[()]
    by_columns = array.flags.f_contiguous and not array.flags.c_contiguous
    copy = array.copy("F" if by_columns else "C")
    flat = (copy.T if by_columns else copy).reshape(-1)
    flat.view(np.uint8).reshape(-1, dtype.itemsize)[:, ~used] = 0
    return copy


def _mark(used: Any, dtype: Any) -> None:
    """Mark in one boolean a byte which bytes of an item are used."""
    if dtype.subdtype is not None:
        part = dtype.base.itemsize
        if part:
            _mark_each(used.reshape(-1, part), dtype.base)
    elif dtype.fields is not None:
        for field in dtype.fields.values():
            inner, offset = field[0], field[1]
            _mark(used[offset : offset + inner.itemsize], inner)
    else:
        _mark_each(used.reshape(1, -1), dtype)


def _mark_each(rows: Any, dtype: Any) -> None:
    """The same for several items of one dtype that lie one after the other."""
    import numpy as np

    one = np.zeros(dtype.itemsize, bool)
    if dtype.fields is not None or dtype.subdtype is not None:
        _mark(one, dtype)
    elif dtype.char in _EXTENDED and np.finfo(np.longdouble).nmant == _X87_MANTISSA:
        little = dtype.byteorder == "<" or (dtype.byteorder == "=" and sys.byteorder == "little")
        part = one.reshape(2 if dtype.kind == "c" else 1, -1)
        part[:, :_X87_BYTES] = little
        part[:, -_X87_BYTES:] |= not little
    else:
        one[:] = True
    rows |= one
