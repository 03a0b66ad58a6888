"""Worker threads: everything that would hold up the event loop.

The loop does socket work only. Hashing, ciphers and disk calls release the interpreter's lock, so a
few threads use all cores. Two pools, so that a disk that is slow to sync never delays a cipher; and
a thread each for commits and for syncs that come one after another anyway: it is still warm when the
next one comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, ParamSpec, Protocol, TypeVar

from .pool import FairPool


class Closable(Protocol):
    def close(self) -> None: ...


P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=Closable)

_Work = Callable[[], object]
_Then = Callable[[BaseException | None], object]

CIPHER_THREADS = 2
_PIECES_PER_VISIT = 64
"""After so many pieces of one download others get the lock, such as a reader of a part."""
DISK_THREADS = 8
"""Small stores each wait for a sync of their own; eight overlap."""


class Workers:
    """The pools. ``cipher`` work is short and never blocks; ``disk`` work may."""

    def __init__(self) -> None:
        self._cipher = FairPool(CIPHER_THREADS, "kachery-cipher")
        self._disk = FairPool(DISK_THREADS, "kachery-disk")
        self._commits = _Lane("kachery-commit")
        self._syncs = _Lane("kachery-sync")

    async def cipher(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._cipher.run(function, *args, **kwargs)

    async def disk(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run blocking work. Cancelling the caller does not stop the thread, only the wait."""
        return await self._disk.run(function, *args, **kwargs)

    def commit(
        self, work: Callable[[], object], then: Callable[[BaseException | None], object]
    ) -> None:
        """Do ``work`` in the thread for commits, and call ``then`` on this loop with what it raised,
        or None."""
        self._commits.submit(work, then)

    def sync(
        self, work: Callable[[], object], then: Callable[[BaseException | None], object]
    ) -> None:
        """As :meth:`commit`, in a thread that does not wait for commits."""
        self._syncs.submit(work, then)

    def close(self) -> None:
        self._syncs.close()
        self._commits.close()
        self._cipher.close()
        self._disk.close()


class _Lane:
    """One thread that does pieces of work in order. An executor's futures and locks take as long again
    as the hand-over itself, and what waits here is on its way to the disk."""

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[_Work, _Then, asyncio.AbstractEventLoop] | None] = (
            SimpleQueue()
        )
        # Nobody waits for it at the interpreter's exit: what is acknowledged is on the disk by then.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = self._closed = False

    def submit(self, work: _Work, then: _Then) -> None:
        """Raises RuntimeError once it is closed."""
        if self._closed:
            raise RuntimeError(f"{self._thread.name} is closed")
        if not self._started:
            self._started = True
            self._thread.start()
        self._work.put((work, then, asyncio.get_running_loop()))

    def close(self) -> None:
        """When all that was submitted is done."""
        self._closed = True
        if self._started:
            self._work.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, then, loop = item
            outcome: BaseException | None = None
            try:
                work()
            except BaseException as error:  # whatever it is, it is for who waits for this piece
                outcome = error
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(then, outcome)
            del item, work, then, outcome


async def open_on_disk(workers: Workers, opener: Callable[[Callable[[], bool]], C]) -> C:
    """As :meth:`Workers.disk`, for what must be closed again: the caller gets it, or, if it is
    cancelled meanwhile, it is closed when it comes, which a cancelled caller waits for.

    ``opener`` is given a function that says whether the caller has gone.
    """
    handover = _Handover(opener)
    opening = asyncio.ensure_future(workers.disk(handover.open))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        handover.leave()
        opening.add_done_callback(_hear)  # even if we are cancelled once more
        await asyncio.wait([opening])
        raise


class _Handover(Generic[C]):
    """Between the thread that opens and the loop, whichever of the two comes last to close it."""

    def __init__(self, opener: Callable[[Callable[[], bool]], C]) -> None:
        self._opener = opener
        self._lock = threading.Lock()
        self._gone = threading.Event()
        self._made: C | None = None

    def open(self) -> C:
        made = self._opener(self._gone.is_set)
        with self._lock:
            if self._gone.is_set():
                made.close()
            self._made = made
        return made

    def leave(self) -> None:
        with self._lock:
            if self._made is not None and not self._gone.is_set():
                self._made.close()
            self._gone.set()


def _hear(opening: asyncio.Future[C]) -> None:
    """Nobody is there any more to whom a failure would be news."""
    if not opening.cancelled():
        opening.exception()


class InOrder:
    """Blocking work done one piece after another, as many pieces as wait in one visit to a worker.

    Each visit costs a hand-over between threads, which takes as long as the work when the cores are
    busy. ``lock`` is held during a visit. Work whose caller is cancelled is done all the same.
    """

    def __init__(self, workers: Workers, lock: asyncio.Lock) -> None:
        self._workers = workers
        self._lock = lock
        self._waiting: deque[tuple[Callable[[], None], asyncio.Future[None]]] = deque()
        self._visits: asyncio.Task[None] | None = None

    async def run(self, work: Callable[[], None]) -> None:
        """Do ``work`` after what came before it. Raises what it raises."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._visits is None or self._visits.done():
            self._visits = asyncio.create_task(self._visit())
        await future

    async def wait(self) -> None:
        """Until nothing waits and nothing runs."""
        if self._visits is not None:
            await asyncio.wait([self._visits])

    async def _visit(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            async with self._lock:
                await self._workers.disk(self._work_off, loop)

    def _work_off(self, loop: asyncio.AbstractEventLoop) -> None:
        for _ in range(_PIECES_PER_VISIT):
            if not self._waiting:
                return
            work, future = self._waiting.popleft()
            outcome: BaseException | None = None
            try:
                work()
            except BaseException as error:  # whatever it is, it is for who waits for this piece
                outcome = error
            loop.call_soon_threadsafe(_settle, future, outcome)


def _settle(future: asyncio.Future[None], outcome: BaseException | None) -> None:
    if future.done():
        return
    if outcome is None:
        future.set_result(None)
    else:
        future.set_exception(outcome)
