"""Functions that views have run, in a real Chromium: what a link names, and nothing else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from tests.node.harness import Lab, laboratory, until
from tests.node.tasks.lab import DONE, Job, backend

from .browser import Browser, Tab, chromium, require_browser
from .viewing import view_link

PLAIN = {"index.html": "<!doctype html><title>v</title><p>here</p>"}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    require_browser()
    async with laboratory() as made:
        yield made


async def opened(browser: Browser, link: str) -> tuple[Tab, Tab]:
    tab = await browser.tab()
    await tab.open(link)
    await tab.status("Verified.")
    return tab, await tab.frame()


async def outcome(frame: Tab, expression: str) -> Any:
    return await frame.run(f"({expression}).catch(error => error.code ?? error.name)")


async def test_a_view_has_the_functions_run_that_its_link_names(lab: Lab) -> None:
    async def double(job: Job) -> Any:
        await job.report("running", fraction=0.5, message="half", log=b"printed\n")
        return [2 * job.kwargs["n"]]

    async def array(job: Job) -> Any:
        data = io.BytesIO()
        np.save(data, np.arange(4, dtype="int16").reshape(2, 2))
        await job.report("finished", payload=["npy", data.getvalue(), None])
        return DONE

    async def large(job: Job) -> Any:
        stored = await lab.call("B", "store", data=bytes(50_000), channel=None)
        uri = f"sha1://{stored['sha1']}/result.dat"
        await job.report("finished", payload=["bytes", None, uri])
        return DONE

    functions = {
        "double.1": ("pure-calculation", double),
        "array.1": ("query", array),
        "large.1": ("query", large),
        "other.1": ("query", double),
    }
    async with backend(lab, "B", functions), chromium() as browser:
        link = await view_link(lab, PLAIN, tasks=("double.1", "array.1", "large.1"))
        _, frame = await opened(browser, link)
        told = "window.told = []; "
        run = "kachery.task('double.1', {n: 21}, {progress: p => told.push([p.fraction, p.log])})"
        await frame.run(told)
        assert await frame.run(run) == [42]
        assert [0.5, "printed\n"] in await frame.run("told")
        got = "kachery.task('array.1', {}, {type: 'query'}).then(a => [a.dtype, a.shape, [...a.data]])"
        assert await frame.run(got) == ["<i2", [2, 2], [0, 1, 2, 3]]
        got = "kachery.task('large.1', {}, {type: 'query'}).then(b => b.length)"
        assert await frame.run(got) == 50_000
        query = "{type: 'query'}"
        assert (
            await outcome(frame, f"kachery.task('other.1', {{n: 1}}, {query})") == "access-denied"
        )
        assert await outcome(frame, f"kachery.task('double.1', {{n: 1}}, {query})") == "bad-input"
        assert await outcome(frame, "kachery.task('double.1', {n: NaN})") is not None
        failed = "kachery.task('double.1', {})"
        assert await outcome(frame, failed) == "task-failed"


async def test_an_action_waits_for_the_persons_word(lab: Lab) -> None:
    runs: list[dict[str, Any]] = []

    async def act(job: Job) -> Any:
        runs.append(job.kwargs)
        return len(runs)

    async with backend(lab, "B", {"act.1": ("action", act)}), chromium() as browser:
        link = await view_link(lab, PLAIN, tasks=("act.1",))
        tab, frame = await opened(browser, link)
        call = "kachery.task('act.1', {n: 1}, {type: 'action'})"
        # As anything else it would not be an action, and is not run.
        assert await outcome(frame, "kachery.task('act.1', {n: 1}, {type: 'query'})") == "bad-input"
        waiting = asyncio.ensure_future(outcome(frame, call))
        await tab.until("document.querySelector('.question')?.innerText.includes('act.1')")
        assert runs == []
        await tab.until("!document.querySelector('.question button').disabled")
        await tab.click("Allow")
        assert await waiting == 1
        assert await outcome(frame, call) == 2  # asked once
        tab, frame = await opened(browser, link)
        waiting = asyncio.ensure_future(outcome(frame, call))
        await tab.until("!(document.querySelector('.question button')?.disabled ?? true)")
        await tab.click("Refuse")
        assert await waiting == "task-cancelled"
        assert len(runs) == 2


async def test_a_view_cancels_what_it_asked_for(lab: Lab) -> None:
    async def wait(job: Job) -> Any:
        await job.report("running")
        await job.cancelled.wait()
        await job.report("cancelled", reason="as asked")
        return DONE

    async with backend(lab, "B", {"wait.1": ("query", wait)}), chromium() as browser:
        _, frame = await opened(browser, await view_link(lab, PLAIN, tasks=("wait.1",)))
        call = """(() => { const stop = new AbortController();
            return kachery.task('wait.1', {}, {type: 'query', signal: stop.signal,
                progress: p => p.state === 'running' && stop.abort()}) })()"""
        assert await outcome(frame, call) == "task-cancelled"


async def test_a_node_that_the_link_does_not_name_is_not_asked_whatever_the_proxy_says(
    lab: Lab,
) -> None:
    asked: list[Job] = []

    async def double(job: Job) -> Any:
        asked.append(job)
        return 2

    roles = "provide-files,request-files,request-tasks"
    await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles=roles)
    link = await view_link(lab, PLAIN, tasks=("double.1",))
    # B computes only since then: a visitor cannot tell it from a node that a proxy made up.
    await lab.call("A", "channel.set-roles", channel="lab", node=lab.id("B"), roles="all")
    await until(lambda: "provide-tasks" in lab["B"].network.own_roles(lab.channels["lab"]))
    async with backend(lab, "B", {"double.1": ("query", double)}), chromium() as browser:
        _, frame = await opened(browser, link)
        call = "kachery.task('double.1', {n: 1}, {type: 'query'})"
        assert await outcome(frame, call) in ("not-found", "no-backend")
        assert asked == []
