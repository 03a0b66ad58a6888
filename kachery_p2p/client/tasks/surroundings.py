"""What a process gives every function that runs in it, and what a function may leave changed: the
folder, the umask, the standard streams, a timer, blocked signals.

Invariant: what a function changes of these ends with it, whether it returns or raises.
Non-goals: what functions leave in memory, and the environment: a module that sets a variable when it
is imported sets it once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any, Final

_STREAMS: Final = ("stdin", "stdout", "stderr")


@contextlib.contextmanager
def kept_surroundings() -> Iterator[None]:
    """Whatever runs in here, in the main thread, leaves this process's surroundings as they are."""
    umask = os.umask(0o077)
    os.umask(umask)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    streams = [getattr(sys, name) for name in _STREAMS]
    with contextlib.ExitStack() as stack:
        folder = _opened_folder(stack)
        copies = [_copy(number, stack) for number in range(len(_STREAMS))]
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.umask(umask)
            if folder is not None:
                with contextlib.suppress(OSError):  # it may be entered no more
                    os.fchdir(folder)
            for number, (name, stream, copy) in enumerate(
                zip(_STREAMS, streams, copies, strict=True)
            ):
                if copy is not None and not _same(number, copy):
                    os.dup2(copy, number)
                setattr(sys, name, stream if _open(stream) else _reopened(number))


def _opened_folder(stack: contextlib.ExitStack) -> int | None:
    with contextlib.suppress(OSError):  # it is gone: no relative path leads anywhere
        folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        stack.callback(_close, folder)
        return folder
    return None


def _copy(number: int, stack: contextlib.ExitStack) -> int | None:
    with contextlib.suppress(OSError):
        copy = os.dup(number)
        stack.callback(_close, copy)
        return copy
    return None


def _close(number: int) -> None:
    with contextlib.suppress(OSError):  # functions that become a service close all that they find
        os.close(number)


def _same(one: int, other: int) -> bool:
    try:
        return os.path.sameopenfile(one, other)
    except OSError:  # the first was closed
        return False


def _open(stream: Any) -> bool:
    try:
        return stream is None or not stream.closed
    except ValueError:  # it was detached
        return False


def _reopened(number: int) -> Any:
    if number == 0:
        return open(number, closefd=False)  # it stays
    return open(
        number,
        "w",
        buffering=1,
        encoding="utf-8",
        errors="backslashreplace",
        closefd=False,
    )
