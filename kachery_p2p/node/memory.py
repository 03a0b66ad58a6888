"""What the C library does with memory that is free again. Elsewhere than on glibc: nothing.

Records of 1 MiB come and go all the time. By default each is a mapping of its own, whose pages the
kernel clears anew: a tenth of the time of a transfer. So :func:`keep_freed` has such buffers kept. They
lie scattered then, and what was in use once, in a crowd say, would stay with the process for ever:
:func:`give_back` hands it back to the system, now and then.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Callable
from typing import Any

from kachery_p2p.protocol.limits import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_ABOVE = 32 * MIB
"""glibc's own ceiling for this."""
_TRIMMED_ABOVE = 128 * MIB
"""What stays with the process between two times that it is given back."""
_KEPT = 8 * MIB
"""What stays in any case: the buffers of a few records."""


def keep_freed() -> None:
    """To be called once, when the process starts."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_ABOVE)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_ABOVE)


def give_back() -> None:
    """Hand free memory back to the system. Takes milliseconds: for a worker thread."""
    if (trim := _of_libc("malloc_trim")) is not None:
        trim(ctypes.c_size_t(_KEPT))


@functools.cache
def _of_libc(name: str) -> Callable[..., Any] | None:
    with contextlib.suppress(OSError, AttributeError):
        function: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
        return function
    return None
