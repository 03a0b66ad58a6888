"""Threads that many share: of the work that waits, that of who has used least comes next.

An executor's queue is first come, first served: a peer that asks for a thousand reads of the disk has
everybody else wait for all of them. Here each party has a queue of its own. Whose work it is says
:data:`.parties.on_behalf_of`.

Invariants: what one party submits is begun in the order in which it came; who has used less waits for
what runs, and not for what others have waiting.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from kachery_p2p.protocol.links.usage import Usage

from .parties import Party, on_behalf_of

P = ParamSpec("P")
R = TypeVar("R")

_Piece = tuple[Party, Future[Any], Callable[[], Any]]


class FairPool(Executor):
    """See the module. ``size`` threads at most, each started when it is first needed."""

    def __init__(self, size: int, name: str) -> None:
        self._size, self._name = size, name
        self._lock = threading.Lock()
        self._some: SimpleQueue[None] = SimpleQueue()
        """One for each piece that waits, and for each thread that is to end."""
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._waiting: dict[str, deque[_Piece]] = {}
        self._usage = Usage()
        self._closed = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Raises RuntimeError once it is shut down."""
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            party = on_behalf_of.get()
            piece = (party, future, lambda: fn(*args, **kwargs))
            self._waiting.setdefault(party.name, deque()).append(piece)
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

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            pieces = []
            if cancel_futures:
                pieces = [piece for each in self._waiting.values() for piece in each]
                self._waiting.clear()
        for _, future, _ in pieces:
            future.cancel()
        for _ in self._threads:
            self._some.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while True:
            self._some.get()
            with self._lock:
                taken = self._take()
                if taken is None:
                    if self._closed:
                        return
                    continue
            party, future, work = taken
            begun = time.perf_counter()
            if future.set_running_or_notify_cancel():
                try:
                    result = work()
                except BaseException as error:  # whatever it is, it is for who waits for this piece
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            del taken, future, work
            now = time.perf_counter()
            with self._lock:
                self._usage.add(party.name, party.weight * (now - begun), now)
                if not self._waiting:
                    self._idle += 1

    def _take(self) -> _Piece | None:
        """The next piece."""
        if not self._waiting:
            return None
        name = next(iter(self._waiting))
        if len(self._waiting) > 1:
            name = self._usage.least(self._waiting, time.perf_counter())
        queue = self._waiting[name]
        piece = queue.popleft()
        if not queue:
            del self._waiting[name]
        return piece
