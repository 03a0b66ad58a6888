"""What goes out and comes in keeps to the limits that the user set: counted in bytes, by the loop's
clock, which only ever allows more than was seen."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kachery_p2p.node.rates import Throttle
from kachery_p2p.protocol.limits import LEAST_RATE, MAX_BODY, RATE_BURST_SECONDS
from tests.node.files.contents import content
from tests.node.harness import Lab, laboratory, until

RATE = 4_000_000
SIZE = 3_000_000


def may_have_passed(rate: int, since: float) -> float:
    seconds = asyncio.get_running_loop().time() - since
    return rate * (seconds + RATE_BURST_SECONDS) + MAX_BODY


async def load(lab: Lab, name: str, sha1: str, manifest: str | None) -> None:
    result = await lab.load(name, sha1, manifest)
    assert result["fetched"] == result["size"], "nothing was fetched twice"


@pytest.mark.parametrize(("limited", "which"), [("A", "upload"), ("B", "download")])
async def test_files_keep_to_the_limit_whatever_their_size(limited: str, which: str) -> None:
    async with laboratory("A", "B") as lab:
        large = await lab.store("A", content(SIZE))
        small = [await lab.store("A", content(20_000, seed=n), tell=None) for n in range(9)]
        await lab.announced("A")
        since = asyncio.get_running_loop().time()
        told = await lab.call(limited, "set_rates", **{which: RATE})
        assert told == {"upload": None, "download": None} | {which: RATE}
        throttle: Throttle = getattr(lab[limited].context.rates, which)
        await asyncio.gather(*(load(lab, "B", *each) for each in [large, *small]))
        assert SIZE + 9 * 20_000 <= throttle.passed <= may_have_passed(RATE, since)
        assert lab.bytes_of("B", large[0]) == content(SIZE)


async def test_a_limit_can_be_changed_while_somebody_waits_and_stays_after_a_restart() -> None:
    async with laboratory("A", "B") as lab:
        sha1, manifest = await lab.store("A", content(SIZE))
        await lab.call("A", "set_rates", upload=LEAST_RATE, download=5 * LEAST_RATE)
        loading = asyncio.create_task(load(lab, "B", sha1, manifest))
        rate = lab["A"].context.rates.upload
        await until(lambda: rate.passed and rate.is_behind, "it waits")
        await lab.restart("A")
        rates = lab["A"].context.rates
        assert rates.plain() == {"upload": LEAST_RATE, "download": 5 * LEAST_RATE}
        assert (await lab.call("A", "info"))["rates"] == rates.plain()
        await lab.call("A", "set_rates", upload=0)
        await loading
        assert (await lab.call("A", "status"))["rates"]["upload"] is None
        with pytest.raises(ValueError, match="at least"):
            await lab.call("A", "set_rates", upload=LEAST_RATE - 1)


async def test_sources_are_not_blamed_for_our_own_limit() -> None:
    async with laboratory("A", "C", "B", listening=("A", "C")) as lab:
        sha1, manifest = await lab.store("A", content(SIZE))
        await load(lab, "C", sha1, manifest)
        await lab.announced("C")
        since = asyncio.get_running_loop().time()
        await lab.call("B", "set_rates", download=RATE)
        await load(lab, "B", sha1, manifest)
        rate = lab["B"].context.rates.download
        assert SIZE <= rate.passed <= may_have_passed(RATE, since)
        given = sum(lab[name].provider.served_bytes for name in "AC") - SIZE
        assert given <= SIZE + 2 * MAX_BODY, "next to nothing was asked of two"
        assert not (await lab.call("B", "info"))["warnings"]


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_nodes_wait_in_turn_and_who_gives_up_takes_nothing() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    throttle.set_rate(1_000_000)
    clock.now = RATE_BURST_SECONDS
    await throttle.acquire("a", 1_250_000)
    passed: list[str] = []

    async def wait(node: str) -> None:
        await throttle.acquire(node, 1_000_000)
        passed.append(node)

    tasks = [asyncio.create_task(wait(node)) for node in "aaab"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.sleep(0)
    for second in range(1, 5):
        clock.now = RATE_BURST_SECONDS + 1.01 * second
        throttle.give("nobody", 0)
        await asyncio.sleep(0)
        assert throttle.passed <= 1_000_000 * clock.now + 1_250_000
    assert passed == ["a", "b", "a"]
    assert throttle.passed == 4_250_000
    throttle.take(10**9)
    late = asyncio.create_task(wait("c"))
    await asyncio.sleep(0)
    throttle.set_rate(None)
    late.cancel()  # it had passed: that is taken back
    results: list[Any] = await asyncio.gather(*tasks, late, return_exceptions=True)
    assert sum(isinstance(each, asyncio.CancelledError) for each in results) == 2
    assert throttle.passed == 4_250_000 + 10**9
