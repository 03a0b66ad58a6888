"""What a process gives every function that runs in it, and what a function may leave changed: the
folder, the umask, the standard streams, a timer, signals, and settings that others would then run under
without knowing: a subprocess of theirs that fails seems to succeed where SIGCHLD is ignored.

Invariant: what a function changes of these ends with it, whether it returns or raises. A process in
which that cannot be had (:attr:`Surroundings.worn`) is to run no other one.
Non-goals: what functions leave in memory, and the environment. Modules are imported once, and some set
what they need then. So what a function adds to ``sys.path`` stays, behind what was there, and a
recursion limit that it raised stays.
"""

from __future__ import annotations

import contextlib
import contextvars
import gc
import locale
import os
import resource
import signal
import socket
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

T = TypeVar("T")

_STREAMS: Final = ("stdin", "stdout", "stderr")
_STANDARD: Final = (str(Path(threading.__file__).parent), "<frozen ")
"""Where Python's own modules lie."""
_INSTALLED: Final = ("site-packages", "dist-packages")


class Surroundings:
    """``worn``: whether the function left something that nobody but the end of the process ends."""

    def __init__(self) -> None:
        self.worn = False


@contextlib.contextmanager
def kept_surroundings() -> Iterator[Surroundings]:
    """Whatever runs in here, in the main thread, leaves this process's surroundings as they are."""
    found = Surroundings()
    umask = os.umask(0o077)
    os.umask(umask)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    streams = [getattr(sys, name) for name in _STREAMS]
    threads = set(threading.enumerate())
    with contextlib.ExitStack() as stack:
        folder = _opened_folder(stack)
        copies = [_copy(number, stack) for number in range(len(_STREAMS))]
        settings = stack.enter_context(kept_settings())
        stack.enter_context(warnings.catch_warnings())
        try:
            yield found
        finally:
            found.worn = _goes_on(threads) or not settings.can_be_put_back()
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


def apart(call: Callable[[], T]) -> T:
    """What a call returns, made in a context of its own: numpy and decimal keep settings there."""

    def begin() -> T:
        decimal = sys.modules.get("decimal")
        if decimal is not None:  # a copy of a context has the same object
            decimal.setcontext(decimal.getcontext().copy())
        return call()

    return contextvars.copy_context().run(begin)


def _goes_on(before: set[threading.Thread]) -> bool:
    """Whether threads of the function do, which Python would wait for at a script's end: what they
    print, and the progress that they tell of, would be the next one's."""
    left = [each for each in threading.enumerate() if each not in before and not each.daemon]
    frames = sys._current_frames()
    return any(_is_busy(frames.get(each.ident or 0)) for each in left)


def _is_busy(frame: types.FrameType | None) -> bool:
    """Whether it is in somebody's code: a thread of a pool that waits for work is not."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_STANDARD) or any(each in file for each in _INSTALLED):
            return True
        frame = frame.f_back
    return False


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


# --- settings -----------------------------------------------------------------------------------

_Setting = tuple[Callable[[], Any], Callable[[Any], object]]
"""How it is read, and how it is set."""

_HOOKS: Final = (
    (sys, ("excepthook", "displayhook", "unraisablehook")),
    (threading, ("excepthook",)),
)
_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_LIMITS: Final = sorted(
    {getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
)


def _set_signals(handlers: list[Any]) -> None:
    for number, handler in zip(_SIGNALS, handlers, strict=True):
        # None: it was not Python that set it, nor can it be set from here.
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _set_path(before: list[str]) -> None:
    added = [each for each in dict.fromkeys(sys.path) if each not in before]
    sys.path[:] = [*before, *added]


def _set_hooks(before: list[Any]) -> None:
    found = iter(before)
    for module, names in _HOOKS:
        for name in names:
            setattr(module, name, next(found))


def _set_limits(before: list[tuple[int, int]]) -> None:
    for each, limits in zip(_LIMITS, before, strict=True):
        if resource.getrlimit(each) != limits:
            with contextlib.suppress(OSError, ValueError):  # see can_be_put_back
                resource.setrlimit(each, limits)


def _settings() -> Iterator[_Setting]:
    """The limits come first."""
    yield lambda: list(map(resource.getrlimit, _LIMITS)), _set_limits
    yield lambda: list(map(signal.getsignal, _SIGNALS)), _set_signals
    yield (
        lambda: locale.setlocale(locale.LC_ALL),
        lambda before: locale.setlocale(locale.LC_ALL, before),
    )
    yield lambda: list(sys.path), _set_path
    yield lambda: list(sys.argv), lambda before: setattr(sys, "argv", before)
    yield (
        sys.getrecursionlimit,
        lambda before: sys.setrecursionlimit(max(before, sys.getrecursionlimit())),
    )
    yield lambda: [getattr(m, name) for m, names in _HOOKS for name in names], _set_hooks
    yield sys.gettrace, sys.settrace
    yield sys.getprofile, sys.setprofile
    yield gc.isenabled, lambda before: gc.enable() if before else gc.disable()
    yield sys.getswitchinterval, sys.setswitchinterval
    yield socket.getdefaulttimeout, socket.setdefaulttimeout
    if hasattr(os, "sched_getaffinity"):
        yield lambda: os.sched_getaffinity(0), lambda before: os.sched_setaffinity(0, before)


class Settings:
    """As they were."""

    def __init__(self) -> None:
        self._before = [(read(), read, write) for read, write in _settings()]

    def can_be_put_back(self) -> bool:
        """Of a limit that was lowered for good this is not so, unless one may do anything."""
        if os.geteuid() == 0:
            return True
        limits, read, _ = self._before[0]
        return [most for _, most in limits] == [most for _, most in read()]

    def put_back(self) -> None:
        for before, read, write in self._before:
            # What the function has done may be in the way, as the removal of a locale.
            with contextlib.suppress(OSError, ValueError, TypeError, locale.Error):
                if read() != before:
                    write(before)


@contextlib.contextmanager
def kept_settings() -> Iterator[Settings]:
    """Whatever runs in here, in the main thread, leaves them as they are."""
    settings = Settings()
    try:
        yield settings
    finally:
        settings.put_back()
