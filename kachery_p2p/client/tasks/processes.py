"""A pool of processes that run task functions, each of which can be ended without harming the others.

It is our own because those that there are cannot do what tasks need: concurrent.futures and pebble
share one pipe among their workers, so that one that dies at the wrong moment breaks the whole pool, and
start them with multiprocessing, which runs the user's script again in every one. Here each worker has a
socket of its own and begins as an empty interpreter; functions of a script or notebook are sent to it
by value (cloudpickle), all others by name.

Invariants: at most ``slots`` processes besides those whose function waits for other tasks, started when
there is something to do; every run ends with an
:class:`~.run.Outcome`; one that was cancelled frees its slot within ``TASK_CANCEL_SECONDS`` and a
moment; what a worker leaves behind (its own children) ends with it, and it with this process, however
that ends.

Non-goals: which job runs when.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Final

from kachery_p2p.protocol.limits import MAX_TASKS_NESTED, TASK_CANCEL_SECONDS

from .context import Tell
from .functions import TaskFunction
from .renewal import Renewal
from .run import Job, Outcome
from .script import pickled
from .worker_process import Run, WorkerProcess

_TRIES: Final = 3
"""A worker that dies before it begins a job has done nothing; then the job gets another one."""


def count_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ProcessPool:
    """Runs jobs, at most ``slots`` at once. To be used in one event loop."""

    def __init__(
        self,
        functions: Mapping[str, TaskFunction],
        slots: int | None = None,
        on_free: Callable[[], object] = lambda: None,
        renewal: Renewal | None = None,
    ) -> None:
        """``on_free``: called when a run gives its slot up while it waits for others.

        Raises BadInput if a function cannot be sent to a process.
        """
        self.slots = count_cpus() if slots is None else slots
        self._functions = {name: pickled(function) for name, function in functions.items()}
        self._workers: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._runs: dict[bytes, WorkerProcess] = {}
        self._on_free = on_free
        self._renewal = renewal or Renewal()

    @property
    def free(self) -> int:
        return self.slots - len(self._runs) + self.waiting

    @property
    def waiting(self) -> int:
        """Runs that have given their slot up."""
        return sum(worker.waiting for worker in self._runs.values())

    async def run(self, job: Job, tell: Tell) -> Outcome:
        """Run a job; ``tell`` is called on the loop with its progress and what it prints."""
        for _ in range(_TRIES):
            run = Run(job, tell)
            outcome = await self._try(run)
            if outcome.state != "lost" or run.begun:
                break
        return outcome

    async def _try(self, run: Run) -> Outcome:
        job = run.job
        while self._idle and not self._idle[-1].usable:
            self._idle.pop()
        worker = self._idle.pop() if self._idle else self._start()
        self._runs[job.id] = worker
        worker.perform(run, self._functions[job.function])
        try:
            return await run.outcome
        finally:
            if self._runs.get(job.id) is worker:
                del self._runs[job.id]
            if worker.usable and run.outcome.done() and not run.outcome.cancelled():
                due = self._renewal.is_due(worker.runs, worker.held, self.slots)
                if due or worker.worn:
                    worker.close()
                else:
                    self._idle.append(worker)
            else:
                worker.kill()

    def cancel(self, job: bytes) -> None:
        """Ask a run to stop; its process is ended if it does not."""
        worker = self._runs.get(job)
        if worker is not None:
            worker.cancel(job)

    async def close(self) -> None:
        """End all processes; returns when they are gone."""
        workers = list(self._workers)
        for worker in workers:
            worker.close()
        if workers:
            gone = [asyncio.ensure_future(worker.gone.wait()) for worker in workers]
            await asyncio.wait(gone, timeout=TASK_CANCEL_SECONDS)
            for worker in workers:
                worker.kill()
            await asyncio.wait(gone)

    def _start(self) -> WorkerProcess:
        worker = WorkerProcess(self._workers.discard, self._waits)
        self._workers.add(worker)
        return worker

    def _waits(self, worker: WorkerProcess) -> None:
        """A run waits for other tasks, or no longer."""
        if worker.waiting and self.waiting > MAX_TASKS_NESTED:
            worker.end_run(
                f"{MAX_TASKS_NESTED} others of its backend wait inside functions for tasks already, "
                "so that no more could be begun; does it wait for itself?"
            )
        self._on_free()
