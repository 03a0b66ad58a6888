"""The event loop that node and client run on: uvloop's where it works, asyncio's own elsewhere.

Invariants: a uvloop that is missing or broken costs speed and nothing else; an ``asyncio.run`` that
somebody replaced (nest_asyncio does) is not used; a process that has no descriptors left gets an error
before uvloop is asked, which would end the process.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from kachery_p2p.protocol.errors import LoopNotMade
from kachery_p2p.protocol.limits import LOOP_DESCRIPTORS

R = TypeVar("R")

_STANDARD_ERROR: Final = 2

log = logging.getLogger(__name__)


def run(main: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run ``main()`` on a new event loop and return what it returns.

    Raises:
        LoopNotMade: there can be no loop, and why.
        Others as ``main()``.
    """
    results: list[R] = []
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            # Made here, so that nothing was begun if there is no loop.
            runner.get_loop()
            results.append(runner.run(main()))
    except RuntimeError:
        # A loop waits for its threads in a thread of its own. While Python ends it has ended them
        # itself, and 3.12 starts none any more.
        if not (results and python_ends()):
            raise
    return results[0]


def python_ends() -> bool:
    """Whether the program has come to its end: it waits for threads, or handlers of atexit run."""
    # The main thread counts as alive until others have ended from Python 3.13 on.
    ending = getattr(threading, "_SHUTTING_DOWN", False)
    return bool(ending) or not threading.main_thread().is_alive()


def end_with_program() -> None:
    """Does nothing, but in a daemon thread of a program that ends: the program stops such a thread
    where it is. That a call of ours ended before that is no error, and would be the last thing that
    the program's user reads."""
    if python_ends() and threading.current_thread().daemon:
        threading.Event().wait()


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A new event loop. Raises LoopNotMade."""
    patched = _patched_by()
    if patched:
        raise LoopNotMade(
            reason=f"{patched} has replaced Python's sockets or threads in this process, on which "
            f"asyncio does not run: call kachery_p2p in a process of its own"
        )
    try:
        _check_descriptors()
        return _factory()()
    except OSError as error:
        raise not_made(error) from error


def not_made(error: BaseException) -> LoopNotMade:
    """What it is called that ``error`` kept an event loop, or its thread, from being made."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        reason = "this process may open no further file ('ulimit -n' shows and raises the limit)"
    else:
        text = error.strerror if isinstance(error, OSError) else str(error)
        reason = f"{type(error).__name__}: {text or 'it did not say why'}"
    return LoopNotMade(reason=reason)


def _patched_by() -> str | None:
    """Which library replaced what a loop stands on, and would let it wait for ever."""
    for library, module, question in (
        ("gevent", "gevent.monkey", "is_module_patched"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched"),
    ):
        ask = getattr(sys.modules.get(module), question, None)
        if ask is not None and any(ask(name) for name in ("socket", "thread")):
            return library
    return None


def _check_descriptors() -> None:
    """Raise OSError if a loop would find too few: where uvloop finds none it aborts the process."""
    held: list[int] = []
    try:
        # Where standard input, output or error is closed, /dev/null stays: uvloop aborts the process if
        # a file of its own comes to lie there.
        while (fd := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
            os.set_inheritable(fd, True)
        held.append(fd)
        for _ in range(LOOP_DESCRIPTORS):
            held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for each in held:
            os.close(each)


def _factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except Exception as error:  # missing, or built for another Python: whatever its import raises
        log.info("asyncio's own event loop is used, for uvloop cannot be: %s", error)
        return asyncio.new_event_loop
    return uvloop.new_event_loop
