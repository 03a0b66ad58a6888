"""moto's server, for objects of gigabytes: run as ``python scripts/bench_s3.py -H HOST -p PORT``.

moto reads a whole object for each range of it that is asked for, in every thread that answers. Eight
reads at once of 5 GB take more memory than there is, and end as "500 Internal Server Error". Here a
large object is mapped, so that a range costs what it has.
"""

from __future__ import annotations

import mmap
from typing import Any, Final

from moto.s3.models import FakeKey
from moto.server import main

_LARGE: Final = 64_000_000
"""Bytes from which on an object is mapped. Parts of an upload are smaller."""

_whole: Any = vars(FakeKey)["value"]


def _mapped(key: Any) -> Any:
    if key.contentsize < _LARGE:
        return _whole.fget(key)
    with key.lock:
        if not hasattr(key, "mapped"):
            key._value_buffer.rollover()
            key._value_buffer.flush()
            key.mapped = mmap.mmap(key._value_buffer.fileno(), 0, access=mmap.ACCESS_READ)
        return key.mapped


if __name__ == "__main__":
    setattr(FakeKey, "value", property(_mapped, _whole.fset))  # noqa: B010
    main()
