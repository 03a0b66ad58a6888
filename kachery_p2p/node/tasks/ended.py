"""Tasks that ended, remembered for who comes again: by their ids, the newest.

Bounds: ``MAX_TASKS_KEPT`` of them, ``MAX_TASKS_KEPT_BYTES`` of how they ended, ``TASK_KEEP_SECONDS``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from kachery_p2p.protocol.limits import MAX_TASKS_KEPT, MAX_TASKS_KEPT_BYTES, TASK_KEEP_SECONDS

from .jobs import Job


class EndedTasks:
    def __init__(self) -> None:
        self._jobs: OrderedDict[bytes, tuple[float, Job]] = OrderedDict()
        self.bytes = 0
        """Of how they ended, about."""

    def __contains__(self, task: bytes) -> bool:
        return task in self._jobs

    def jobs(self) -> Iterable[Job]:
        """The jobs, each as often as there are ids of it."""
        return (job for _, job in self._jobs.values())

    def get(self, task: bytes) -> Job | None:
        """What became of a task; None: nothing is known of it, or it never began and may be asked for
        anew."""
        found = self._jobs.get(task)
        return None if found is None or found[1].state == "absent" else found[1]

    def add(self, task: bytes, job: Job) -> None:
        """It has ended."""
        self._forget(task)  # it was asked for anew
        self._jobs[task] = (asyncio.get_running_loop().time(), job)
        self.bytes += job.end_bytes
        while len(self._jobs) > MAX_TASKS_KEPT or self.bytes > MAX_TASKS_KEPT_BYTES:
            self._forget(next(iter(self._jobs)))

    def _forget(self, task: bytes) -> None:
        found = self._jobs.pop(task, None)
        if found is not None:
            self.bytes -= found[1].end_bytes

    def sweep(self) -> None:
        """Forget those that nobody asked for."""
        last = asyncio.get_running_loop().time() - TASK_KEEP_SECONDS
        while self._jobs and next(iter(self._jobs.values()))[0] < last:
            self._forget(next(iter(self._jobs)))
