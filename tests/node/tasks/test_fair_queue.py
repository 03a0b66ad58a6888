"""Whose task has a slot next: not who asked for most, nor a crowd that has just come."""

from __future__ import annotations

import os

import pytest

from kachery_p2p.node.parties import Party, on_behalf_of
from kachery_p2p.node.tasks.jobs import Backend
from kachery_p2p.protocol.limits import SETTLED_WEIGHT
from tests.node.harness import laboratory

MEMBER = Party("member", SETTLED_WEIGHT)


@pytest.mark.parametrize(
    ("others", "party", "place"),
    [
        ([Party(f"attacker {number}") for number in range(10)] * 5, MEMBER, 0),
        ([Party("greedy", SETTLED_WEIGHT)] * 50, MEMBER, 1),
        ([Party("greedy")] * 50, Party("newcomer"), 1),
    ],
    ids=["who stays, before a crowd", "of two who stay", "of two newcomers"],
)
async def test_a_task_does_not_wait_for_all_that_others_asked_for_before(
    others: list[Party], party: Party, place: int
) -> None:
    async with laboratory("A") as lab:
        queue, channel = lab["A"].task_queue, lab.channels["lab"]
        backend = Backend(b"b" * 16, {"f": "query"}, frozenset([channel]), 1, "")
        queue.offer(backend)
        for each in [*others, party]:
            on_behalf_of.set(each)
            await queue.submit(
                os.urandom(16), "f", "query", b"{}",
                channel=channel, requester=each.name, again=False,
            )  # fmt: skip
        jobs, _ = await queue.take(backend.id, len(others) + 1, 0)
        assert len(jobs) == len(others) + 1
        assert [job.requester for job in jobs].index(party.name) <= place
