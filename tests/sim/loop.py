"""An event loop whose clock is virtual and whose every decision can be repeated.

Invariants
    * It never sleeps: when nothing is ready, time jumps to the next timer. When there is no timer
      either, everybody waits for ever, and :class:`Deadlock` says so.
    * Tasks and futures hash by their serial number and not by their address, so sets of them (a
      TaskGroup has one) are walked in the same order in every run.
    * A process that is killed does nothing any more: what runs in the context of a frozen
      :class:`Incarnation` is set aside, not cancelled, since no ``finally`` runs in a killed process.
      :meth:`SimLoop.thaw` lets it unwind when the run is over, so that nothing leaks into the next.

Non-goals: sockets, threads, subprocesses.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import selectors
import time
from collections.abc import Callable
from typing import Any

_SPIN = 200_000
"""Turns of the loop in one instant of virtual time after which it is called a livelock."""


class Deadlock(AssertionError):
    """Nothing will ever happen again, and somebody still waits."""


class Watchdog(AssertionError):
    """A step did not end: too many turns at one instant, or too much real time."""


class Incarnation:
    """One life of one node, from start to stop or crash: whose a task is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.tasks: dict[int, SimTask] = {}
        self.graveyard: list[tuple[Callable[..., Any], tuple[Any, ...], contextvars.Context]] = []

    def alive(self) -> list[SimTask]:
        return [task for task in self.tasks.values() if not task.done()]


WHOSE: contextvars.ContextVar[Incarnation | None] = contextvars.ContextVar("whose", default=None)


class SimFuture(asyncio.Future[Any]):
    serial = 0

    def __hash__(self) -> int:
        return self.serial


class SimTask(asyncio.Task[Any]):
    serial = 0

    def __hash__(self) -> int:
        return self.serial


class _Clock(selectors.SelectSelector):
    """Instead of waiting, moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.turns = 0
        self.stop_at = float("inf")

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is left that could happen")
        if timeout > 0:
            self.now += timeout
            self.turns = 0
            return []
        self.turns += 1
        if self.turns > _SPIN:
            raise Watchdog(f"{_SPIN} turns of the loop at one instant")
        if self.turns % 256 == 0 and time.monotonic() > self.stop_at:
            raise Watchdog("the run takes too much real time")
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """See the module."""

    def __init__(self, *, real_seconds: float = 60.0) -> None:
        self._serials = 0
        self.clock = _Clock()
        self.clock.stop_at = time.monotonic() + real_seconds
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now

    def _serial(self) -> int:
        self._serials += 1
        return self._serials

    def create_future(self) -> SimFuture:
        future = SimFuture(loop=self)
        future.serial = self._serial()
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Any,
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> SimTask:
        task = SimTask.__new__(SimTask)
        # Before __init__, which puts the task into sets.
        task.serial = self._serial()
        task.__init__(coro, loop=self, name=name, context=context)  # type: ignore[misc]
        whose = context.get(WHOSE) if context is not None else WHOSE.get()
        if whose is not None:
            whose.tasks[task.serial] = task
            task.add_done_callback(lambda _: whose.tasks.pop(task.serial, None))
        return task

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        handle = super().call_soon(callback, *args, context=context)
        self._bury(handle)
        return handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Any:
        handle = super().call_at(when, callback, *args, context=context)
        self._bury(handle)
        return handle

    def _bury(self, handle: Any) -> None:
        whose = handle._context.get(WHOSE)
        if whose is not None and whose.frozen and not handle._cancelled:
            whose.graveyard.append((handle._callback, handle._args, handle._context))
            handle._callback, handle._args = _nothing, ()

    def freeze(self, whose: Incarnation) -> None:
        """Kill: from now on nothing of it runs."""
        whose.frozen = True
        for handle in [*self._ready, *self._scheduled]:  # type: ignore[attr-defined]
            self._bury(handle)

    def thaw(self, whose: Incarnation) -> None:
        """Let what was killed unwind: everything of it is cancelled."""
        whose.frozen = False
        for callback, args, context in whose.graveyard:
            super().call_soon(callback, *args, context=context)
        whose.graveyard.clear()
        for task in whose.alive():
            task.cancel()


def _nothing() -> None:
    """What is left of a callback whose process was killed."""


class SlowDisk:
    """Stands in for the worker pools: runs the work on the loop, after a random while.

    Half of the work is done at once and told later, the other half is done later: a thread may be
    anywhere between. As with threads, cancelling the caller does not undo or stop the work.
    """

    def __init__(self, loop: SimLoop, rng: random.Random, whose: Incarnation) -> None:
        self._loop = loop
        self._rng = rng
        self._whose = whose
        self.dead = False

    async def cipher(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._run(0.0002, function, args, kwargs)

    async def disk(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._run(0.004, function, args, kwargs)

    async def _run(self, most: float, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self.dead and getattr(function, "__name__", "") != "close":
            raise asyncio.CancelledError
        future = self._loop.create_future()
        outcome: list[tuple[bool, Any]] = []

        def work() -> None:
            try:
                outcome.append((True, function(*args, **kwargs)))
            except Exception as error:  # whatever the work raised is its caller's
                outcome.append((False, error))

        def tell() -> None:
            if not outcome:
                work()
            if not future.done():
                good, value = outcome[0]
                if good:
                    future.set_result(value)
                else:
                    future.set_exception(value)

        if self._rng.random() < 0.5:
            work()
        self._loop.call_later(self._rng.random() * most, tell)
        return await future

    def close(self) -> None:
        """Nothing to join: there are no threads."""
