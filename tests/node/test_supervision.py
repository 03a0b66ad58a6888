"""Loops that do not die, jobs that get done, and users who are told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kachery_p2p.node import supervision as supervision_module
from kachery_p2p.node.supervision import Job, Supervisor
from kachery_p2p.protocol.errors import KacheryError, StorageFull

FULL = StorageFull(what="something", path="/full")


class World:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[object]] = []
        self.warnings: list[str] = []
        self.supervisor = Supervisor(self.spawn, self.warnings.append, lambda: 0.01)

    def spawn(self, work: object, *, name: str) -> asyncio.Task[object]:
        task = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
        self.tasks.append(task)
        return task


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


async def test_a_job_is_tried_until_it_is_done(world: World) -> None:
    done, failures = asyncio.Event(), [FULL, RuntimeError("a bug"), FULL]

    async def work() -> None:
        if failures:
            raise failures.pop()
        done.set()

    job = Job(world.supervisor, "work", work)
    job.ask()
    await done.wait()
    await asyncio.gather(*world.tasks)
    assert not job.open
    assert len(world.warnings) == 1, "told once, not each time"


async def test_who_waits_for_a_job_hears_of_its_failure_and_it_goes_on(world: World) -> None:
    full = True

    async def work() -> None:
        if full:
            raise FULL

    job = Job(world.supervisor, "work", work)
    with pytest.raises(StorageFull):
        await job.done()
    assert job.open
    full = False
    await job.done()
    await asyncio.gather(*world.tasks)
    assert not job.open


async def test_a_job_that_is_asked_for_while_it_runs_runs_once_more(world: World) -> None:
    began, go, runs = asyncio.Event(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        began.set()
        await go.wait()

    job = Job(world.supervisor, "work", work)
    first = asyncio.create_task(job.done())
    await began.wait()
    second = asyncio.create_task(job.done())
    third = asyncio.create_task(job.done())
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(first, second, third)
    assert runs == 2


async def test_a_job_that_is_done_can_be_asked_for_again_at_once(world: World) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1

    job = Job(world.supervisor, "work", work)
    for _ in range(10):
        await job.done()
    assert runs == 10


async def test_a_job_that_is_cancelled_leaves_nobody_waiting(world: World) -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    job = Job(world.supervisor, "work", work)
    waits = [asyncio.create_task(job.done())]
    await began.wait()
    waits.append(asyncio.create_task(job.done()))
    await asyncio.sleep(0)
    world.tasks[0].cancel()
    results = await asyncio.gather(*waits, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert not job.open


async def test_a_loop_survives_its_errors(world: World) -> None:
    calls, enough = 0, asyncio.Event()

    async def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            enough.set()
        raise ZeroDivisionError

    world.spawn(world.supervisor.every(0.001, "step", step), name="steps")
    world.spawn(world.supervisor.for_ever("loop", step), name="loop")
    await enough.wait()
    assert len(world.warnings) == 2


async def test_a_plain_step_may_fail_too(world: World) -> None:
    calls, enough = 0, asyncio.Event()

    def step() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            enough.set()
        raise FULL

    world.spawn(world.supervisor.every(0.001, "step", step), name="steps")
    await enough.wait()


async def test_the_same_failure_is_told_again_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision_module, "FAILURES_REMEMBERED", 3)
    for number in range(10):
        world.supervisor.failed(f"thing {number}", FULL)
        world.supervisor.failed(f"thing {number}", FULL)
    assert len(world.warnings) == 10
    assert len(world.supervisor._told) == 3, "what is remembered of it is bounded"
    monkeypatch.setattr(supervision_module, "WARN_AGAIN_SECONDS", 0.0)
    world.supervisor.failed("thing 9", FULL)
    assert len(world.warnings) == 11


async def test_each_is_called_whatever_the_others_do(world: World) -> None:
    heard: list[int] = []

    def fails(value: int) -> None:
        raise KacheryError(reason=value)

    assert not world.supervisor.each("telling", [heard.append, fails, heard.append], 7)
    assert heard == [7, 7]
    assert world.supervisor.each("telling", [heard.append], 7)
