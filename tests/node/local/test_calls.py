"""How long calls of the local API last."""

from __future__ import annotations

import asyncio

import pytest

from kachery_p2p.node.local.calls import Calls
from kachery_p2p.protocol.errors import DeadlineExceeded
from kachery_p2p.protocol.limits import MAX_CALL_SECONDS
from tests.sim.loop import SimLoop


@pytest.mark.parametrize("method", ["task.request", "task.offer"])
def test_a_task_and_a_backend_last_longer_than_any_other_call(method: str) -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        calls = Calls.__new__(Calls)
        long = 30 * MAX_CALL_SECONDS
        assert runner.run(calls.wait(method, asyncio.sleep(long, "done"))) == "done"
        with pytest.raises(DeadlineExceeded, match="86"):
            runner.run(calls.wait("file.load", asyncio.sleep(long, "done")))
