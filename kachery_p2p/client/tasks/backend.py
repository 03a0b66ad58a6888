"""A backend: a process that offers registered functions on channels, and runs them when they are asked
for.

It offers them to the local node, takes a job for every free slot, and reports. When the node goes away
the backend stays, and offers again when it is back: actions that it runs go on and their ends are
reported then; anything else is stopped, for its requesters have turned elsewhere.

Invariants: what was taken is run and reported once; every slot is free again after its job, however
that ended; when the backend ends, no process of the pool is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from kachery_p2p.client.session.connection import Connection, connection
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    DaemonNotRunning,
    KacheryError,
    LinkClosed,
    UnknownChannel,
)
from kachery_p2p.protocol.limits import MAX_TASK_SLOTS, TASK_BYTES, TASK_CANCEL_SECONDS

from .code import fingerprint, next_id
from .context import Tell
from .executors import ExecutorRunner
from .functions import TaskFunction
from .processes import ProcessPool
from .renewal import Renewal
from .reports import JobReports
from .run import Job, Outcome, failure
from .signatures import signature_of

_log = logging.getLogger("kachery_p2p.tasks")

_TAKE_SECONDS: Final = 60.0
_PAUSE_SECONDS: Final = 0.2


class Runner(Protocol):
    """What runs jobs: :class:`ProcessPool` or :class:`ExecutorRunner`."""

    slots: int

    @property
    def free(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    async def run(self, job: Job, tell: Tell) -> Outcome: ...
    def cancel(self, job: bytes) -> None: ...
    async def close(self) -> None: ...


@dataclass(eq=False)
class _Running:
    job: Job
    reports: JobReports
    task: asyncio.Task[None] | None = None
    cancelled: str = ""
    """Why it was to be cancelled."""
    orphaned: bool = False
    """Its node was restarted, or the backend ends: whoever wanted it has turned elsewhere."""


class Backend:
    """See the module. Made by :func:`~.serving.task_backend`."""

    def __init__(
        self,
        functions: Mapping[str, TaskFunction],
        channels: list[str],
        executor: Executor | None,
        slots: int | None,
        label: str,
        renewal: Renewal,
    ) -> None:
        self.ready = asyncio.Event()
        """Set while the node knows of the offer."""
        self.serving: asyncio.Future[None] | None = None
        """What runs :meth:`serve`."""
        self._functions = functions
        self._channels = channels
        self._label = label
        # Of no use for what is not kept.
        self._codes = {
            id: fingerprint(each.function)
            for id, each in functions.items()
            if each.type == "pure-calculation"
        }
        signatures = {id: signature_of(each.function) for id, each in functions.items()}
        self._signatures = {id: codec.plain(each) for id, each in signatures.items() if each}
        self._warned: set[str] = set()
        self._id = os.urandom(TASK_BYTES)
        self._jobs: dict[bytes, _Running] = {}
        self._ends: dict[bytes, Callable[[], Any]] = {}
        """Ends of actions that the node has not heard of yet."""
        self._room = asyncio.Event()
        self._room.set()
        self._loops: asyncio.Task[None] | None = None
        self._node: Connection | None = None
        self._runner: Runner
        if executor is None:
            self._runner = ProcessPool(functions, slots, self._room.set, renewal)
        else:
            assert slots is not None
            self._runner = ExecutorRunner(executor, functions, slots, self._room.set)

    @property
    def ended(self) -> bool:
        """Whether it serves no more, because of an error."""
        return self.serving is not None and self.serving.done()

    # --- the offer ---------------------------------------------------------------------------

    async def serve(self) -> None:
        """Offer and run until cancelled. Raises what the node says of the first offer."""
        away = False
        while True:
            try:
                await self._offer()
            except (LinkClosed, DaemonNotRunning, BadInput) as error:
                if self._node is None:
                    raise
                if not away:
                    _log.warning("%s The functions are offered again when it is back.", error)
                away = not self.ready.is_set()
            except KacheryError as error:
                if self._node is None or isinstance(error, AccessDenied | UnknownChannel):
                    raise
                _log.warning("%s", error)
            finally:
                away = True
                await self._pause()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _offer(self) -> None:
        node = await connection()
        actions = [id for id, running in self._jobs.items() if running.job.type == "action"]

        def on_progress(info: dict[str, Any]) -> None:
            if info.get("ready"):
                if self._node is not None and self._node is not node:
                    _log.warning("The node is back; the functions are offered again.")
                self._node = node
                self._warn_of_changed(info.get("changed") or [])
                self._loops = asyncio.get_running_loop().create_task(self._serve(node))
                self.ready.set()

        await node.call(
            "task.offer",
            {
                "backend": self._id,
                "functions": [[each.id, each.type] for each in self._functions.values()],
                "channels": self._channels,
                "slots": self._runner.slots,
                "label": self._label,
                "codes": self._codes,
                "signatures": self._signatures,
                "running": [*actions, *(id for id in self._ends if id not in actions)],
            },
            on_progress=on_progress,
        )

    def _warn_of_changed(self, functions: list[str]) -> None:
        for id in functions:
            if id not in self._warned:
                self._warned.add(id)
                _log.warning(
                    "The code of %r is not what it was when results that are kept were computed, and "
                    "those are handed out as before. Give what it does now another id, such as %r; "
                    "or have who asks do so with cached=False.",
                    id,
                    next_id(id),
                )

    async def _pause(self) -> None:
        """The offer has ended: take nothing more, and stop what nobody waits for."""
        self.ready.clear()
        if self._loops is not None:
            self._loops.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loops
            self._loops = None
        for running in self._jobs.values():
            if running.job.type != "action":
                running.orphaned = running.reports.muted = True
                self._cancel(running.job.id, "its node went away")

    async def _serve(self, node: Connection) -> None:
        for report in list(self._ends.values()):
            await report()
        loops = [self._take_jobs(node), self._take_cancels(node)]
        tasks = [asyncio.ensure_future(each) for each in loops]
        try:
            await asyncio.gather(*tasks)
        except LinkClosed:
            return  # the offer ends for the same reason, and says so
        except KacheryError as error:
            _log.warning("%s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _take_jobs(self, node: Connection) -> None:
        while True:
            # What was taken has its slot, although its run may begin only in the loop's next round.
            most = self._runner.slots + self._runner.waiting
            free = min(self._runner.free, most - len(self._jobs), MAX_TASK_SLOTS)
            if free <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._accept(await self._take(node, free))

    async def _take_cancels(self, node: Connection) -> None:
        # Of its own, so that taking jobs is never broken off: what was taken would be lost.
        while True:
            self._accept(await self._take(node, 0))

    async def _take(self, node: Connection, most: int) -> Any:
        params = {"backend": self._id, "most": most, "wait": _TAKE_SECONDS}
        return await node.call("task.take", params)

    def _accept(self, taken: Any) -> None:
        for each in taken["jobs"]:
            self._begin(
                Job(
                    each["job"], each["function"], each["type"], each["kwargs"],
                    each["channel"], each["timeout"],
                )
            )  # fmt: skip
        for id in taken["cancel"]:
            self._cancel(id, "it was cancelled")

    # --- jobs --------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        reports = JobReports(lambda fields: self._report(job, fields), lambda: self._unknown(job))
        running = self._jobs[job.id] = _Running(job, reports)
        loop = asyncio.get_running_loop()
        running.task = loop.create_task(self._run(running))
        if job.timeout is not None:
            reason = f"it took longer than the {job.timeout:g} s that it was given"
            loop.call_later(job.timeout, self._time_out, running, reason)

    def _time_out(self, running: _Running, reason: str) -> None:
        if self._jobs.get(running.job.id) is running:
            self._cancel(running.job.id, reason)

    def _unknown(self, job: Job) -> None:
        """The node does not know it: its requester has gone."""
        running = self._jobs.get(job.id)
        if running is not None and job.type != "action":
            running.orphaned = True
            self._cancel(job.id, "nobody waits for it")

    def _cancel(self, id: bytes, reason: str) -> None:
        running = self._jobs.get(id)
        if running is not None and not running.cancelled:
            running.cancelled = reason
            self._runner.cancel(id)

    async def _run(self, running: _Running) -> None:
        job = running.job
        try:
            outcome = await self._runner.run(job, running.reports.tell)
        except Exception as error:  # whatever it is, its requester waits for a report
            if not isinstance(error, KacheryError):
                _log.error("Task %s of %s", job.id.hex(), job.function, exc_info=error)
            outcome = failure(error)
        finally:
            if self._jobs.get(job.id) is running:
                del self._jobs[job.id]
            self._room.set()
        if running.orphaned and job.type != "action":
            return
        state, reason = _verdict(outcome, running)

        async def report() -> None:
            with contextlib.suppress(LinkClosed, DaemonNotRunning):
                try:
                    await running.reports.end(
                        state, outcome.payload if state == "finished" else None,
                        reason, outcome.traceback, outcome.log,
                    )  # fmt: skip
                except (LinkClosed, DaemonNotRunning):
                    raise
                except KacheryError as error:
                    # What was to be said cannot be said; that it ended can.
                    _log.warning("Task %s of %s: %s", job.id.hex(), job.function, error)
                    told = f"it ended as {state}, and that could not be reported: {error}"
                    with contextlib.suppress(KacheryError):
                        await running.reports.end("failed", None, told, "", b"")
                self._ends.pop(job.id, None)

        if job.type == "action":
            self._ends[job.id] = report
        await report()

    async def _report(self, job: Job, fields: dict[str, Any]) -> bool:
        if self._node is None or not self._node.alive:
            raise LinkClosed(peer="the local node", reason="it is away")
        params = {"backend": self._id, "job": job.id, **fields}
        known: bool = (await self._node.call("task.report", params))["known"]
        return known

    # --- the end -----------------------------------------------------------------------------

    async def stop(self) -> None:
        """Stop what runs, and end the pool. The offer is still there, so that ends can be reported."""
        if self._loops is not None:
            self._loops.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._loops
            self._loops = None
        left = list(self._jobs.values())
        for running in left:
            running.orphaned = True
            self._cancel(running.job.id, "its backend was stopped")
        tasks = [running.task for running in left if running.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=2 * TASK_CANCEL_SECONDS)
        await self._runner.close()


def _verdict(outcome: Outcome, running: _Running) -> tuple[str, str]:
    """State and reason as the requester is told."""
    reason = outcome.reason
    match outcome.state:
        case "lost":
            state = "unknown" if running.job.type == "action" else "failed"
        case "killed" if running.orphaned:
            state, reason = "unknown", f"{running.cancelled}: {reason}"
        case "killed" | "cancelled":
            state = "cancelled"
            reason = f"{running.cancelled}: {reason}" if running.cancelled else reason
        case state:
            pass
    return state, reason
