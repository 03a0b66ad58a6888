"""What the C library does with memory that is free again. Elsewhere than on glibc: nothing.

Records of 1 MiB come and go all the time. By default each is a mapping of its own, whose pages the
kernel clears anew: a tenth of the time of a transfer. So :func:`keep_freed` has such buffers kept. They
lie scattered then, and what was in use once, in a crowd say, would stay with the process for ever:
:class:`Giving` hands it back to the system, now and then.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import resource
from collections.abc import Callable
from typing import Any

from kachery_p2p.protocol.limits import MIB

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_ABOVE = 32 * MIB
"""glibc's own ceiling for this."""
_TRIMMED_ABOVE = 128 * MIB
"""What stays with the process between two times that it is given back."""
_MUCH = 32 * MIB
_TIMES = 12
"""In a row: a crowd that has gone still holds something, until all its streams have stalled."""
_KEPT = 8 * MIB
"""What stays in any case: the buffers of a few records."""


def keep_freed() -> None:
    """To be called once, when the process starts."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_ABOVE)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_ABOVE)


class Giving:
    """Gives back what is free if there may be much: ``_MUCH`` more than once sufficed."""

    def __init__(self) -> None:
        self._least = used()
        self._times = 0

    def give_back(self) -> None:
        """For a worker thread: it takes some ten milliseconds if there is much, else none."""
        now = used()
        self._least = min(self._least, now)
        if now < self._least + _MUCH:
            self._times = 0
            return
        gc.collect()  # errors hold the frames that they passed through, and those what they carried
        if (trim := _of_libc("malloc_trim")) is not None:
            trim(ctypes.c_size_t(_KEPT))
        self._times += 1
        if self._times == _TIMES:  # it is in use
            self._least, self._times = used(), 0


def used() -> int:
    """Bytes of memory that this process has; 0 where that is not to be found out."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


@functools.cache
def _of_libc(name: str) -> Callable[..., Any] | None:
    with contextlib.suppress(OSError, AttributeError):
        function: Callable[..., Any] = getattr(ctypes.CDLL(None), name)
        return function
    return None
