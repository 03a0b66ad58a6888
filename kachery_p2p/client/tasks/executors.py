"""Runs jobs on an executor of the user's: threads, processes, dask, MPI.

What runs there cannot be ended from outside, so that cancelling asks the function, and the executor to
drop it if it has not begun; the requester hears after ``TASK_CANCEL_SECONDS`` at the latest, and the
slot is free when the function has ended.

A function that waits for other tasks leaves its slot to them, but not its place in the executor. What
finds no place there meanwhile runs beside it: in a thread of its own, or in a process of our own pool.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import (
    MAX_TASK_REASON,
    MAX_TASK_SLOTS,
    MAX_TASKS_NESTED,
    TASK_CANCEL_SECONDS,
)

from .context import TaskContext, Tell
from .functions import TaskFunction
from .lines import LineServer, with_line
from .processes import ProcessPool
from .run import Job, Outcome, failure, perform
from .script import adopt, pickled


@dataclass
class _Run:
    name: str
    future: concurrent.futures.Future[Any]
    context: TaskContext | None = None
    waiting: bool = False
    too_many: bool = False
    """It is ended, because too many wait as it does."""
    given_up: asyncio.Event = field(default_factory=asyncio.Event)


class ExecutorRunner:
    """As :class:`~.processes.ProcessPool`, on an executor, which stays the user's."""

    def __init__(
        self,
        executor: Executor,
        functions: Mapping[str, TaskFunction],
        slots: int,
        on_free: Callable[[], object],
    ) -> None:
        """``on_free``: called on the loop whenever a slot is free again.

        Raises BadInput if a function cannot be sent to a process.
        """
        self.slots = slots
        self._executor = executor
        self._functions = functions
        self._here = isinstance(executor, ThreadPoolExecutor)
        self._pickled = {} if self._here else {n: pickled(f) for n, f in functions.items()}
        self._on_free = on_free
        self._line = LineServer()
        self._runs: dict[bytes, _Run] = {}
        self._busy = 0
        most = getattr(executor, "_max_workers", None)
        self._places = min(slots, most) if isinstance(most, int) else slots
        self._inside = 0
        """Runs that are in the executor, those that wait for other tasks among them."""
        self._task_functions = functions
        self._beside: ProcessPool | None = None

    @property
    def free(self) -> int:
        return self.slots - self._busy + self.waiting

    @property
    def waiting(self) -> int:
        """Runs that have given their slot up."""
        return sum(run.waiting for run in self._runs.values())

    def _on_wait(self, id: bytes, waiting: bool) -> None:
        run = self._runs.get(id)
        if run is None:
            return
        run.waiting = waiting
        if waiting and self.waiting > MAX_TASKS_NESTED:
            run.too_many = True
            self.cancel(id)
        self._on_free()

    @property
    def _full_of_waiting(self) -> bool:
        return self.waiting > 0 and self._inside >= self._places

    async def run(self, job: Job, tell: Tell) -> Outcome:
        """Run a job; ``tell`` is called on the loop with its progress and what it prints."""
        if self._full_of_waiting and not self._here:
            return await self._run_beside(job, tell)
        loop = asyncio.get_running_loop()
        # A name of this very run: executors take what is submitted twice for the same.
        name = f"{job.id.hex()}-{secrets.token_hex(4)}"
        context = None
        try:
            if self._here:
                context = TaskContext(
                    lambda *update: _soon(loop, tell, *update),
                    lambda waiting: _soon(loop, self._on_wait, job.id, waiting),
                )
                context.task = job.id
                function = self._functions[job.function].function
                submit = _in_a_thread if self._full_of_waiting else self._executor.submit
                future = submit(perform, function, job.kwargs, job.channel, context)
            else:
                await self._line.start()
                self._line.open(
                    name,
                    once=job.type == "action",
                    tell=tell,
                    wait=partial(self._on_wait, job.id),
                )
                order = {
                    "name": name, "task": job.id, "once": job.type == "action", "kwargs": job.kwargs,
                    "function": self._pickled[job.function], "channel": job.channel,
                    "port": self._line.port, "token": self._line.token,
                }  # fmt: skip
                future = self._executor.submit(run_elsewhere, order)
        except (
            Exception
        ) as error:  # a broken or closed executor; each kind has exceptions of its own
            self._line.end(name)
            return _lost(error, begun=False)
        run = self._runs[job.id] = _Run(name, future, context)
        self._busy += 1
        self._inside += 1
        future.add_done_callback(lambda _: _soon(loop, self._free))
        ended: asyncio.Future[Any] = asyncio.shield(asyncio.wrap_future(future))
        given_up: asyncio.Future[Any] = asyncio.ensure_future(run.given_up.wait())
        try:
            await asyncio.wait([ended, given_up], return_when=asyncio.FIRST_COMPLETED)
            if run.too_many:
                reason = f"{MAX_TASKS_NESTED} others wait inside functions for tasks already"
                return Outcome("failed", reason=f"{reason}; does it wait for itself?")
            if not ended.done():
                return Outcome("killed", reason="it did not stop yet; nobody waits for it any more")
            return self._outcome(ended, run)
        finally:
            given_up.cancel()
            ended.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._line.end(name)
            self._runs.pop(job.id, None)

    def _outcome(self, ended: asyncio.Future[Any], run: _Run) -> Outcome:
        if ended.cancelled():
            return Outcome("cancelled", reason="it was dropped before it began")
        error = ended.exception()
        if error is None:
            result = ended.result()
            return result if isinstance(result, Outcome) else codec.convert(Outcome, result)
        if isinstance(error, concurrent.futures.CancelledError):
            return Outcome("cancelled", reason="it was dropped before it began")
        return _lost(error, begun=True)

    async def _run_beside(self, job: Job, tell: Tell) -> Outcome:
        if self._beside is None:
            self._beside = ProcessPool(self._task_functions, MAX_TASK_SLOTS, self._on_free)
        self._busy += 1
        try:
            return await self._beside.run(job, tell)
        finally:
            self._free(inside=0)

    def _free(self, inside: int = 1) -> None:
        self._busy -= 1
        self._inside -= inside
        self._on_free()

    def cancel(self, job: bytes) -> None:
        """Ask a run to stop, and its executor to drop it if it has not begun."""
        run = self._runs.get(job)
        if run is None:
            if self._beside is not None:
                self._beside.cancel(job)
            return
        if run.context is not None:
            run.context.cancel()
            run.future.cancel()
        elif self._line.begun(run.name):
            self._line.cancel(run.name)
        else:
            self._line.cancel(run.name)
            run.future.cancel()
        asyncio.get_running_loop().call_later(TASK_CANCEL_SECONDS, self._give_up, run)

    def _give_up(self, run: _Run) -> None:
        run.future.cancel()
        run.given_up.set()

    async def close(self) -> None:
        await self._line.close()
        if self._beside is not None:
            await self._beside.close()


def _in_a_thread(work: Callable[..., Outcome], *args: Any) -> concurrent.futures.Future[Any]:
    """As ``Executor.submit``, in a thread that there is for this alone."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        if future.set_running_or_notify_cancel():
            future.set_result(work(*args))

    threading.Thread(target=run, name="kachery-p2p-task", daemon=True).start()
    return future


def _soon(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        return  # the loop has ended, and with it who wanted to know


def _lost(error: BaseException, *, begun: bool) -> Outcome:
    reason = f"its executor lost it: {type(error).__name__}: {error}"[:MAX_TASK_REASON]
    return Outcome("lost" if begun else "failed", reason=reason)


def run_elsewhere(order: dict[str, Any]) -> Any:
    """Run a job in a process of an executor; an :class:`Outcome` as plain values."""

    def work(context: TaskContext, go: bool | None) -> Outcome:
        if go is None and order["once"]:
            reason = (
                "the backend could not be reached from the executor's process, and an action begins "
                "only with its word: run executor and backend on one computer"
            )
            return Outcome("failed", reason=reason)
        if go is False:
            reason = "it had begun before in a process that was lost, and is not run twice"
            return Outcome("lost" if order["once"] else "cancelled", reason=reason)
        context.task = order["task"]
        try:
            import cloudpickle

            function = cloudpickle.loads(order["function"])
            multiprocessing = sys.modules.get("multiprocessing.process")
            if multiprocessing is not None and multiprocessing.parent_process() is not None:
                adopt(function)
        except Exception as error:  # a module that is not installed there, say
            found = failure(error)
            reason = f"the executor's process could not load it: {found.reason}"
            return Outcome("failed", reason=reason, traceback=found.traceback)
        return perform(function, order["kwargs"], order["channel"], context)

    return codec.plain(with_line(order["port"], order["token"], order["name"], work))


def count_slots(executor: Executor) -> int:
    """How many jobs an executor runs at once; it may ask a dask scheduler, so not on a loop.

    Raises:
        BadInput: nothing says so.
    """
    for name in ("_max_workers", "num_workers"):  # concurrent.futures', mpi4py's
        count = getattr(executor, name, None)
        if isinstance(count, int) and count > 0:
            return count
    client = getattr(executor, "_client", None)  # dask.distributed's
    if client is not None and hasattr(client, "nthreads"):
        threads = sum(client.nthreads().values())
        if threads > 0:
            return int(threads)
    raise BadInput(what="executor", reason="it does not say how many jobs it runs; give slots=")
