"""Tasks on the nodes of a laboratory: a backend in the test's own hands, and requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.tasks.task import canonical_kwargs
from tests.node.harness import Lab, Live
from tests.patience import patience

Function = Callable[["Job"], Awaitable[Any]]


@dataclass(eq=False)
class Job:
    """What a backend was given; ``cancelled`` is set when it must end it."""

    backend: Backend
    id: bytes
    kwargs: dict[str, Any]
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def report(self, state: str, **more: Any) -> bool:
        answer = await self.backend.call("task.report", job=self.id, state=state, **more)
        return bool(answer["known"])


@dataclass(eq=False)
class Backend:
    """The half of the local API that a backend speaks, for functions that are coroutines."""

    lab: Lab
    node: str
    functions: dict[str, tuple[str, Function]]
    slots: int
    codes: dict[str, str] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    """The functions whose results other code computed."""
    id: bytes = field(default_factory=lambda: os.urandom(16))
    jobs: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)
    taken: list[Job] = field(default_factory=list)

    async def call(self, method: str, **params: Any) -> Any:
        return await self.lab.call(self.node, method, backend=self.id, **params)

    async def offer(self, live: Live, channel: str, running: list[bytes]) -> None:
        await self.lab.live(
            self.node,
            live,
            "task.offer",
            backend=self.id,
            functions=[[name, kind] for name, (kind, _) in self.functions.items()],
            channels=[channel],
            slots=self.slots,
            label="backend",
            running=running,
            codes=self.codes,
            signatures=self.signatures,
        )

    async def serve(self) -> None:
        by_id: dict[bytes, Job] = {}
        while True:
            free = self.slots - len(self.jobs)
            given = await self.call("task.take", most=free, wait=0.05)
            for job_id in given["cancel"]:
                by_id[job_id].cancelled.set()
            for each in given["jobs"]:
                job = Job(self, each["job"], json.loads(each["kwargs"]))
                by_id[job.id] = job
                self.taken.append(job)
                _, function = self.functions[each["function"]]
                self.jobs[job.id] = asyncio.create_task(self._work(job, function))

    async def _work(self, job: Job, function: Function) -> None:
        try:
            await job.report("running")
            value = await function(job)
        except KacheryError:
            raise
        except Exception as error:
            await job.report("failed", reason=repr(error), traceback="Traceback of the test")
        else:
            if value is not DONE:
                data = json.dumps(value).encode()
                await job.report("finished", payload=["json", data, None])
        finally:
            self.jobs.pop(job.id, None)


DONE: Any = object()
"""What a function returns that has reported its end itself."""


@contextlib.asynccontextmanager
async def backend(
    lab: Lab,
    node: str,
    functions: dict[str, tuple[str, Function]],
    *,
    slots: int = 4,
    channel: str = "lab",
    tell: bool = True,
    running: tuple[bytes, ...] = (),
    codes: dict[str, str] | None = None,
    signatures: dict[str, Any] | None = None,
) -> AsyncIterator[Backend]:
    """A backend on a node; leaving it is its end, as when its process is killed."""
    made = Backend(lab, node, functions, slots, codes or {}, signatures or {})
    live = Live()
    offering = asyncio.create_task(made.offer(live, channel, list(running)))
    while not live.told:
        await asyncio.sleep(0)
        if offering.done():
            await offering
    made.changed = live.told[0]["changed"]
    if tell:
        await lab.announced(node, channel)
    serving = asyncio.create_task(made.serve())
    try:
        yield made
    finally:
        tasks = [serving, offering, *made.jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Request:
    """A request of a local caller, running."""

    def __init__(self, lab: Lab, node: str, function: str, kwargs: Any, **more: Any) -> None:
        self.lab = lab
        self.node = node
        self.live = Live()
        self.task = more.pop("task", None) or os.urandom(16)
        params = {
            "type": "pure-calculation",
            "backend_timeout": 5.0,
            "timeout": 10.0,
            "channel": "lab",
        } | more
        self.call = asyncio.create_task(
            lab.live(
                node,
                self.live,
                "task.request",
                task=self.task,
                function=function,
                kwargs=canonical_kwargs(kwargs),
                **params,
            )
        )

    @property
    def states(self) -> list[str]:
        """Without the first word, that the node has it."""
        return [told["state"] for told in self.live.told[1:]]

    async def state(self, wanted: str) -> None:
        async with asyncio.timeout(patience(10)):
            while wanted not in self.states:
                if self.call.done():
                    raise AssertionError(f"it ended instead: {await self.call}")
                await asyncio.sleep(0.005)

    async def end(self) -> Any:
        return await self.call

    async def value(self) -> Any:
        ended = await self.call
        assert ended["state"] == "finished", ended
        return json.loads(ended["payload"][1])

    async def cancel(self) -> bool:
        answer = await self.lab.call(self.node, "task.cancel", task=self.task)
        return bool(answer["cancelled"])


__all__ = ["DONE", "Backend", "Function", "Job", "Request", "backend"]
