"""Turns on the event loop: a peer that floods a node waits, others hardly do, and all get done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kachery_p2p.node.parties import OWN_USER, Allowance, Party, on_behalf_of
from kachery_p2p.node.turns import Turns
from kachery_p2p.protocol.limits import (
    NEWCOMERS_LEAST,
    NEWCOMERS_TURN_SECONDS,
    SETTLED_WEIGHT,
    TURN_SECONDS,
)


class Clock:
    """Time passes when a step takes it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Node:
    """Parties that do steps of work; ``log`` has who did one."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.log: list[str] = []

    def start(self, party: Party, steps: int, seconds: float, **how: bool) -> asyncio.Task[int]:
        async def work() -> int:
            for _ in range(steps):
                self.clock.now += seconds
                self.log.append(party.name)
                await asyncio.sleep(0)
            return steps

        return asyncio.create_task(self.turns.metered(lambda: party, work, **how))


async def passes(what: Callable[[], bool]) -> None:
    """Turns of the loop, until something holds."""
    for _ in range(100_000):
        if what():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


FLOOD, MODEST = Party("flood"), Party("modest")


async def test_alone_nobody_waits() -> None:
    node = Node()
    assert await node.start(MODEST, 100, TURN_SECONDS / 1_000) == 100
    assert not node.turns.anybody_waits


async def test_a_modest_peer_goes_before_a_hundred_tasks_of_one_that_floods() -> None:
    node = Node()
    flood = [node.start(FLOOD, 50, TURN_SECONDS) for _ in range(100)]
    await passes(lambda: node.log.count("flood") >= 200)
    begun = len(node.log)
    await node.start(MODEST, 10, TURN_SECONDS / 10)
    between = node.log[begun:].count("flood")
    assert between < 60, "it waited for a turn each time, and not for all that others had to do"
    assert await asyncio.gather(*flood) == [50] * 100


async def test_peers_that_flood_share_alike_whatever_their_number_of_tasks() -> None:
    node = Node()
    tasks = [node.start(Party("many"), 400, TURN_SECONDS) for _ in range(20)]
    tasks += [node.start(Party("few"), 4_000, TURN_SECONDS) for _ in range(2)]
    await passes(lambda: len(node.log) >= 2_000)
    some = node.log[500:2_000]
    assert 0.4 < some.count("few") / len(some) < 0.6
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_stays_goes_before_newcomers_who_have_a_fifth_of_the_time() -> None:
    node = Node()
    settled = Party("settled", SETTLED_WEIGHT)
    tasks = [node.start(party, 9_000, TURN_SECONDS) for party in (settled, FLOOD) for _ in range(4)]
    await passes(lambda: len(node.log) >= 3_000)
    share = node.log[500:3_000].count("flood") / 2_500
    assert NEWCOMERS_LEAST * 0.9 < share < NEWCOMERS_LEAST * 1.1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_member_that_uses_much_does_not_wait_behind_a_hundred_attackers() -> None:
    """Of whom each has used next to nothing: it has a step in each turn of the loop, and they have
    little of it."""
    node, member = Node(), Party("member", SETTLED_WEIGHT)
    tasks = [
        node.start(Party(f"attacker {number}"), 9_000, TURN_SECONDS / 10)
        for number in range(100)
        for _ in range(3)
    ]
    await passes(lambda: len(node.log) > 2_000)
    node.turns.spend(member, 1.0)
    tasks.append(node.start(member, 9_000, TURN_SECONDS / 10))
    await passes(lambda: node.log.count("member") > 20)
    begun = len(node.log)
    await passes(lambda: node.log.count("member") > 220)
    between = len(node.log) - begun - 200
    assert between < 200 * NEWCOMERS_TURN_SECONDS / (TURN_SECONDS / 10) * 1.2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_who_wait_go_in_the_order_of_what_they_have_used_also_when_that_grows() -> None:
    turns = Turns(Clock())
    order: list[str] = []

    async def wait(name: str) -> None:
        await turns.wait(Party(name, SETTLED_WEIGHT))
        order.append(name)
        turns.spend(Party(name, SETTLED_WEIGHT), TURN_SECONDS)

    turns.spend(Party("a", SETTLED_WEIGHT), 0.5)
    turns.spend(Party("b", SETTLED_WEIGHT), 0.25)
    tasks = [asyncio.create_task(wait(name)) for name in "aabbcc"]
    await asyncio.sleep(0)
    turns.spend(Party("c", SETTLED_WEIGHT), 4.0)
    await asyncio.gather(*tasks)
    assert order[0] == "b"
    assert order.index("a") < order.index("c")
    assert not turns.anybody_waits


async def test_what_holds_a_lock_is_not_kept_waiting_in_the_middle() -> None:
    """Who has used least would wait for it."""
    node = Node()
    flood = [node.start(FLOOD, 1_000, TURN_SECONDS) for _ in range(3)]
    lock = asyncio.Lock()

    async def with_lock() -> None:
        async with lock:
            for _ in range(5):
                node.clock.now += TURN_SECONDS
                await asyncio.sleep(0)

    first = asyncio.create_task(node.turns.metered(lambda: FLOOD, with_lock, every_step=False))
    await passes(lock.locked)
    for _ in range(8):
        await asyncio.sleep(0)
    assert first.done()
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)


async def test_what_is_long_lets_others_go_on_in_between() -> None:
    node = Node()

    async def long() -> None:
        for _ in range(100):
            node.clock.now += TURN_SECONDS
            node.log.append("long")
            await node.turns.pause()

    task = asyncio.create_task(node.turns.metered(lambda: FLOOD, long, every_step=False))
    await asyncio.sleep(0)
    await node.start(MODEST, 5, TURN_SECONDS / 10)
    assert node.log.count("long") < 50
    await task


async def nothing(turns: Turns) -> None:
    await asyncio.sleep(0)


async def waiting_for_something(turns: Turns) -> None:
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("inner", [nothing, waiting_for_something])
async def test_cancelling_reaches_the_work_wherever_it_waits(
    inner: Callable[[Turns], Awaitable[None]],
) -> None:
    node = Node()
    flood = [node.start(FLOOD, 1_000, TURN_SECONDS) for _ in range(3)]
    heard = asyncio.Event()

    async def work() -> None:
        try:
            while True:
                node.clock.now += TURN_SECONDS
                await inner(node.turns)
        except asyncio.CancelledError:
            heard.set()
            raise

    task = asyncio.create_task(node.turns.metered(lambda: FLOOD, work))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert heard.is_set()
    for each in flood:
        each.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert not node.turns.anybody_waits


async def test_cancelled_before_its_first_step_it_leaves_nothing_behind() -> None:
    node = Node()
    task = node.start(MODEST, 1, 0.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert node.log == []


async def test_what_the_work_raises_and_catches_is_its_own() -> None:
    turns = Turns()

    async def work() -> str:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_exception, KeyError("inner"))
        try:
            await future
        except KeyError:
            return "caught"
        return "nothing came"

    assert await turns.metered(lambda: MODEST, work) == "caught"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("outer")

    with pytest.raises(ValueError, match="outer"):
        await turns.metered(lambda: MODEST, fail)


async def test_what_work_starts_is_on_the_same_account() -> None:
    turns = Turns()
    found: list[Party] = []

    async def child() -> None:
        found.append(on_behalf_of.get())

    async def work() -> None:
        found.append(on_behalf_of.get())
        await asyncio.create_task(child())

    await asyncio.create_task(turns.metered(lambda: MODEST, work))
    assert found == [MODEST, MODEST]
    assert on_behalf_of.get() is OWN_USER


async def test_an_account_may_change_in_the_middle() -> None:
    """A stranger turns out to be a member."""
    node, party = Node(), Party("strangers")
    seen: list[str] = []

    async def work() -> None:
        nonlocal party
        for _ in range(2):
            node.clock.now += 1.0
            seen.append(on_behalf_of.get().name)
            party = MODEST
            await asyncio.sleep(0)

    await asyncio.create_task(node.turns.metered(lambda: party, work))
    assert seen == ["strangers", "modest"]
    assert node.turns._usage.of("strangers", node.clock.now) > 0
    assert node.turns._usage.of("modest", node.clock.now) > 0


def test_newcomers_have_what_those_leave_over_who_stay() -> None:
    """Seconds that go by in which newcomers have always something to do."""

    def newcomers_get(settled_use: float) -> float:
        allowance, now, got = Allowance(), 0.0, 0.0
        while now < 20.0:
            step = 0.001
            now += step
            if allowance.left(now):
                allowance.spend(step, now, new=True)
                got += step if now > 10.0 else 0.0
            allowance.spend(settled_use * step, now, new=False)
        return got / 10.0

    assert newcomers_get(0.0) > 0.95
    assert 0.7 < newcomers_get(0.05) < 0.9
    assert NEWCOMERS_LEAST * 0.9 < newcomers_get(0.3) < NEWCOMERS_LEAST * 1.2


async def test_newcomers_that_have_had_their_part_wait_and_go_on_later() -> None:
    turns = Turns()
    settled = Party("settled", SETTLED_WEIGHT)
    turns.spend(settled, 1.0)
    turns.spend(FLOOD, 0.05)
    assert not turns.free(FLOOD)
    await asyncio.sleep(0)
    assert turns.free(settled)
    began = turns.clock()

    async def work() -> float:
        return turns.clock()

    assert await turns.metered(lambda: FLOOD, work) > began


def test_newcomers_do_not_wait_long_for_one_step_that_took_very_long() -> None:
    allowance = Allowance()
    allowance.spend(1.0, 1.0, new=False)  # those who stay need all there is
    allowance.spend(1.0, 2.0, new=True)
    allowance.spend(1.0, 2.0, new=False)
    assert not allowance.left(2.001)
    assert allowance.left(2.6)


def test_where_nobody_stays_newcomers_have_all_there_is() -> None:
    """After the start of a proxy there are newcomers only."""
    allowance, now = Allowance(), 0.0
    for _ in range(10_000):
        now += 0.001
        assert allowance.left(now)
        allowance.spend(0.001, now, new=True)
