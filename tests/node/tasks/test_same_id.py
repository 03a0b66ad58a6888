"""A member that uses the id of one task for another, or again and again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.tasks import ended
from kachery_p2p.node.tasks import queue as task_queue
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.tasks.messages import TASK_RUN, TaskRun
from kachery_p2p.protocol.tasks.task import canonical_kwargs
from tests.node.harness import Lab, laboratory, until
from tests.node.tasks.lab import Job, Request, backend

ID = bytes(range(16))


async def ask(lab: Lab, function: str, kwargs: Any, **more: Any) -> Any:
    """C's stream to A about a task; it stays open."""
    link = await lab["C"].reach.to(lab.id("A"), lab.channels["lab"])
    run = TaskRun(
        lab.channels["lab"], more.pop("task", ID), function, more.pop("type", "pure-calculation"),
        False, kwargs=canonical_kwargs(kwargs), **more,
    )  # fmt: skip
    return link.open(TASK_RUN, codec.plain(run))


async def end_of(stream: Any) -> Any:
    """The update that a conversation ends with. Raises what the node said instead."""
    last = None
    while (item := await stream.receive()) is not None:
        last = item[0]
        stream.done(item[2])
    return last


@pytest.mark.parametrize("type", ["pure-calculation", "query", "action"])
async def test_one_id_for_two_tasks_does_not_give_one_the_result_of_the_other(type: str) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(job: Job) -> Any:
        begun.set()
        await may_end.wait()
        return "mine"

    async def quick(job: Job) -> Any:
        return job.kwargs["x"]

    functions = {"slow.1": ("pure-calculation", slow), "quick.1": (type, quick)}
    async with laboratory("A", "B", "C") as lab, backend(lab, "A", functions):
        first = await ask(lab, "slow.1", {})
        await begun.wait()
        second = await ask(lab, "quick.1", {"x": 1}, type=type)
        with pytest.raises(KacheryError, match="id"):
            await end_of(second)
        may_end.set()
        assert (await end_of(first))[0] == "finished"
        assert await Request(lab, "B", "slow.1", {}).value() == "mine"
        assert await Request(lab, "B", "quick.1", {"x": 1}, type=type).value() == 1


async def test_an_id_that_is_used_again_and_again_makes_nobody_forget_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time before it began, so that it may be asked for anew."""
    monkeypatch.setattr(ended, "MAX_TASKS_KEPT_BYTES", 20_000)

    async def act(job: Job) -> Any:
        return 1

    async with laboratory("A", "B", "C") as lab, backend(lab, "A", {"act.1": ("action", act)}):
        queue = lab["A"].task_queue
        mine = Request(lab, "B", "act.1", {}, type="action")
        assert await mine.value() == 1
        for number in range(40):
            stream = await ask(lab, "act.1", {"n": number}, type="action")
            await stream.receive()
            stream.end()
            await until(lambda: ID not in queue._tasks, "it was dropped")
        assert mine.task in queue.ended
        assert queue.ended.bytes == sum(job.end_bytes for job in queue.ended.jobs())


async def test_ids_without_end_for_one_calculation_are_not_all_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(task_queue, "MAX_TASK_IDS", 10)
    may_end = asyncio.Event()

    async def slow(job: Job) -> Any:
        await may_end.wait()
        return 1

    functions = {"slow.1": ("pure-calculation", slow)}
    async with laboratory("A", "B", "C") as lab, backend(lab, "A", functions):
        mine = Request(lab, "B", "slow.1", {})
        await mine.state("running")
        for number in range(30):
            stream = await ask(lab, "slow.1", {}, task=number.to_bytes(16))
            await stream.receive()
            stream.end()
        queue = lab["A"].task_queue
        assert len(queue._tasks) <= 10
        may_end.set()
        assert await mine.value() == 1
        assert mine.task in queue.ended
