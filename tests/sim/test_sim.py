"""Whole networks of nodes on a virtual clock, by seed: scripts/sim runs more of them."""

from __future__ import annotations

import asyncio
import contextvars
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.loop import WHOSE, Deadlock, Incarnation, SimLoop
from tests.sim.scenario import run
from tests.sim.siege import besiege

CHUNK = 5
SEEDS = 25
"""Of small networks; ``./scripts/sim --seeds 1000`` tells more stories."""
SIEGES = 10
"""``./scripts/sim --siege --seeds 200`` tells more."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_invariant_holds_in_small_networks(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run(seed, steps=20)
        except BaseException as error:
            error.add_note(f"replay: scripts/sim --start {seed} --seeds 1 --steps 20 --verbose")
            raise


@pytest.mark.parametrize("first", range(0, SIEGES, CHUNK))
def test_who_was_removed_gets_nothing_whoever_does_not_read_floods_or_has_a_full_disk(
    first: int,
) -> None:
    looked_at = 0
    for seed in range(first, first + CHUNK):
        try:
            looked_at += besiege(seed, steps=30).removals
        except BaseException as error:
            error.add_note(
                f"replay: scripts/sim --siege --start {seed} --seeds 1 --steps 30 --verbose"
            )
            raise
    assert looked_at


def test_every_invariant_holds_in_a_large_network() -> None:
    outcome = run(1, nodes=25, steps=20)
    assert outcome.nodes == 25


def test_a_seed_replays_exactly() -> None:
    for seed in (3, 11):
        assert run(seed) == run(seed)


def test_different_seeds_tell_different_stories() -> None:
    assert run(1).trace != run(2).trace


def test_a_seed_replays_exactly_in_another_process() -> None:
    """Neither the hash seed nor addresses in memory have a say."""
    code = "from tests.sim.scenario import run; print(run(5).trace)"
    root = Path(__file__).parents[2]
    traces = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(traces) == 1


def test_time_passes_only_when_nothing_is_left_to_do() -> None:
    loop = SimLoop()
    seen = []

    async def story() -> None:
        loop.call_later(3600.0, lambda: seen.append(loop.time()))
        await asyncio.sleep(7200.0)

    loop.run_until_complete(story())
    assert seen == [3600.0]
    assert loop.time() == 7200.0
    loop.close()


def test_waiting_for_what_never_comes_is_found() -> None:
    loop = SimLoop()

    async def story() -> None:
        await asyncio.Event().wait()

    task = loop.create_task(story())
    with pytest.raises(Deadlock):
        loop.run_until_complete(task)
    task.cancel()
    loop.call_later(1.0, loop.stop)
    loop.run_forever()
    loop.close()


def test_a_killed_process_does_nothing_more_not_even_clean_up() -> None:
    loop = SimLoop()
    life = Incarnation("one")
    done: list[str] = []

    async def work() -> None:
        try:
            for step in range(10):
                done.append(f"step {step}")
                await asyncio.sleep(1.0)
        finally:
            done.append("cleaned up")

    async def story() -> None:
        life_context = contextvars.copy_context()
        life_context.run(WHOSE.set, life)
        task = loop.create_task(work(), context=life_context)
        await asyncio.sleep(1.5)
        loop.freeze(life)
        await asyncio.sleep(100.0)
        assert done == ["step 0", "step 1"]
        loop.thaw(life)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done[-1] == "cleaned up"

    loop.run_until_complete(story())
    loop.close()
