"""What must go on whatever fails: steps on their own, loops that do not die, jobs that get done.

A node runs for months, and much of what protects it happens in the background. One mechanism for all of
it: a failure is caught at the step where it happens, told to the user (not each time anew), and the
step is tried again. Cancelling a loop or job ends it.

* :meth:`Supervisor.attempt`: one step; whether it succeeded.
* :meth:`Supervisor.every`: one step, again and again.
* :meth:`Supervisor.for_ever`: a loop that is begun again if it fails.
* :class:`Job`, :meth:`Supervisor.do`: something idempotent that is to be done, tried until it is.

Non-goals: errors that somebody waits for. They belong to who waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from kachery_p2p.protocol.backoff import Backoff
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import (
    FAILURES_REMEMBERED,
    RETRY_FIRST,
    RETRY_MOST,
    WARN_AGAIN_SECONDS,
)

log = logging.getLogger(__name__)

Spawn = Callable[..., asyncio.Task[Any]]


class Supervisor:
    """``spawn(work, name=...)`` starts a task that ends with the node; ``warn`` tells the user."""

    def __init__(
        self, spawn: Spawn, warn: Callable[[str], None], random: Callable[[], float]
    ) -> None:
        self.spawn = spawn
        self.random = random
        self._warn = warn
        self._told: OrderedDict[str, float] = OrderedDict()

    def attempt(self, what: str, step: Callable[..., object], *args: Any) -> bool:
        """Do one step that takes no waiting; whether it succeeded. Never raises."""
        try:
            step(*args)
        except Exception as error:  # whatever it is must not keep the next step from happening
            self.failed(what, error)
            return False
        return True

    async def attempt_to(self, what: str, step: Callable[[], Awaitable[object] | object]) -> bool:
        """As :meth:`attempt`; the step may take waiting."""
        try:
            waiting = step()
            if isinstance(waiting, Awaitable):
                await waiting
        except Exception as error:  # as above
            self.failed(what, error)
            return False
        return True

    def each(self, what: str, callbacks: list[Callable[..., None]], *args: Any) -> bool:
        """Call each of them, whatever becomes of the others; whether all succeeded."""
        good = True
        for callback in list(callbacks):
            good = self.attempt(what, callback, *args) and good
        return good

    def failed(self, what: str, error: BaseException) -> None:
        """Tell the user and the log that something failed which will be tried again; of the same thing
        every WARN_AGAIN_SECONDS."""
        now = asyncio.get_running_loop().time()
        if now - self._told.get(what, float("-inf")) < WARN_AGAIN_SECONDS:
            return
        self._told[what] = now
        self._told.move_to_end(what)
        if len(self._told) > FAILURES_REMEMBERED:
            self._told.popitem(last=False)
        if isinstance(error, KacheryError):
            log.warning("%s: %s", what, error)
            self._warn(f"{what}: {error} It is tried again by itself.")
        else:
            log.error("%s failed", what, exc_info=error)
            self._warn(
                f"{what} failed, a bug of this program: {error!r}. It is tried again by itself."
            )

    async def every(
        self, seconds: float, what: str, step: Callable[[], Awaitable[object] | object]
    ) -> None:
        """A step, again and again, so many seconds apart. One that never returns holds up no other: a
        task for each."""
        while True:
            await asyncio.sleep(seconds)
            await self.attempt_to(what, step)

    async def for_ever(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Work that ends by being cancelled; if it ends otherwise it is begun again after a while."""
        backoff = self.backoff()
        while True:
            await self.attempt_to(what, work)
            await asyncio.sleep(backoff.next())

    def do(self, what: str, work: Callable[[], Awaitable[object]]) -> None:
        """Have something idempotent done, tried until it is; nobody waits."""
        Job(self, what, work).ask()

    def backoff(self) -> Backoff:
        return Backoff(RETRY_FIRST, RETRY_MOST, self.random)


class Job:
    """Something idempotent that has to be done: tried again, after growing pauses, until it is.

    ``work`` raises, or returns False if it has told why, when it is not done. Asked for while it runs,
    it runs once more, for what it looked at may have changed since. Its task ends with the node; what
    is to survive that is found again at the next start.
    """

    def __init__(
        self, supervisor: Supervisor, what: str, work: Callable[[], Awaitable[object]]
    ) -> None:
        self._supervisor = supervisor
        self._what = what
        self._work = work
        self._waiting: list[asyncio.Future[None]] = []
        self._wanted = False
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    @property
    def open(self) -> bool:
        """Whether it is still to be done."""
        return self._task is not None

    def ask(self) -> None:
        """Have it done; nobody waits."""
        self._wanted = True
        self._hurry.set()
        if self._task is None:
            self._task = self._supervisor.spawn(self._run(), name=self._what)
            self._task.add_done_callback(self._ended)

    async def done(self) -> None:
        """Have it done, and wait for the next attempt. Raises what that raised; it is tried again all
        the same, whoever waits or not."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.ask()
        await future

    async def _run(self) -> None:
        backoff = self._supervisor.backoff()
        while self._wanted:
            self._wanted = False
            self._hurry.clear()
            waiting, self._waiting = self._waiting, []
            try:
                good = await self._work() is not False
                self._settle(waiting, None)
            except Exception as error:  # whoever waits is told; and it has to be done all the same
                self._settle(waiting, error)
                self._supervisor.failed(self._what, error)
                good = False
            except BaseException as error:  # the node stops
                self._settle(waiting, error)
                raise
            if good:
                backoff.reset()
            else:
                self._wanted = True
                await self._pause(backoff.next())
        self._task = None  # now, and not when the loop hears of it: it may be asked for again

    async def _pause(self, seconds: float) -> None:
        """Somebody who asks anew does not wait for the end of a pause."""
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:  # cancelled
            self._task = None
            self._settle(self._waiting, asyncio.CancelledError())
            self._waiting = []

    @staticmethod
    def _settle(waiting: list[asyncio.Future[None]], error: BaseException | None) -> None:
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(error)
