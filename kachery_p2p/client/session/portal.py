"""Where scripts and notebooks meet the async API: one event loop in one background thread.

A sync call hands its coroutine to that loop and waits. So it works in a plain script, from any
thread, and inside a running loop (a notebook), and a connection made by one call serves the next.
What only asks the node something is spared the way there and back (:mod:`.thread_connection`).

Invariants: at most one portal per process, made at first use and made anew after a fork; a call
either returns what the coroutine returned or raises what it raised; if there can be no loop (no
descriptors or threads are left, or the interpreter has ended) it raises that, and the next call tries
again; when waiting is interrupted (Ctrl-C), the coroutine is cancelled and has had time to clean up
before the interrupt goes on; the interpreter's exit never hangs on it.

Non-goals: async generators; calls from the portal's own thread, which could only deadlock and are
refused.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import functools
import inspect
import os
import re
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Generic, ParamSpec, TypeVar

from kachery_p2p.local import loops, places
from kachery_p2p.protocol import limits
from kachery_p2p.protocol.errors import Cancelled, KacheryError, LoopNotMade

from . import thread_connection
from .tracebacks import trimmed

P = ParamSpec("P")
R = TypeVar("R")

THREAD_NAME: Final = "kachery-p2p-portal"


class _Call(Generic[R]):
    """One coroutine on the portal's loop, and the thread that waits for it."""

    def __init__(self, factory: Callable[[], Coroutine[Any, Any, R]], name: str) -> None:
        self.outcome: concurrent.futures.Future[R] = concurrent.futures.Future()
        self._factory = factory
        self._name = name
        self._context = contextvars.copy_context()
        # A sync call that is under way here may have a connection: that is its thread's alone.
        self._context.run(thread_connection.leave_lease)
        self._task: asyncio.Task[R] | None = None

    def start(self) -> None:
        """On the loop."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._guarded(), context=self._context)
        self._task.add_done_callback(self._finish)

    def cancel(self) -> None:
        """On the loop."""
        if self._task is None:
            self.abandon()  # interrupted before start() was even scheduled
        else:
            self._task.cancel()

    def abandon(self) -> None:
        """Once it is certain that the coroutine does not run."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.outcome.set_exception(Cancelled(what=self._name))

    async def _guarded(self) -> R:
        try:
            return await self._factory()
        except (KeyboardInterrupt, SystemExit) as error:
            # asyncio would let these end the loop, and with it everybody else's calls.
            self.outcome.set_exception(error)
            raise asyncio.CancelledError from error

    def _finish(self, task: asyncio.Task[R]) -> None:
        if self.outcome.done():
            return
        if task.cancelled():
            self.abandon()
            return
        error = task.exception()
        if error is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


class _Threads(concurrent.futures.ThreadPoolExecutor):
    """The loop's threads for what blocks. Handlers of atexit may call us when Python takes no more work
    for threads; then the loop's own does it."""

    def submit(
        self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> concurrent.futures.Future[R]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError as error:
            if not loops.python_ends():  # then there are no threads left
                raise loops.not_made(error) from error
        done: concurrent.futures.Future[R] = concurrent.futures.Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except BaseException as error:  # it is for who waits, as with any executor
            done.set_exception(error)
        return done


def _threads() -> _Threads:
    return _Threads(thread_name_prefix=f"{THREAD_NAME}-work")


class _Portal:
    """The thread and its loop."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._lock = threading.Lock()
        self._calls: set[_Call[Any]] = set()
        self._ended = False
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event
        self._thread = threading.Thread(target=self._main, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # no thread is to be had, or Python ends
            raise loops.not_made(error) from error
        self._ready.wait()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is None:
            return
        self._thread.join()
        if isinstance(failure, LoopNotMade):
            raise failure
        raise loops.not_made(failure) from failure

    def _main(self) -> None:
        try:
            loops.run(self._serve)
        except BaseException as error:
            # Before it is ready, whatever it is belongs to who waits for the loop: this thread is
            # the only one that could say it.
            if self._ready.is_set():
                raise
            self._failure = error
        finally:
            # Whatever ended the loop, nobody waits for ever.
            with self._lock:
                self._ended = True
            self._ready.set()
            for call in list(self._calls):
                call.abandon()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(_threads())
        self._stopping = asyncio.Event()
        self._ready.set()
        await self._stopping.wait()
        # From here on no call is taken in. What was taken in before starts in the loop's next
        # round, which is before asyncio.run() looks for the tasks that it must cancel.
        with self._lock:
            self._ended = True

    @property
    def ended(self) -> bool:
        return self._ended

    def is_here(self) -> bool:
        """Whether the caller is the portal's own thread."""
        return threading.current_thread() is self._thread

    def run(self, factory: Callable[[], Coroutine[Any, Any, R]], name: str) -> R:
        call = _Call(factory, name)
        try:
            self._submit(call)
            concurrent.futures.wait([call.outcome])
            return call.outcome.result()
        except BaseException:
            # If there is no outcome, this is Ctrl-C or whatever else a signal handler raised.
            if not call.outcome.done():
                self._notify(call.cancel)
                concurrent.futures.wait([call.outcome], timeout=limits.SHUTDOWN_SECONDS)
            raise
        finally:
            self._calls.discard(call)
            del call  # else: error -> traceback -> this frame -> call -> error

    def start(self, factory: Callable[[], Coroutine[Any, Any, object]], name: str) -> None:
        call = _Call(factory, name)
        call.outcome.add_done_callback(lambda _: self._calls.discard(call))
        self._submit(call)

    def _submit(self, call: _Call[Any]) -> None:
        with self._lock:
            if not self._ended:
                self._calls.add(call)
                self._notify(call.start)
                return
        call.abandon()

    def _notify(self, callback: Callable[[], None]) -> None:
        # A closed loop refuses: then the thread is about to abandon all calls, or has done so.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def stop(self) -> None:
        """Cancel what runs, let it clean up, end the thread; bounded by SHUTDOWN_SECONDS."""
        self._notify(self._stopping.set)
        self._thread.join(limits.SHUTDOWN_SECONDS)


class _Holder:
    """The process's portal, if there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.portal: _Portal | None = None
        self.lost: list[_Portal | None] = []

    def get(self) -> _Portal:
        # From here on Python lets no other thread run: whoever waits for one waits for ever.
        if sys.is_finalizing():
            raise LoopNotMade(reason="Python is ending, and this is called by what it tidies away")
        with self.lock:
            # One whose loop was ended by what ran on it serves nobody any more.
            if self.portal is None or self.portal.ended:
                self.portal = _Portal()
            return self.portal

    def is_here(self) -> bool:
        """Whether the caller is the portal's own thread."""
        portal = self.portal
        return portal is not None and portal.is_here()

    def stop(self) -> None:
        with self.lock:
            portal, self.portal = self.portal, None
        if portal is not None:
            portal.stop()

    def forget(self) -> None:
        """In a forked child: the thread is gone, and the lock may be held by one that is gone too.

        The loop is kept without being closed: it shares its epoll and sockets with the parent, and
        closing would take the parent's sockets out of the parent's epoll.
        """
        self.lock = threading.Lock()
        self.lost.append(self.portal)
        self.portal = None


_holder = _Holder()
os.register_at_fork(after_in_child=_holder.forget)
atexit.register(_holder.stop)


def run(
    factory: Callable[[], Coroutine[Any, Any, R]], *, name: str = "call", asks_only: bool = False
) -> R:
    """Run ``factory()`` on the portal's loop and wait for its result.

    Args:
        factory: called on the loop, with the caller's context variables.
        name: what to call it in errors.
        asks_only: it does nothing but ask the node, so that it may need no loop: try that first.

    Raises:
        RuntimeError: called from the portal's own thread, or from the thread on whose loop the node
            itself runs, where waiting would never end.
        Cancelled: the coroutine was cancelled, by itself or because the process ends.
        LoopNotMade: there can be no loop: no descriptors or threads are left, or Python is ending.
        KeyboardInterrupt: after the coroutine was cancelled and cleaned up.
        Exception: whatever the coroutine raised, with its traceback.
    """
    if _holder.is_here():
        raise RuntimeError(
            f"{name}() waits for kachery_p2p's event loop, and this code runs on that loop: "
            f"use 'await a{name}()' here"
        )
    target = places.target()
    if target is not None and target.thread == threading.get_ident():
        raise RuntimeError(
            f"{name}() waits for a node that runs on this thread's own event loop, which would "
            f"never end: use 'await a{name}()' here"
        )
    try:
        if asks_only:
            with contextlib.suppress(thread_connection.LoopNeeded):
                return thread_connection.run(factory)
        try:
            portal = _holder.get()
        except LoopNotMade:
            if not _can_run_here():
                raise
        else:
            return portal.run(factory, name)
        return _run_here(factory)
    except KacheryError:
        loops.end_with_program()
        raise


def _can_run_here() -> bool:
    """Whether this is a handler of atexit, for which Python 3.12 starts no thread any more."""
    if not loops.python_ends() or sys.is_finalizing():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def _run_here(factory: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Run ``factory()`` on a loop in this thread, which does what others would do in threads."""

    async def main() -> R:
        asyncio.get_running_loop().set_default_executor(_threads())
        return await factory()

    return loops.run(main)


def start(factory: Callable[[], Coroutine[Any, Any, object]], *, name: str) -> None:
    """Begin to run ``factory()`` on the portal's loop, and do not wait: what comes of it is its own
    matter. If there can be no loop, it is not run."""
    with contextlib.suppress(LoopNotMade):
        _holder.get().start(factory, name)


def shutdown() -> None:
    """Stop the portal now, and close the connections; the next call makes new ones. At exit this
    happens by itself."""
    thread_connection.close_idle()
    _holder.stop()


def twin(
    async_function: Callable[P, Coroutine[Any, Any, R]],
    *,
    asks_only: bool = False,
    older: Callable[[str, dict[str, Any]], dict[str, Any]] | None = None,
) -> Callable[P, R]:
    """The sync twin of an async function: the same, called without ``await``.

    Its name is the async one's without the leading 'a'; signature and annotations are the same, and
    so is the docstring, with that name and without ``await`` in its examples. ``asks_only`` is that
    of :func:`run`. An error of the tree shows the caller's line and no frames of ours, unless
    ``KACHERY_P2P_TRACEBACK`` is ``full``. ``older`` gets the name and the keyword arguments, and
    gives those of today for what older scripts say.
    """
    async_name = async_function.__name__
    if not async_name.startswith("a") or not inspect.iscoroutinefunction(async_function):
        raise TypeError(f"{async_name} is not an async function whose name begins with 'a'")
    name = async_name[1:]

    @functools.wraps(async_function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        __tracebackhide__ = True
        try:
            if older is not None and kwargs:
                todays: dict[str, Any] = older(name, kwargs)
                return run(lambda: async_function(*args, **todays), name=name, asks_only=asks_only)
            return run(lambda: async_function(*args, **kwargs), name=name, asks_only=asks_only)
        except KacheryError as error:
            raise trimmed(error)  # noqa: B904

    call.__name__ = name
    call.__qualname__ = async_function.__qualname__.removesuffix(async_name) + name
    call.__doc__ = _sync_doc(inspect.getdoc(async_function) or "", async_name)
    return call


_CALLED = re.compile(r"(?:\bawait\s+)?\b((?:\w+\.)*)(a\w+)")


def _sync_doc(doc: str, async_name: str) -> str:
    def named(found: re.Match[str]) -> str:
        return f"{found[1]}{async_name[1:]}" if found[2] == async_name else found[0]

    # One pattern for all of them: a hundred twins are made at each start of a program.
    if async_name in doc:
        doc = _CALLED.sub(named, doc)
    return f"{doc}\n\nThis waits for the result; in async code use :func:`{async_name}`.".lstrip()
