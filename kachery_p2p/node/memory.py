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

from .buffers import BUFFERS

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MAPPED_ABOVE = 32 * MIB
"""glibc's own ceiling for this."""
_TRIMMED_ABOVE = 128 * MIB
"""What stays with the process between two times that it is given back."""
_MUCH = 32 * MIB
_WORTH = 8 * MIB
"""Less than this back is not worth the time: the next time is put off, for longer each time."""
_LONGEST = 5
"""Times that are left out in a row at the most: a minute."""
_KEPT = 8 * MIB
"""What stays in any case: the buffers of a few records."""
_YOUNG, _MIDDLE, _NEVER = 1_000, 5, 100_000
"""Objects, and times, after which Python looks for circles among young and middle-aged objects. Nothing
else is done meanwhile: of 50,000 that takes ten times as long as a turn of the loop may."""
_COLLECTED_AT_LEAST = 10
"""Also a node that is never quiet looks for old circles, one in so many times."""


def keep_freed() -> None:
    """To be called once, when the process starts. All threads share one arena: with one for each, what
    one has freed is no use to the others, and a crowd's memory would be counted eight times."""
    if (mallopt := _of_libc("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_ABOVE)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_ABOVE)


def collect_when_quiet() -> None:
    """To be called once, when all modules are loaded: from then on old objects are looked through for
    circles by :class:`Giving`, and not in the middle of something. That stops everything for half a
    second when peers have a node hold as much as they may."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)


class Giving:
    """Gives back what is free if there may be much: ``_MUCH`` more than once sufficed."""

    def __init__(self) -> None:
        self._least = used()
        self._left_out = self._pause = 0
        self._uncollected = 0

    def give_back(self, *, quiet: bool = True) -> None:
        """For a worker thread: it takes some ten milliseconds if there is much, else none. ``quiet``:
        nobody waits for anything now."""
        BUFFERS.forget()
        now = used()
        self._least = min(self._least, now)
        if now < self._least + _MUCH:
            self._left_out = self._pause = 0
            return
        self._uncollected += 1
        if quiet or self._uncollected >= _COLLECTED_AT_LEAST:
            gc.collect()  # errors hold the frames that they passed through, and those what they carried
            self._uncollected = 0
        if self._left_out < self._pause:
            self._left_out += 1
            return
        if (trim := _of_libc("malloc_trim")) is not None:
            trim(ctypes.c_size_t(_KEPT))
        self._left_out = 0
        worth = used() <= now - _WORTH
        self._pause = 0 if worth else min(2 * self._pause + 1, _LONGEST)


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
