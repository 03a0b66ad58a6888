"""Nodes that lie about tasks: what they send counts for nothing, and says whose it was."""

from __future__ import annotations

from typing import Any

import pytest

from kachery_p2p.node.tasks.server import TaskServer
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import AccessDenied, ForgedResult, KacheryError, ProtocolViolation
from kachery_p2p.protocol.identity import NodeKey
from kachery_p2p.protocol.tasks.messages import TASK_RUN, TaskKwargs, TaskRun
from kachery_p2p.protocol.tasks.result import TaskResult, sign_result
from kachery_p2p.protocol.tasks.task import Payload, canonical_kwargs, task_key
from tests.node.harness import Lab, laboratory, until
from tests.node.tasks.lab import Job, Request, backend

KWARGS = canonical_kwargs({"x": 1})


async def add(job: Job) -> Any:
    return job.kwargs["x"] + 1


ADD = {"add.1": ("pure-calculation", add)}


def signed(signer: NodeKey, value: bytes = b"666", function: str = "add.1") -> TaskResult:
    return sign_result(
        signer,
        key=task_key(function, KWARGS),
        function=function,
        type="pure-calculation",
        timestamp=1,
        payload=Payload("json", value),
    )


async def plant(lab: Lab, node: str, result: TaskResult) -> None:
    """Have a node offer a result, whatever its own checks would say."""
    await lab[node].task_results.keep(result, lab.channels["lab"])
    await lab.announced(node)


async def test_a_result_signed_without_the_role_is_thrown_away() -> None:
    async with laboratory("A", "B", "C", channel=False) as lab:
        roles = {"A": "all", "B": "files,request-tasks", "C": "all"}
        await lab.channel("lab", roles, owner="A")
        await plant(lab, "B", signed(lab["B"].context.key))
        async with backend(lab, "A", ADD):
            assert await Request(lab, "C", "add.1", {"x": 1}).value() == 2
        warnings = [text for _, text in lab["C"].context.warnings]
        assert any("may not provide tasks" in text for text in warnings)


async def test_a_result_with_another_signature_is_thrown_away() -> None:
    async with laboratory("A", "B", "C") as lab:
        forged = signed(lab["A"].context.key)
        forged = TaskResult(
            *(getattr(forged, name) for name in forged.__struct_fields__[:-1]), bytes(64)
        )
        await plant(lab, "B", forged)
        async with backend(lab, "A", ADD):
            assert await Request(lab, "C", "add.1", {"x": 1}).value() == 2
        assert any("did not sign" in text for _, text in lab["C"].context.warnings)


async def test_a_backend_that_signs_with_a_strange_key_is_named() -> None:
    async with laboratory() as lab:
        stranger = NodeKey(bytes(range(32)))
        lab["A"].task_results.sign = (  # type: ignore[method-assign]
            lambda job, payload: signed(stranger, payload.data or b"")
        )
        async with backend(lab, "A", ADD):
            with pytest.raises(ForgedResult, match="not signed by who ran it"):
                await Request(lab, "B", "add.1", {"x": 1}).end()
        # Nothing of it is kept.
        cached = await lab.call("B", "task.cached", function="add.1", kwargs=KWARGS, look=False)
        assert cached["payload"] is None


async def test_a_result_of_who_lost_the_role_counts_no_longer() -> None:
    async with laboratory("A", "B", "C") as lab:
        async with backend(lab, "B", ADD):
            assert await Request(lab, "C", "add.1", {"x": 1}).value() == 2
        await lab.call("A", "channel.set-roles", channel="lab", node="B", roles="files")
        key, channel = task_key("add.1", KWARGS), lab.channels["lab"]
        results = lab["C"].task_results
        held = await results.held(key, channel)
        assert held is not None

        def lost() -> bool:
            try:
                results.check(held, key, channel, "the cache")
            except ForgedResult:
                return True
            return False

        await until(lost, "the new document")
        assert await results.here(key, "pure-calculation", None) is None


async def run_raw(lab: Lab, requester: str, provider: str, kwargs: bytes, /, **changes: Any) -> Any:
    """Ask for a task with a stream of one's own; what the provider answers."""
    link = await lab[requester].reach.to(lab.id(provider), lab.channels["lab"])
    ask = TaskRun(lab.channels["lab"], bytes(16), "add.1", "pure-calculation", False)
    params = {**codec.plain(ask), **changes}
    stream = link.open(TASK_RUN, params)
    try:
        await stream.send(codec.plain(TaskKwargs(max(2, len(kwargs)))), kwargs)
        return await stream.receive()
    finally:
        stream.end()


@pytest.mark.parametrize(
    "kwargs",
    [
        b'{"x":1.0}',
        b'{ "x":1}',
        b"[1]",
        b"\xff",
        b'{"x":NaN}',
        b'{"x":{"$npy":"file:///etc/passwd"}}',
    ],
)
async def test_arguments_that_are_not_canonical_are_refused(kwargs: bytes) -> None:
    async with laboratory() as lab, backend(lab, "A", ADD) as made:
        with pytest.raises(ProtocolViolation):
            await run_raw(lab, "B", "A", kwargs)
        assert made.taken == []
        assert await Request(lab, "B", "add.1", {"x": 1}).value() == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"task": b"short"},
        {"function": "x" * 201},
        {"function": "a\nb"},
        {"type": "anything"},
        {"more": 1},
    ],
)
async def test_a_request_out_of_bounds_is_refused(changes: dict[str, Any]) -> None:
    async with laboratory() as lab, backend(lab, "A", ADD) as made:
        with pytest.raises(KacheryError):
            await run_raw(lab, "B", "A", KWARGS, **changes)
        assert made.taken == []


async def test_a_member_without_the_role_is_refused_by_the_backend_itself() -> None:
    async with laboratory(channel=False) as lab:
        await lab.channel("lab", {"A": "all", "B": "files"}, owner="A")
        async with backend(lab, "A", ADD) as made:
            with pytest.raises(AccessDenied, match="request-tasks"):
                await run_raw(lab, "B", "A", KWARGS)
            assert made.taken == []


async def test_nobody_hears_of_anothers_action() -> None:
    async with laboratory("A", "B", "C") as lab, backend(lab, "A", {"add.1": ("action", add)}):
        mine = Request(lab, "B", "add.1", {"x": 1}, type="action")
        assert await mine.value() == 2
        meta, _, _ = await run_raw(lab, "C", "A", KWARGS, task=mine.task, type="action", again=True)
        assert meta[0] == "absent"


@pytest.mark.parametrize("kwargs", [b'{"x":1.0}', b"[1]", b"\xff", b"", bytes(20_000)])
async def test_arguments_that_go_with_the_request_are_looked_at_too(kwargs: bytes) -> None:
    async with laboratory() as lab, backend(lab, "A", ADD) as made:
        with pytest.raises(ProtocolViolation):
            await run_raw(lab, "B", "A", KWARGS, kwargs=kwargs)
        assert made.taken == []


@pytest.mark.parametrize("type", ["query", "action"])
async def test_a_result_of_another_node_is_no_answer_to_what_must_run(
    type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with laboratory("A", "B", "C") as lab, backend(lab, "A", {"add.1": (type, add)}):
        planted = signed(lab["C"].context.key)

        async def find(self: TaskServer, params: TaskRun, kwargs: bytes) -> TaskResult:
            return planted

        monkeypatch.setattr(TaskServer, "_find", find)
        request = Request(lab, "B", "add.1", {"x": 1}, type=type)
        with pytest.raises(ForgedResult, match="not signed by who ran it"):
            await request.end()


async def test_what_a_backend_says_to_have_found_must_count_on_the_channel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with laboratory() as lab, backend(lab, "A", ADD) as made:
        assert await Request(lab, "B", "add.1", {"x": 5}).value() == 6
        stranger = signed(NodeKey(bytes(range(32))))

        async def find(self: TaskServer, params: TaskRun, kwargs: bytes) -> TaskResult:
            return stranger

        monkeypatch.setattr(TaskServer, "_find", find)
        with pytest.raises(ForgedResult, match="may not provide tasks"):
            await Request(lab, "B", "add.1", {"x": 1}).end()
        assert len(made.taken) == 1
