"""The queue of a node's backends: which job runs where, and that an action begins at most once.
Next is a job of who has had slots for the least time (:class:`~kachery_p2p.node.parties.Line`).

The same pure calculation, whoever asks for it, is one job. An action, when there is a slot for it,
waits for its requester's word (the requester first notes on its disk that it gives it to us and nobody
else); then it is noted here, and only then does a backend get it. So whatever crashes when, it can be
told whether an action may have begun, and what may have begun is never begun again.

A backend that is lost (its connection ended): what it had not begun goes back into the queue, pure
calculations and queries that it had begun fail, actions that it had begun are ``unknown``.

Invariant: an id is that of one task at a time, since a backend tells of a run by its id. Who asks for
something else under an id that is in use, or was a moment ago, is refused.

Bounds: ``MAX_TASKS_QUEUED`` jobs, ``MAX_TASK_IDS`` ids of them, ``MAX_TASK_BACKENDS`` backends; of
those that have ended, see :mod:`.ended`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from kachery_p2p.node.context import Context
from kachery_p2p.node.parties import Line
from kachery_p2p.protocol.errors import BadInput, Busy, KacheryError, TaskNotAllowed
from kachery_p2p.protocol.limits import (
    MAX_TASK_BACKENDS,
    MAX_TASK_IDS,
    MAX_TASKS_QUEUED,
)
from kachery_p2p.protocol.tasks.messages import TaskOffer, TaskUpdate, make_update
from kachery_p2p.protocol.tasks.task import Payload, TaskType, task_key
from kachery_p2p.storage.tasks.store import ActionEnd, TaskStore

from .action_journal import ActionJournal
from .ended import EndedTasks
from .jobs import Backend, Job, Watcher, check_offered, offers_of
from .results import TaskResults

_SLOT_SECONDS: Final = 0.01  # what a job counts for at once, beside its time in a slot
_GO_SECONDS: Final = 10.0
"""A requester that does not say so soon that its action may begin has gone."""


class TaskQueue:
    """``allowed``: whether the node's user lets a function run here. ``do``: have something done that
    is tried again until it is."""

    def __init__(
        self,
        context: Context,
        store: TaskStore,
        results: TaskResults,
        *,
        allowed: Callable[[str], bool],
        changed: Callable[[], None],
        do: Callable[[Callable[[], Awaitable[object]]], object],
    ) -> None:
        self.backends: dict[bytes, Backend] = {}
        self.jobs: dict[bytes, Job] = {}
        """Those that have not ended, by id."""
        self.ended = EndedTasks()
        self._context = context
        self._results = results
        self.allowed = allowed
        self._changed = changed
        self._do = do
        self.pure: dict[tuple[bytes, bytes], Job] = {}
        self._tasks: dict[bytes, Job] = {}
        """Live jobs by the id of each task that waits for them."""
        self._waiting: Line[Job] = Line()
        self._journal = ActionJournal(context, store)

    # --- backends ----------------------------------------------------------------------------

    def offer(self, backend: Backend) -> None:
        """A backend is there. Raises Busy, BadInput."""
        if backend.id in self.backends:
            raise BadInput(what="task backend", reason="it has made an offer already")
        if len(self.backends) >= MAX_TASK_BACKENDS:
            raise Busy(limit=f"{MAX_TASK_BACKENDS} task backends")
        self.backends[backend.id] = backend
        self._journal.returned |= backend.returned
        self._changed()

    def withdraw(self, backend: Backend) -> None:
        """It has gone."""
        if self.backends.pop(backend.id, None) is None:
            return
        backend.gone = True
        backend.bell.set()
        for job in [*backend.ready, *backend.granted, *backend.running.values()]:
            job.backend = None
            if job in backend.ready and job.started:
                continue  # it is being noted that it begins, and who does that puts it back
            if job.state == "running" or (job.id in backend.running and job.type == "action"):
                self._lost(job)
            else:
                self._back(job)
        for task in backend.returned & self._journal.returned:
            self._journal.returned.discard(task)
            self._do(partial(self._gone_again, task))
        self._changed()

    async def _gone_again(self, task: bytes) -> None:
        """An action that had outlived a restart of this node was lost with its backend."""
        reason = "the backend that ran it ended, or was killed"
        await self._journal.end(task, "unknown", reason=reason)
        job = self._tasks.get(task)
        if job is not None:
            self._finish(job, TaskUpdate("unknown", reason=reason))

    def _lost(self, job: Job) -> None:
        reason = "the backend that ran it ended, or was killed"
        if job.type == "action":
            self._end_soon(job, "unknown", reason)
        else:
            self._finish(job, TaskUpdate("failed", reason=reason))

    def _back(self, job: Job) -> None:
        """Into the queue again, before all else of its requester."""
        self._waiting.add(job.party, job, first=True)
        job.tell(TaskUpdate("queued"))
        self._ring(job)

    def channels_of(self, function: str) -> set[bytes]:
        """Where a function is on offer."""
        backends = [b for b in self.backends.values() if function in b.functions]
        return {channel for backend in backends for channel in backend.channels}

    def functions(self) -> set[str]:
        return {function for backend in self.backends.values() for function in backend.functions}

    def offers(self, channel: bytes) -> list[TaskOffer]:
        """What is on offer on a channel, with its load."""
        backends = [b for b in self.backends.values() if channel in b.channels]
        return offers_of(backends, self.jobs.values(), self.allowed)

    # --- requests ----------------------------------------------------------------------------

    async def submit(
        self,
        task: bytes,
        function: str,
        kind: TaskType,
        kwargs: bytes,
        *,
        channel: bytes,
        requester: str,
        again: bool,
        within: bytes | None = None,
    ) -> Watcher:
        """Ask for a run, or for the updates of one that was asked for. ``within``: a run that waits.

        Raises:
            NoBackend: nobody here offers the function on the channel.
            BadInput: it is offered as another type only, or would wait for itself.
            TaskNotAllowed: the node's user does not allow it.
            Busy: the queue is full.
        """
        key = task_key(function, kwargs)
        job = Job(task, function, kind, kwargs, key, channel, requester, self._context.clock())
        known = self._known(job)
        if known is None and kind == "action":
            # The same may have been asked for once more while the disk was read.
            known = await self._past(job) or self._known(job)
        if known is not None:
            return known.watch()
        if again:
            job.tell(TaskUpdate("absent"))
            return job.watch()
        if task in self._tasks or self.ended.get(task) is not None:
            # Its backend knows a run by its id: of two it could not tell which one has ended.
            raise BadInput(what="task", reason="its id is that of another one; give it a new one")
        if kind == "pure-calculation":
            shared = self.pure.get((channel, key))
            if shared is not None:
                watcher = shared.watch(self.jobs.get(within or b""))
                self._join(shared, task)
                return watcher
        self._check(job)
        if kind == "pure-calculation":
            self.pure[channel, key] = job
        self.jobs[job.id] = job
        self._join(job, task)
        self._waiting.add(job.party, job)
        watcher = job.watch(self.jobs.get(within or b""))
        self._ring(job)
        return watcher

    def _known(self, job: Job) -> Job | None:
        """The same task, if it was asked for before."""
        found = self._tasks.get(job.id) or self.ended.get(job.id)
        return found if found is not None and found.is_same(job) else None

    def _join(self, job: Job, task: bytes) -> None:
        if task != job.id and len(self._tasks) >= MAX_TASK_IDS:
            return  # who asks again finds the calculation, and not by this id
        self._tasks[task] = job
        job.tasks.add(task)

    def _check(self, job: Job) -> None:
        check_offered(self.backends.values(), job)
        if not self.allowed(job.function):
            raise TaskNotAllowed(function=job.function, node=self._context.node_id[:8])
        if len(self.jobs) >= MAX_TASKS_QUEUED:
            raise Busy(limit=f"{MAX_TASKS_QUEUED} tasks in its queue")

    async def _past(self, job: Job) -> Job | None:
        """An action that was begun before this node was restarted: what is known of it."""
        task = job.id
        row = await self._journal.row(task)
        if row is None or (row.node.hex(), row.function) != (job.requester, job.function):
            return None
        if task in self._tasks:
            return None
        if row.state == "started" or row.state == "sent":
            if task in self._journal.returned:
                job.started = True
                job.tell(TaskUpdate("running"))
                self.jobs[task] = job
                self._join(job, task)
                return job
            wait = self._journal.left_to_return()
            if wait > 0:
                await asyncio.sleep(min(wait, 0.2))
                return await self._past(job)
            update = TaskUpdate("unknown", reason="its node was stopped while it ran")
        elif row.state == "finished" and row.payload is not None:
            update = TaskUpdate("finished", result=self._results.sign(job, row.payload))
        else:
            update = make_update(row.state, reason=row.reason, traceback=row.traceback)
        job.tell(update)
        return job

    def leave(self, watcher: Watcher) -> None:
        """Somebody waits no longer. What has not begun is dropped when nobody is left: who has gone
        does not fill the queue. A pure calculation that has begun may finish for whoever asks next."""
        job = watcher.job
        job.watchers.pop(watcher, None)
        if job.watchers or job.state not in ("queued", "ready"):
            return
        if job.type == "action" and job.started:
            return  # it is being noted that it begins
        self._finish(job, TaskUpdate("absent", reason="its requester had gone"))

    def cancel(self, job: Job, reason: str = "its requester cancelled it") -> None:
        """End a job; one that runs is asked to end, and made to."""
        if job.end is not None or job.closing:
            return
        backend = job.backend
        if backend is not None and job.id in backend.running:
            backend.cancels.append(job.id)
            backend.bell.set()
            return
        if backend is not None and job in backend.granted:
            backend.granted.remove(job)
        if job.type == "action" and job.started:
            self._end_soon(job, "cancelled", reason)
        else:
            self._finish(job, TaskUpdate("cancelled", reason=reason))

    def cancel_for(self, watcher: Watcher) -> None:
        """One who waits cancels: for itself alone, if others wait for the same calculation."""
        if len(watcher.job.watchers) > 1:
            self.leave(watcher)
            watcher.put(TaskUpdate("cancelled", reason="its requester cancelled it"))
        else:
            self.cancel(watcher.job)

    async def go(self, job: Job) -> None:
        """The requester's word that an action may begin."""
        backend = job.backend
        if job.state != "ready" or job.started or backend is None:
            return
        job.started = True
        try:
            begun = await self._journal.begin(job)
        except KacheryError as error:  # a full disk: it must not begin
            self._finish(job, TaskUpdate("failed", reason=f"it was not begun: {error}"))
            return
        if not begun:
            self._finish(job, TaskUpdate("unknown", reason="it was begun before"))
        elif job.end is not None or job.closing:
            await self._journal.end(job.id, "cancelled", reason="cancelled before it began")
        elif backend.gone:
            self._back(job)  # it needs no word any more
        else:
            backend.ready.discard(job)
            backend.granted.append(job)
            backend.bell.set()

    # --- what backends say -------------------------------------------------------------------

    async def take(
        self, backend_id: bytes, most: int, wait: float
    ) -> tuple[list[Job], list[bytes]]:
        """Jobs for a backend's free slots, and the running ones that it must end."""
        backend = self._backend(backend_id)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            backend.bell.clear()
            self._fill(backend, most)
            jobs = [backend.granted.popleft() for _ in range(min(most, len(backend.granted)))]
            for job in jobs:
                backend.running[job.id] = job
            cancels, backend.cancels = backend.cancels, []
            left = deadline - loop.time()
            if jobs or cancels or left <= 0 or backend.gone:
                return jobs, cancels
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await backend.bell.wait()

    def _backend(self, backend_id: bytes) -> Backend:
        backend = self.backends.get(backend_id)
        if backend is None:
            raise BadInput(what="task backend", reason="it has made no offer on this connection")
        return backend

    def _fill(self, backend: Backend, free: int) -> None:
        free -= len(backend.granted) + len(backend.ready)
        while free > 0 and (taken := self._waiting.take(backend.suits)) is not None:
            if (job := taken[1]).end is not None or job.closing:
                continue
            free -= 1
            job.backend = backend
            job.slot_since = now = asyncio.get_running_loop().time()
            self._waiting.used(job.party, _SLOT_SECONDS, now)
            if job.type == "action" and not job.started:
                backend.ready.add(job)
                job.tell(TaskUpdate("ready"))
                asyncio.get_running_loop().call_later(_GO_SECONDS, self._go_late, job)
            else:
                backend.granted.append(job)

    def _go_late(self, job: Job) -> None:
        if job.state == "ready" and not job.started:
            self.cancel(job, "its requester did not answer when there was a slot")

    async def report(
        self,
        backend_id: bytes,
        task: bytes,
        update: TaskUpdate,
        end: ActionEnd | None,
        payload: Payload | None,
    ) -> bool:
        """A backend's word about a job; whether it is known.

        ``end``: how it ended, if it did. What ``update`` says besides counts then, and not its state;
        the result of a job that finished is made of ``payload``.
        """
        backend = self._backend(backend_id)
        job = backend.running.get(task)
        if job is None:
            return end is not None and await self._late(task, update, end, payload)
        if end is None:
            job.started = True
            job.tell(update)
            return True
        if job.type == "action":
            await self._journal.end(task, end, payload, update.reason, update.traceback)
        await self._ended_as(job, update, end, payload)
        return True

    async def _late(
        self, task: bytes, update: TaskUpdate, end: ActionEnd, payload: Payload | None
    ) -> bool:
        """The end of an action that began before this node was restarted."""
        row = await self._journal.row(task)
        if row is None or row.state not in ("started", "unknown"):
            return False
        await self._journal.end(task, end, payload, update.reason, update.traceback)
        self._journal.returned.discard(task)
        job = self._tasks.get(task)
        if job is not None:
            await self._ended_as(job, update, end, payload)
        return True

    async def _ended_as(
        self, job: Job, update: TaskUpdate, end: ActionEnd, payload: Payload | None
    ) -> None:
        result = None if payload is None else self._results.sign(job, payload)
        if result is not None and job.type == "pure-calculation":
            await self._results.note_code(job)
            await self._results.keep(result, job.channel)
        elif result is not None and job.type == "query":
            self._results.keep_soon(result, job.channel)
        self._finish(
            job,
            make_update(
                end,
                log=update.log,
                reason=update.reason,
                traceback=update.traceback,
                result=result,
            ),
        )

    # --- ends --------------------------------------------------------------------------------

    def _end_soon(self, job: Job, state: ActionEnd, reason: str) -> None:
        """End an action, on disk first."""
        job.closing = True

        async def end() -> None:
            await self._journal.end(job.id, state, reason=reason)
            self._finish(job, TaskUpdate(state, reason=reason))

        self._do(end)

    def _finish(self, job: Job, update: TaskUpdate) -> None:
        job.tell(update)
        backend = job.backend
        if backend is not None:
            backend.running.pop(job.id, None)
            backend.ready.discard(job)
            if not backend.gone:
                backend.bell.set()
        elif job.id in self.jobs:
            # Nobody may come to pass it by for a long time, and it holds what it was asked with.
            with contextlib.suppress(LookupError, ValueError):
                self._waiting.remove(job.party, job)
        job.kwargs = b""
        self.jobs.pop(job.id, None)
        if self.pure.get((job.channel, job.key)) is job:
            del self.pure[job.channel, job.key]
        now = asyncio.get_running_loop().time()
        if backend is not None:
            self._waiting.used(job.party, now - job.slot_since, now)
        for task in job.tasks:
            if self._tasks.pop(task, None) is not None:
                self.ended.add(task, job)

    async def sweep(self) -> None:
        """Forget ends that nobody asked for, and give up what did not return after a start."""
        self.ended.sweep()
        await self._journal.settle({job.id for job in self.jobs.values() if job.type == "action"})

    def _ring(self, job: Job) -> None:
        for backend in self.backends.values():
            if backend.suits(job):
                backend.bell.set()
