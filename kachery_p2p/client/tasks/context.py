"""Inside a task function: its progress, what it prints, and whether it is to stop.

A :class:`TaskContext` belongs to one run of a function, wherever that is: in a worker process of the
pool, in a thread, or in a process of the user's own executor. It gathers what there is to say and hands
it on a few times a second, so that a function that prints a lot costs little.

Invariants: what is handed on is in order, and nothing is handed on after :meth:`TaskContext.finish`; of
what was printed and not yet handed on, the newest :data:`_MOST_LOG` bytes are kept.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from kachery_p2p.protocol.limits import MAX_TASK_LOG, MAX_TASK_MESSAGE
from kachery_p2p.protocol.tasks.messages import sendable

Tell = Callable[[float | None, str, bytes], None]
"""Fraction done (0 to 1, or None), message, and what was printed since the last time."""

_PAUSE_SECONDS: Final = 0.05
_MOST_LOG: Final = 32 * MAX_TASK_LOG


class TaskContext:
    """One run of a task function. ``tell`` is called in a thread of its own; ``on_wait`` when the
    function begins or ends to wait for other tasks, with which of both it is."""

    def __init__(
        self, tell: Tell, on_wait: Callable[[bool], object] = lambda waiting: None
    ) -> None:
        self.task: bytes | None = None
        """The id under which its node knows the run, if there is one."""
        self.noticed = False
        """Whether the function was told that it is to stop."""
        self._tell = tell
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._fraction: float | None = None
        self._message = ""
        self._log = bytearray()
        self._dirty = False
        self._finished = False
        self._cancelled = False
        self._on_cancel: list[Callable[[], object]] = []
        self._on_wait = on_wait
        self._waits = 0
        self._waiting = threading.Lock()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        """Ask the function to stop."""
        with self._lock:
            self._cancelled = True
            callbacks, self._on_cancel = self._on_cancel, []
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Have something called when the function is to stop; at once if it is."""
        with self._lock:
            if not self._cancelled:
                self._on_cancel.append(callback)
                return
        callback()

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """In here the function waits for other tasks, so that it leaves its slot to them."""
        self._count_waits(1)
        try:
            yield
        finally:
            self._count_waits(-1)

    def _count_waits(self, change: int) -> None:
        with self._waiting:
            before = self._waits > 0
            self._waits += change
            if before != (self._waits > 0):
                with contextlib.suppress(OSError):  # nobody listens any more
                    self._on_wait(self._waits > 0)

    def begin(self) -> None:
        """Have it told that the function runs."""
        with self._lock:
            self._touch()

    def progress(self, fraction: float | None, message: str) -> None:
        with self._lock:
            self._fraction, self._message = fraction, message
            self._touch()

    def write(self, text: str) -> bool:
        """Something was printed. False: the run is over."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            if self._finished:
                return False
            self._log += data
            if len(self._log) > _MOST_LOG:
                del self._log[: len(self._log) - _MOST_LOG]
            self._touch()
            return True

    def _touch(self) -> None:
        if not self._dirty and not self._finished:
            self._dirty = True
            _pace(self)

    def flush(self) -> None:
        """Hand on what is new."""
        with self._telling:
            with self._lock:
                if self._finished:
                    return
                self._dirty = False
                log, self._log = bytes(self._log), bytearray()
                fraction, message = self._fraction, self._message
            self._tell(fraction, message, log)

    def finish(self) -> bytes:
        """The run is over; what was printed and not yet handed on."""
        with self._telling, self._lock:
            self._finished = True
            log, self._log = bytes(self._log), bytearray()
            return log


# --- a few times a second ------------------------------------------------------------------------

_waiting: queue.SimpleQueue[TaskContext] = queue.SimpleQueue()
_pacer_lock = threading.Lock()
_pacer: threading.Thread | None = None


def _pace(context: TaskContext) -> None:
    global _pacer
    _waiting.put(context)
    if _pacer is None or not _pacer.is_alive():  # not after a fork
        with _pacer_lock:
            if _pacer is None or not _pacer.is_alive():
                _pacer = threading.Thread(target=_tell_all, name="kachery-p2p-tasks", daemon=True)
                _pacer.start()


def _tell_all() -> None:
    while True:
        due = [_waiting.get()]
        time.sleep(_PAUSE_SECONDS)
        with contextlib.suppress(queue.Empty):
            while True:
                due.append(_waiting.get_nowait())
        for context in due:
            with contextlib.suppress(OSError):  # nobody listens any more
                context.flush()


# --- which run this is ---------------------------------------------------------------------------

_current: contextvars.ContextVar[TaskContext | None] = contextvars.ContextVar(
    "kachery_p2p_task", default=None
)
_of_process: TaskContext | None = None
"""In a worker process, which runs one task at a time: that of all its threads."""


def current() -> TaskContext | None:
    """The run of a task function that the caller is part of, if any."""
    return _current.get() or _of_process


@contextlib.contextmanager
def running(context: TaskContext, *, whole_process: bool = False) -> Iterator[None]:
    """What runs in here is the task function; what it prints is captured."""
    global _of_process
    token = _current.set(context)
    if whole_process:
        _of_process = context
    try:
        # Of a whole process the parent hears whatever is written.
        with contextlib.nullcontext() if whole_process else _captured():
            yield
    finally:
        _current.reset(token)
        if whole_process:
            _of_process = None


def waits_for_tasks() -> contextlib.AbstractContextManager[None]:
    """What runs in here waits for other tasks: a task function gives up its slot meanwhile."""
    context = current()
    return contextlib.nullcontext() if context is None else context.waits()


def _leave() -> None:
    """In a forked child: the threads that tell of the run, and their locks, are the parent's. What the
    child writes goes where its standard output goes."""
    global _of_process, _waiting, _pacer_lock, _pacer
    _of_process, _pacer = None, None
    _waiting, _pacer_lock = queue.SimpleQueue(), threading.Lock()
    _current.set(None)


os.register_at_fork(after_in_child=_leave)


def task_progress(fraction: float | None, message: str = "") -> None:
    """Say, inside a task function, how far it has come; its requester sees it.

    Outside one it does nothing, so that the function can be called like any other.

    Args:
        fraction: 0 to 1, or None if it is not known.
        message: a few words, at most 1,000 characters.
    """
    context = current()
    if context is None:
        return
    if fraction is not None:
        fraction = float(fraction)
        fraction = None if math.isnan(fraction) else min(1.0, max(0.0, fraction))
    context.progress(fraction, sendable(str(message)[:MAX_TASK_MESSAGE])[:MAX_TASK_MESSAGE])


def task_cancelled() -> bool:
    """Whether the task function that asks this is to stop. Then return soon, or raise: what it
    returns is thrown away, and a worker process that goes on is ended. False outside a task."""
    context = current()
    if context is None or not context.cancelled:
        return False
    context.noticed = True
    return True


# --- what is printed -----------------------------------------------------------------------------


class _Stream:
    """Standard output or error for everybody; what a task function writes goes to its requester."""

    def __init__(self, original: Any) -> None:
        self.original = original
        self.users = 0
        self.buffer = _Buffer(original)

    def write(self, text: str) -> int:
        context = current()
        if context is not None and isinstance(text, str) and context.write(text):
            return len(text)
        if self.original is None:  # closed, as with pythonw or a service
            return len(text)
        written: int = self.original.write(text)
        return written

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self.original is not None:
            self.original.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


class _Buffer:
    """The same for who writes bytes."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def write(self, data: Any) -> int:
        context = current()
        text = bytes(data).decode("utf-8", "replace")
        if context is not None and context.write(text):
            return len(bytes(data))
        written: int = self._original.buffer.write(data)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original.buffer, name)


_streams_lock = threading.Lock()


@contextlib.contextmanager
def _captured() -> Iterator[None]:
    """Threads share their standard streams: the one of each run is told by its context."""
    names = ("stdout", "stderr")
    proxies: list[Any] = []
    with _streams_lock:
        for name in names:
            proxy: Any = getattr(sys, name)
            if not isinstance(proxy, _Stream):
                proxy = _Stream(proxy)
                setattr(sys, name, proxy)
            proxy.users += 1
            proxies.append(proxy)
    try:
        yield
    finally:
        with _streams_lock:
            for name, proxy in zip(names, proxies, strict=True):
                proxy.users -= 1
                if proxy.users == 0 and getattr(sys, name) is proxy:
                    setattr(sys, name, proxy.original)
