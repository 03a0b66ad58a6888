"""Actions between real nodes: begun at most once, whatever crashes in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.protocol.errors import DeadlineExceeded
from tests.node.harness import laboratory, until
from tests.node.tasks.lab import Job, Request, backend
from tests.node.tasks.test_tasks import Gate


class Ledger:
    """An action that notes each number that it did."""

    def __init__(self) -> None:
        self.done: list[int] = []

    async def __call__(self, job: Job) -> Any:
        self.done.append(job.kwargs["n"])
        return job.kwargs["n"]


def action(function: Any) -> dict[str, Any]:
    return {"act.1": ("action", function)}


async def test_an_action_runs_and_is_not_cached() -> None:
    async with laboratory() as lab:
        ledger = Ledger()
        async with backend(lab, "A", action(ledger)):
            for _ in range(2):
                request = Request(lab, "B", "act.1", {"n": 7}, type="action")
                assert await request.value() == 7
                assert request.states[:2] in (["ready", "running"], ["queued", "ready"])
            assert ledger.done == [7, 7]


async def test_the_same_request_again_is_the_same_action() -> None:
    async with laboratory() as lab:
        ledger = Ledger()
        async with backend(lab, "A", action(ledger)):
            first = Request(lab, "B", "act.1", {"n": 1}, type="action")
            assert await first.value() == 1
            again = Request(lab, "B", "act.1", {"n": 1}, type="action", task=first.task)
            assert await again.value() == 1
            # And when the requester's node forgot everything but what is on its disk.
            await lab.restart("B")
            await lab.linked("B", "lab")
            once_more = Request(lab, "B", "act.1", {"n": 1}, type="action", task=first.task)
            assert await once_more.value() == 1
            assert ledger.done == [1]


async def test_an_action_whose_backend_dies_is_unknown_and_not_repeated() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", action(gate)):
            request = Request(lab, "B", "act.1", {"n": 1}, type="action", retries=5)
            await request.state("running")
        ended = await request.end()
        assert ended["state"] == "unknown"
        async with backend(lab, "A", action(gate)):
            again = Request(lab, "B", "act.1", {"n": 1}, type="action", task=request.task)
            assert (await again.end())["state"] == "unknown"
        assert len(gate.runs) == 1


async def test_an_action_whose_node_restarts_before_it_began_runs_elsewhere_once() -> None:
    async with laboratory("A", "B", "C") as lab:
        gate, ledger = Gate(), Ledger()
        functions = {"act.1": ("action", ledger), "hold.1": ("query", gate)}
        async with backend(lab, "A", functions, slots=1):
            holding = Request(lab, "C", "hold.1", {}, type="query")
            await holding.state("running")
            request = Request(lab, "C", "act.1", {"n": 3}, type="action", timeout=None)
            await request.state("queued")
            async with backend(lab, "B", action(ledger)):
                await lab.stop("A")
                assert await request.value() == 3
            assert ledger.done == [3]
            holding.call.cancel()


async def test_a_backend_that_outlives_its_node_reports_the_end_of_an_action() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", action(gate)) as made:
            request = Request(lab, "B", "act.1", {"n": 1}, type="action", timeout=None)
            await request.state("running")
            job = made.taken[0].id
            await lab.stop("A")
            await until(lambda: "waiting for node" in request.live.told[-1]["message"])
            await lab.restart("A")
            await lab.linked("A", "lab")
        async with backend(lab, "A", action(gate), running=(job,)) as returned:
            await until(lambda: request.states[-1] == "running")
            answer = await returned.call(
                "task.report", job=job, state="finished", payload=["json", b'"late"', None]
            )
            assert answer == {"known": True}
            assert await request.value() == "late"
            assert len(gate.runs) == 1


async def test_a_queued_action_is_cancelled_and_never_begins() -> None:
    async with laboratory() as lab:
        gate, ledger = Gate(), Ledger()
        functions = {"act.1": ("action", ledger), "hold.1": ("query", gate)}
        async with backend(lab, "A", functions, slots=1):
            holding = Request(lab, "B", "hold.1", {}, type="query")
            await holding.state("running")
            request = Request(lab, "B", "act.1", {"n": 3}, type="action")
            await request.state("queued")
            assert await request.cancel()
            assert (await request.end())["state"] == "cancelled"
            gate.open.set()
            await holding.end()
            await asyncio.sleep(0)
            assert ledger.done == []


async def test_an_action_whose_time_is_up_is_ended_and_says_so() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", action(gate)):
            for timeout in (0.5, 4.0, 30.0):  # on a busy machine it may not even have begun
                request = Request(lab, "B", "act.1", {"n": 1}, type="action", timeout=timeout)
                with pytest.raises(DeadlineExceeded):
                    await request.end()
                if gate.runs:
                    break
            again = Request(lab, "B", "act.1", {"n": 1}, type="action", task=request.task)
            assert (await again.end())["state"] == "cancelled"
            assert len(gate.runs) == 1


async def test_an_action_that_outlived_its_node_is_unknown_when_its_backend_dies_after_all() -> (
    None
):
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", action(gate)) as made:
            request = Request(lab, "B", "act.1", {"n": 1}, type="action", timeout=None)
            await request.state("running")
            job = made.taken[0].id
            await lab.stop("A")
            await until(lambda: "waiting for node" in request.live.told[-1]["message"])
            await lab.restart("A")
            await lab.linked("A", "lab")
        async with backend(lab, "A", action(gate), running=(job,)):
            await until(lambda: request.states[-1] == "running")
            await until(lambda: not request.live.told[-1]["message"])
        assert (await request.end())["state"] == "unknown"
        assert len(gate.runs) == 1


async def test_a_backend_that_dies_while_its_action_is_noted_gives_it_to_the_next_once() -> None:
    async with laboratory() as lab:
        ledger = Ledger()
        queue = lab["A"].task_queue
        noting, noted = asyncio.Event(), asyncio.Event()
        journal = queue._journal
        disk = journal._disk

        async def slow(work: Any, *values: Any) -> Any:
            if work == journal._store.action_started:
                noting.set()
                await noted.wait()
            return await disk(work, *values)

        journal._disk = slow  # type: ignore[assignment]
        async with backend(lab, "A", action(ledger)):
            request = Request(lab, "B", "act.1", {"n": 9}, type="action", timeout=None)
            await noting.wait()
        async with backend(lab, "A", action(ledger)) as second:
            await asyncio.sleep(0.2)
            assert second.taken == [], "it must not begin before it is noted"
            noted.set()
            assert await request.value() == 9
        assert ledger.done == [9]
