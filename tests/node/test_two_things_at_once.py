"""A hostile member that does several things at the same time, in any combination and order.

Whatever it does: others are served meanwhile, rightly; when it has gone nothing is left on any account;
no action runs twice; and no node has a bug in its log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections import Counter
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kachery_p2p.node.incoming import incoming
from tests.node.abilities import ABILITIES, ERRORS, Hostile
from tests.node.abuses import ABUSES
from tests.node.feeds.lab import Subfeed
from tests.node.harness import Lab, laboratory, until
from tests.node.keepers.lab import offer
from tests.node.tasks.lab import Job, Request, backend
from tests.patience import patience

SIZE = 3 << 20
ALL_ABILITIES = (*ABILITIES, *ABUSES)

Step = tuple[int, str, int]
STEPS = st.lists(
    st.tuples(st.integers(0, len(ALL_ABILITIES) - 1), st.sampled_from("AP"), st.integers(0, 20)),
    min_size=2,
    max_size=8,
)
"""Which ability, at which node, and how many milliseconds pass before the next one."""
ALL: list[Step] = [(number, "AP"[number % 2], 2) for number in range(len(ALL_ABILITIES))]
ABUSED: list[Step] = [each for each in ALL if ALL_ABILITIES[each[0]] in ABUSES]


class Bugs(logging.Handler):
    """What has a traceback in the log."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


@contextlib.contextmanager
def no_bugs() -> Any:
    bugs = Bugs()
    root = logging.getLogger()
    root.addHandler(bugs)
    try:
        yield
    finally:
        root.removeHandler(bugs)
    assert not bugs.found, bugs.found[0]


class Runs(Counter[Any]):
    """How often the functions of the backend ran, by their jobs."""

    async def act(self, job: Job) -> Any:
        self[job.id] += 1
        return 1

    async def echo(self, job: Job) -> Any:
        return job.kwargs["n"]


@settings(max_examples=8, deadline=None)
@given(STEPS, st.integers(0, 1 << 32))
@example(ALL, 1)
@example(ALL[::-1], 2)
@example([(number, "PA"[at == "P"], 0) for number, at, _ in ABUSED * 2], 3)
def test_whatever_a_member_does_at_once_others_are_served_and_nothing_is_left(
    steps: list[Step], seed: int
) -> None:
    with no_bugs():
        asyncio.run(story(steps, random.Random(seed)))


async def story(steps: list[Step], rng: random.Random) -> None:
    runs = Runs()
    functions = {"act.1": ("action", runs.act), "echo.1": ("query", runs.echo)}
    async with laboratory("A", "B", "C", listening=("A",)) as lab, backend(lab, "A", functions):
        sha1, _ = await lab.store("A", rng.randbytes(SIZE))
        feed = await Subfeed.create(lab)
        await offer(lab, "A")
        hostile = Hostile(lab, sha1, SIZE, rng)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(honest(lab, feed, 0))
            for number, at, pause in steps:
                tasks.create_task(attempt(hostile, number, at))
                await asyncio.sleep(pause / 1000)
        await honest(lab, feed, 1)
        if rng.random() < 0.5:
            await remove_and_look(lab)
        await hostile.leave()
        await lab.stop("C")
        await until(lambda: not left(lab), "nothing is left")
        assert all(count == 1 for count in runs.values())
        await honest(lab, feed, 2)


async def attempt(hostile: Hostile, number: int, at: str) -> None:
    ability = ALL_ABILITIES[number]
    with contextlib.suppress(*ERRORS):
        async with asyncio.timeout(patience(5)):
            await ability(hostile, at)
        hostile.done[ability.__name__] += 1


async def honest(lab: Lab, feed: Subfeed, number: int) -> None:
    """What members do all the time: each is done, and rightly, within its time."""
    data = os.urandom(300_000)
    async with asyncio.timeout(patience(30)):
        sha1, _ = await lab.store("A", data)
        loaded = await lab.load("B", sha1)
        assert loaded["size"] == len(data)
        assert lab.bytes_of("B", sha1) == data
        await feed.append("A", {"n": number})
        assert (await feed.next("B", number))[0] == {"n": number}
        request = Request(lab, "B", "echo.1", {"n": number}, type="query", backend_timeout=20.0)
        assert await request.value() == number


async def remove_and_look(lab: Lab) -> None:
    """A removal happens, whatever else does."""
    hostile, channel = lab.id("C"), lab.channels["lab"]
    if lab["A"].network.is_member(channel, hostile):  # a full disk: it could not come back
        await lab.call("A", "channel.remove-node", channel="lab", node=hostile)
    for name in "AP":
        network = lab[name].network
        await until(lambda n=network: not n.is_member(channel, hostile), f"removed at {name}")
        await until(
            lambda n=network: not [x for x in n.links if x.peer == hostile and not x.closed_by],
            f"no link of it at {name}",
        )


def left(lab: Lab) -> list[str]:
    """What is still on accounts of who has gone, in words."""
    found = []
    here = {lab.id(name) for name in lab.nodes}
    for name in "AP":
        node = lab[name]
        for what in ("bytes", "exchanges", "files"):
            shares = getattr(node.network.budgets, what).shares
            found += [
                f"{shares.held(party)} {what} of {party[:8]} at {name}"
                for party in set(shares._held) - here
            ]
        found += [
            f"a circuit at {name}"
            for _, *ends in node.relay._circuits.values()
            if not set(ends) <= here
        ]
    shares = incoming().shares
    found += [f"{shares.held(x)} bytes that come of {x[:8]}" for x in set(shares._held) - here]
    if incoming()._waiting:
        found.append("somebody who waits to send")
    return found
