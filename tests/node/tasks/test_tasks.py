"""Tasks between real nodes: who runs what, once, and what the requester hears."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from kachery_p2p.protocol.errors import (
    AccessDenied,
    BadInput,
    DeadlineExceeded,
    NoBackend,
    TaskNotAllowed,
)
from tests.node.harness import Lab, laboratory, until
from tests.node.tasks.lab import DONE, Function, Job, Request, backend


async def double(job: Job) -> Any:
    return job.kwargs["x"] * 2


async def fail(job: Job) -> Any:
    raise ValueError("no such thing")


DOUBLE = {"double.1": ("pure-calculation", double)}


class Gate:
    """A function that counts its runs and waits to be let through, or to be cancelled."""

    def __init__(self) -> None:
        self.runs: list[Any] = []
        self.open = asyncio.Event()

    async def __call__(self, job: Job) -> Any:
        self.runs.append(job.kwargs)
        opened = asyncio.ensure_future(self.open.wait())
        cancelled = asyncio.ensure_future(job.cancelled.wait())
        try:
            await asyncio.wait([opened, cancelled], return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
            cancelled.cancel()
        if job.cancelled.is_set():
            await job.report("cancelled", reason="as was asked")
            return DONE
        return "through"


async def test_a_task_runs_on_another_node_and_its_result_is_shared() -> None:
    async with laboratory("A", "B", "C") as lab:
        async with backend(lab, "A", DOUBLE) as made:
            first = Request(lab, "B", "double.1", {"x": 21})
            ended = await first.end()
            assert (await first.value(), ended["cached"]) == (42, False)
            assert ended["node"] == lab.id("A")
            assert first.states[-1] == "finished"
            # 21.0 is 21, and the result is here already.
            again = await Request(lab, "B", "double.1", {"x": 21.0}).end()
            assert again["cached"]
            assert len(made.taken) == 1
            await lab.announced("B")
        await lab.announced("A")
        await lab.stop("A")
        # C never asked, the backend is gone, and so is the node that computed it.
        third = Request(lab, "C", "double.1", {"x": 21})
        ended = await third.end()
        assert (await third.value(), ended["cached"], ended["node"]) == (42, True, again["node"])


async def test_ten_nodes_that_ask_at_once_are_one_run() -> None:
    async with laboratory(*"ABCDEFGHIJ") as lab:
        gate = Gate()
        functions: dict[str, tuple[str, Function]] = {"slow.1": ("pure-calculation", gate)}
        async with backend(lab, "A", functions), backend(lab, "B", functions):
            requests = [Request(lab, node, "slow.1", {"n": 1}) for node in "ABCDEFGHIJ"]
            for request in requests:
                await request.state("running")
            gate.open.set()
            assert [await request.value() for request in requests] == ["through"] * 10
            assert len(gate.runs) == 1


async def test_one_of_many_that_wait_cancels_for_itself_alone() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", {"slow.1": ("pure-calculation", gate)}):
            stays, goes = (Request(lab, node, "slow.1", {}) for node in "AB")
            await stays.state("running")
            await goes.state("running")
            assert await goes.cancel()
            assert (await goes.end())["state"] == "cancelled"
            gate.open.set()
            assert await stays.value() == "through"


@pytest.mark.parametrize("nodes", ["A", "B", "AC"])
async def test_a_wrong_type_is_said_at_once(nodes: str) -> None:
    async with laboratory("A", "B", "C") as lab, contextlib.AsyncExitStack() as stack:
        for node in nodes:
            await stack.enter_async_context(backend(lab, node, {"ask.1": ("query", double)}))
        with pytest.raises(BadInput, match=r"offered as a query.* as pure-calculation"):
            await Request(lab, "B", "ask.1", {"x": 1}).end()


async def test_of_two_types_of_a_function_the_one_that_is_asked_for_is_run() -> None:
    async with (
        laboratory("A", "B", "C") as lab,
        backend(lab, "A", {"both.1": ("query", double)}),
        backend(lab, "C", {"both.1": ("pure-calculation", double)}),
    ):
        for _ in range(3):
            ended = await Request(lab, "B", "both.1", {"x": 1}, type="query").end()
            assert ended["node"] == lab.id("A")
        ended = await Request(lab, "B", "both.1", {"x": 1}).end()
        assert ended["node"] == lab.id("C")


async def test_a_function_that_raises_fails_with_its_traceback() -> None:
    async with laboratory() as lab, backend(lab, "A", {"fail.1": ("query", fail)}) as made:
        ended = await Request(lab, "B", "fail.1", {}, type="query").end()
        assert ended["state"] == "failed"
        assert "no such thing" in ended["reason"]
        assert ended["traceback"] == "Traceback of the test"
        assert len(made.taken) == 1
        await Request(lab, "B", "fail.1", {}, type="query", retries=2).end()
        assert len(made.taken) == 4


async def test_progress_and_prints_are_heard() -> None:
    async def talk(job: Job) -> Any:
        await job.report("running", fraction=0.4, message="sorting", log=b"hello\n")
        await job.cancelled.wait()
        await job.report("cancelled", log=b"bye\n")
        return DONE

    async with laboratory() as lab, backend(lab, "A", {"talk.1": ("query", talk)}):
        request = Request(lab, "B", "talk.1", {}, type="query")
        await until(lambda: any(told["log"] for told in request.live.told))
        assert any(
            (told["fraction"], told["message"]) == (0.4, "sorting") for told in request.live.told
        )
        assert await request.cancel()
        assert (await request.end())["state"] == "cancelled"
        assert b"".join(told["log"] for told in request.live.told) == b"hello\nbye\n"


async def test_without_a_backend_a_request_waits_as_long_as_was_said() -> None:
    async with laboratory() as lab:
        request = Request(lab, "B", "double.1", {"x": 1}, backend_timeout=10.0)
        await request.state("no backend yet")
        async with backend(lab, "A", DOUBLE):
            assert await request.value() == 2
            with pytest.raises(NoBackend, match=r"double\.1"):
                # What is on offer instead is named.
                await Request(lab, "B", "treble.1", {}, backend_timeout=0.0).end()
        await lab.announced("A")
        with pytest.raises(NoBackend):
            await Request(lab, "B", "double.1", {"x": 5}, backend_timeout=0.1).end()


async def test_a_query_is_asked_afresh_and_falls_back_to_the_last_answer() -> None:
    answers = iter(range(10))

    async def count(job: Job) -> Any:
        return next(answers)

    async with laboratory("A", "B", "C") as lab:
        async with backend(lab, "A", {"count.1": ("query", count)}):
            assert await Request(lab, "B", "count.1", {}, type="query").value() == 0
            assert await Request(lab, "B", "count.1", {}, type="query").value() == 1
            await lab.announced("B")
        await lab.announced("A")
        for node in "BC":
            ended = Request(lab, node, "count.1", {}, type="query", backend_timeout=0.1)
            assert await ended.value() == 1
            assert (await ended.end())["cached"]


async def test_time_that_is_up_ends_the_request_and_the_run() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", {"slow.1": ("query", gate)}) as made:
            request = Request(lab, "B", "slow.1", {}, type="query", timeout=0.3)
            with pytest.raises(DeadlineExceeded, match=r"slow\.1"):
                await request.end()
            await until(lambda: not made.jobs, "the slot is free")
            assert made.taken[0].cancelled.is_set()


async def test_a_second_backend_takes_over_when_the_first_dies_before_it_began() -> None:
    async with laboratory("A", "B", "C") as lab:
        gate = Gate()
        functions = {"slow.1": ("query", gate)}
        async with backend(lab, "A", functions, slots=1):
            busy = Request(lab, "C", "slow.1", {"n": 0}, type="query", timeout=None)
            await busy.state("running")
            queued = Request(lab, "C", "slow.1", {"n": 1}, type="query", timeout=None)
            await queued.state("queued")
            async with backend(lab, "B", functions):
                await lab.stop("A")
                gate.open.set()
                assert await queued.value() == "through"
                assert {"n": 1} in gate.runs


async def test_a_backend_that_dies_while_it_runs_fails_a_query_and_a_retry_is_allowed() -> None:
    async with laboratory() as lab:
        gate = Gate()
        functions = {"slow.1": ("query", gate)}
        async with backend(lab, "A", functions):
            lost = Request(lab, "B", "slow.1", {"n": 0}, type="query")
            patient = Request(lab, "B", "slow.1", {"n": 1}, type="query", retries=1)
            await lost.state("running")
            await patient.state("running")
        ended = await lost.end()
        assert ended["state"] == "failed"
        assert "ended, or was killed" in ended["reason"]
        gate.open.set()
        async with backend(lab, "A", functions):
            assert await patient.value() == "through"


async def test_roles_and_the_allow_list_say_who_refuses() -> None:
    async with laboratory(channel=False) as lab:
        await lab.restart("A", allow_tasks=("double.1",))
        await lab.channel("lab", {"A": "all", "B": "request-files"}, owner="A")
        with pytest.raises(AccessDenied, match="request-tasks"):
            await Request(lab, "B", "double.1", {"x": 1}).end()
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "request", "B": "all"}, owner="A")
        with pytest.raises(AccessDenied, match="provide-tasks"):
            async with backend(lab, "A", DOUBLE):
                pass
        with pytest.raises(AccessDenied, match="provide-tasks"):
            await Request(lab, "B", "double.1", {"x": 1}, backend_timeout=0.1).end()
    async with laboratory() as lab:
        await lab.restart("A", allow_tasks=("double.1",))
        await lab.linked("A", "lab")
        functions = {**DOUBLE, "fail.1": ("query", fail)}
        async with backend(lab, "A", functions):
            assert await Request(lab, "B", "double.1", {"x": 1}).value() == 2
            with pytest.raises(TaskNotAllowed, match=r"fail\.1"):
                await Request(lab, "B", "fail.1", {}, type="query").end()


async def test_what_is_on_offer_is_listed_by_node_with_its_load() -> None:
    async with laboratory() as lab:
        gate = Gate()
        functions = {**DOUBLE, "slow.1": ("query", gate)}
        async with backend(lab, "A", functions, slots=1):
            running = Request(lab, "B", "slow.1", {"n": 0}, type="query")
            queued = Request(lab, "B", "slow.1", {"n": 1}, type="query")
            await running.state("running")
            await queued.state("queued")
            for node in "AB":
                listed = await lab.call(node, "task.list")
                offers = {offer["function"]: offer for offer in listed["offers"]}
                slow = offers["slow.1"]
                assert (slow["slots"], slow["running"], slow["queued"]) == (1, 1, 1)
                assert (slow["node"], slow["channel"]) == (lab.id("A"), "lab")
                assert offers["double.1"]["type"] == "pure-calculation"
            shown = (await lab.call("B", "task.show", task=running.task))["tasks"]
            assert [(task["state"], task["side"]) for task in shown] == [("running", "requested")]
            gate.open.set()
            await running.end()
            await queued.end()


async def test_a_result_that_was_computed_by_hand_is_shared() -> None:
    async with laboratory() as lab:
        params: dict[str, Any] = {"function": "double.1", "kwargs": b'{"x":4}', "channel": "lab"}
        payload = ["json", b"8", None]
        await lab.call("A", "task.publish", type="pure-calculation", payload=payload, **params)
        await lab.announced("A")
        assert await Request(lab, "B", "double.1", {"x": 4}).value() == 8
        found = await lab.call("B", "task.cached", **params)
        assert (found["payload"], found["node"]) == (payload, lab.id("A"))


async def test_who_waits_for_a_backend_gets_the_result_when_somebody_else_has_it() -> None:
    async with laboratory() as lab:
        params: dict[str, Any] = {"function": "double.1", "kwargs": b'{"x":4}', "channel": "lab"}
        waiting = Request(lab, "B", "double.1", {"x": 4})
        await until(lambda: lab["B"].task_requests.live)
        payload = ["json", b"8", None]
        await lab.call("A", "task.publish", type="pure-calculation", payload=payload, **params)
        assert await waiting.value() == 8
        assert (await waiting.end())["cached"]


async def _queue_is_empty(lab: Lab, node: str) -> None:
    queue = lab[node].task_queue
    await until(lambda: not queue.jobs and not any(b.load for b in queue.backends.values()))


async def test_a_node_that_vanishes_cancels_what_has_not_begun() -> None:
    async with laboratory() as lab:
        gate = Gate()
        functions = {"slow.1": ("query", gate), "calc.1": ("pure-calculation", gate)}
        async with backend(lab, "A", functions, slots=1):
            running = Request(lab, "B", "slow.1", {"n": 0}, type="query")
            await running.state("running")
            queued = Request(lab, "B", "slow.1", {"n": 1}, type="query")
            pure = Request(lab, "B", "calc.1", {"n": 2})
            await queued.state("queued")
            await pure.state("queued")
            await lab.stop("B")
            await asyncio.gather(running.call, queued.call, pure.call, return_exceptions=True)
            queue = lab["A"].task_queue
            await until(lambda: len(queue.jobs) == 1, "what is queued is dropped")
            gate.open.set()
            await _queue_is_empty(lab, "A")
            assert gate.runs == [{"n": 0}]


@pytest.mark.parametrize("kind", ["pure-calculation", "query", "action"])
async def test_a_request_goes_on_when_its_caller_has_gone(kind: str) -> None:
    """As a script has that ends right after it asked: wherever the request stands then."""
    async with laboratory() as lab:
        gate = Gate()
        requests = [Request(lab, "B", "slow.1", {"n": n}, type=kind) for n in range(3)]
        for request in requests:
            await until(lambda request=request: request.live.told)
        requests[0].call.cancel()
        async with backend(lab, "A", {"slow.1": (kind, gate)}, slots=1) as made:
            await until(lambda: gate.runs, "what nobody offered yet has begun")
            for request in requests[1:]:
                request.call.cancel()
            gate.open.set()
            await until(lambda: len(made.taken) == 3, "what waited for a slot has begun")
            await until(lambda: not lab["B"].task_requests.live, "they are seen to their end")
            assert sorted(run["n"] for run in gate.runs) == [0, 1, 2]


async def test_a_caller_that_comes_again_hears_how_its_request_ends() -> None:
    async with laboratory() as lab:
        gate = Gate()
        async with backend(lab, "A", {"slow.1": ("query", gate)}):
            first = Request(lab, "B", "slow.1", {"n": 0}, type="query")
            await first.state("running")
            first.call.cancel()
            again = Request(lab, "B", "slow.1", {"n": 0}, type="query", task=first.task)
            await until(lambda: again.live.told)
            told = len(first.live.told)
            gate.open.set()
            assert await again.value() == "through"
            assert len(first.live.told) == told, "who has gone is told nothing"
            assert gate.runs == [{"n": 0}]


async def test_a_request_whose_caller_has_gone_can_be_cancelled() -> None:
    async with laboratory() as lab:
        request = Request(lab, "B", "slow.1", {"n": 0})
        await until(lambda: request.live.told)
        request.call.cancel()
        assert await request.cancel()
        await until(lambda: not lab["B"].task_requests.live)


async def test_a_backend_is_told_of_functions_whose_results_other_code_computed() -> None:
    async with laboratory("A") as lab:
        offers = [
            {"double.1": "3.11:aa"},
            {"double.1": "3.11:aa"},
            {"double.1": "3.11:bb"},
            {"double.1": "3.12:cc"},
            {},
        ]
        told = []
        for codes in offers:
            async with backend(lab, "A", DOUBLE, codes=codes) as made:
                told.append(made.changed)
                if codes.get("double.1") == "3.11:aa":
                    assert await Request(lab, "A", "double.1", {"x": len(told)}).value()
        assert told == [[], [], ["double.1"], [], []]


async def test_calculations_that_ask_for_one_another_in_a_circle_fail() -> None:
    lab: Lab

    def asks(function: str) -> Function:
        async def ask(job: Job) -> Any:
            try:
                return await Request(lab, "A", function, job.kwargs, within=job.id).value()
            except BadInput as error:
                raise LookupError(str(error)) from error

        return ask

    functions = {
        "one.1": ("pure-calculation", asks("two.1")),
        "two.1": ("pure-calculation", asks("three.1")),
        "three.1": ("pure-calculation", asks("one.1")),
        "itself.1": ("pure-calculation", asks("itself.1")),
        "straight.1": ("pure-calculation", asks("double.1")),
        "double.1": ("pure-calculation", double),
    }
    async with laboratory("A", "B") as lab, backend(lab, "A", functions):
        for function in ("one.1", "itself.1"):
            for _ in range(2):
                answer = await Request(lab, "B", function, {"x": 4}).end()
                assert answer["state"] == "failed"
                assert "waits for itself" in answer["reason"]
        both = [Request(lab, "B", name, {"x": 4}) for name in ("straight.1", "double.1")]
        assert [await each.value() for each in both] == [8, 8]
