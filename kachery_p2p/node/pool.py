"""Threads that many share: of the work that waits, that of who has used least comes next, and that of
newcomers after all others (:class:`~.parties.Line`).

An executor's queue is first come, first served: a peer that asks for a thousand reads of the disk has
everybody else wait for all of them. Here each party has a queue of its own. Whose work it is says
:data:`.parties.on_behalf_of`.

A piece of work goes to its thread and back without an executor's futures, whose locks take as long as
the hand-over itself.

Invariants: what one party submits is begun in the order in which it came; who has used less waits for
what runs, and not for what others have waiting. What is cancelled before it is begun is never begun.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from .parties import Line, on_behalf_of

P = ParamSpec("P")
R = TypeVar("R")

_Piece = tuple[asyncio.Future[Any], Callable[[], Any]]


class FairPool:
    """See the module. ``size`` threads at most, each started when it is first needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._lock = threading.Lock()
        self._some: SimpleQueue[None] = SimpleQueue()
        """One for each piece that waits, and for each thread that is to end."""
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._waiting: Line[_Piece] = Line()
        self._closed = False

    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """What ``function`` gives or raises, called in a thread. Cancelling the caller does not stop
        the thread, only the wait. Raises RuntimeError once it is closed."""
        # The future is no local variable here: an error would lead to its own frames in a circle.
        return await self._begun(partial(function, *args, **kwargs))

    def _begun(self, work: Callable[[], R]) -> asyncio.Future[R]:
        """What comes of ``work``, which is next when it is its party's turn."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        party = on_behalf_of.get()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            self._waiting.add(party, (future, work))
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._size:
                thread = threading.Thread(
                    target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
                )
                self._threads.append(thread)
                thread.start()
        self._some.put(None)
        return future

    def close(self, *, wait: bool = True) -> None:
        """Begin nothing more: whoever waits for that is cancelled. ``wait``: for what runs."""
        with self._lock:
            self._closed = True
            pieces = self._waiting.clear()
        for future, _ in pieces:
            _tell(future, future.cancel)
        for _ in self._threads:
            self._some.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while True:
            self._some.get()
            with self._lock:
                taken = self._waiting.take()
                if taken is None:
                    if self._closed:
                        return
                    continue
            party, (future, work) = taken
            begun = time.perf_counter()
            if not future.cancelled():
                try:
                    result = work()
                except BaseException as error:  # whatever it is, it is for who waits for this piece
                    _tell(future, partial(_fail, future, error))
                else:
                    _tell(future, partial(_finish, future, result))
                    del result
            del taken, future, work
            now = time.perf_counter()
            with self._lock:
                self._waiting.used(party, now - begun, now)
                if not self._waiting:
                    self._idle += 1


def _tell(future: asyncio.Future[Any], how: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits
        future.get_loop().call_soon_threadsafe(how)


def _finish(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        if isinstance(error, StopIteration):  # which no future takes: it would end a coroutine
            error = RuntimeError(f"a piece of work raised {error!r}")
        future.set_exception(error)
