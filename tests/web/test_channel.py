"""The page of a channel in a real Chromium: a browser joins as a member, and what it can do then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kachery_p2p.protocol.feeds.feed import subfeed_hash
from tests.node.harness import Lab, laboratory, until
from tests.node.tasks.lab import Job, backend

from .browser import Browser, Tab, chromium, require_browser


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    require_browser()
    async with laboratory() as made:
        yield made


async def invited(lab: Lab, **options: Any) -> str:
    """A link with which a browser joins."""
    made = await lab.call("A", "channel.invite", channel="lab", **options)
    assert made["link"].endswith(f"/#{made['line']}")
    return str(made["link"])


async def joined(browser: Browser, link: str, name: str = "Anna's browser") -> Tab:
    tab = await browser.tab()
    await tab.open(link)
    await tab.status("You have been invited.")
    await tab.run(f"void (document.getElementById('label').value = {json.dumps(name)})")
    await tab.click("Join")
    await tab.status("Connected.")
    assert tab.troubles == []
    return tab


async def fill(tab: Tab, function: str, **values: str) -> None:
    """Open the form of a function, write into its fields, and run it."""
    script = f"""(values => {{
        const all = [...document.querySelectorAll('.functions > details')];
        const wanted = {json.dumps(function)};
        const found = all.find(x => x.querySelector('summary .leaf').innerText === wanted);
        if (!found) return false;
        found.open = true;
        for (const label of found.querySelectorAll('label')) {{
            if (!Object.hasOwn(values, label.innerText)) continue;
            const field = label.parentElement.querySelector('input, textarea, select');
            field.value = values[label.innerText];
        }}
        found.querySelector('form').requestSubmit();
        return true;
    }})(JSON.parse({json.dumps(json.dumps(values))}))"""
    await tab.until(script)


async def run_state(tab: Tab, wanted: str) -> str:
    """Wait until the newest run says this."""
    script = "(document.querySelector('.run .state')?.innerText ?? '')"
    return str(await tab.until(f"{script}.includes({json.dumps(wanted)}) && {script}"))


SIGNATURE = [
    "Counts a word.",
    [
        ["text", "text", True],
        ["word", "text", False, '"captain"'],
        ["most", "integer", False, "1000"],
        ["share", "number", False, "0.5"],
        ["how", "json", False, '"exact"', ['"exact"', '"any case"']],
        ["strict", "boolean", False, "false"],
    ],
    False,
]


async def test_a_browser_joins_sees_who_is_there_and_has_a_function_run(lab: Lab) -> None:
    async def count(job: Job) -> Any:
        await job.report("running", fraction=0.5, message="half of it", log=b"line one\n")
        return job.kwargs

    functions = {"count.1": ("pure-calculation", count)}
    serving = backend(lab, "B", functions, signatures={"count.1": SIGNATURE})
    async with serving, chromium() as browser:
        tab = await joined(browser, await invited(lab))
        assert "kachery-invite" not in await tab.run("location.href")
        members = await tab.text("ul.members")
        assert "Anna's browser" in members
        assert f"{lab.id('B')[:8]}, online" in members
        large = "12345678901234567890"
        await tab.until("document.body.textContent.includes('Counts a word.')")
        await fill(
            tab, "count.1", text='naïve "x"', most=large, share="1e-5", how='"any case"',
            strict="true",
        )  # fmt: skip
        await run_state(tab, "Finished")
        shown = await tab.text(".run .result")
        assert f"most: {large}" in shown  # not the nearest double
        assert "share: 1e-05" in shown
        assert 'how: "any case"' in shown
        assert "word" not in shown  # left out: the function's own default counts
        assert "line one" in await tab.run("document.querySelector('.run .log').textContent")
        document = lab["A"].network.book.signed(lab.channels["lab"]).document
        assert "Anna's browser" in {each.label for each in document.members}


async def test_the_key_cannot_be_taken_out_and_reloading_keeps_the_membership(lab: Lab) -> None:
    async with chromium() as browser:
        tab = await joined(browser, await invited(lab))
        keys = """(async () => {
            const settled = request => new Promise((done, fail) => {
                request.onsuccess = () => done(request.result); request.onerror = fail });
            const database = await settled(indexedDB.open('kachery'));
            const kept = await settled(database.transaction('keys').objectStore('keys').get('node'));
            const said = [];
            for (const key of [kept.signing, kept.opening]) {
                said.push(key.extractable);
                for (const format of ['pkcs8', 'jwk', 'raw'])
                    said.push(await crypto.subtle.exportKey(format, key).then(() => true, () => false));
            }
            return said;
        })()"""
        assert await tab.run(keys) == [False] * 8
        before = await tab.text("#facts")
        await tab.send("Page.reload")
        await tab.status("Connected.")
        assert await tab.text("#facts") == before
        # It is listed where one begins.
        start = await browser.tab()
        await start.open((await tab.run("location.href")).split("#")[0])
        await start.status("Choose a channel.")
        await start.run("document.querySelector('main a').click()")
        await start.status("Connected.")


async def test_a_task_is_cancelled_and_one_that_fails_says_why(lab: Lab) -> None:
    ended: list[str] = []

    async def wait(job: Job) -> Any:
        await job.report("running", message="waiting")
        await job.cancelled.wait()
        ended.append("cancelled")
        await job.report("cancelled", reason="as asked")
        raise asyncio.CancelledError

    async def fail(job: Job) -> Any:
        raise ValueError("<b>no</b> such word")

    functions = {"wait.1": ("query", wait), "fail.1": ("query", fail)}
    async with backend(lab, "B", functions), chromium() as browser:
        tab = await joined(browser, await invited(lab))
        await fill(tab, "wait.1")
        await run_state(tab, "waiting")
        await tab.click("Cancel")
        await run_state(tab, "was cancelled")
        assert ended == ["cancelled"]
        await fill(tab, "fail.1", Arguments='{"a": [1]}')
        await run_state(tab, "<b>no</b> such word")
        assert "Traceback of the test" in await tab.run(
            "document.querySelector('.run .log').textContent"
        )


async def test_an_action_runs_once_although_the_page_is_loaded_again(lab: Lab) -> None:
    runs: list[bytes] = []
    go_on = asyncio.Event()

    async def act(job: Job) -> Any:
        runs.append(job.id)
        await job.report("running", message="acting")
        await go_on.wait()
        return {"done": True}

    async with backend(lab, "B", {"act.1": ("action", act)}), chromium() as browser:
        tab = await joined(browser, await invited(lab))
        await fill(tab, "act.1")
        await run_state(tab, "acting")
        await tab.send("Page.reload")
        await run_state(tab, "Running")
        go_on.set()
        await run_state(tab, "Finished")
        assert "done: true" in await tab.text(".run .result")
        assert len(runs) == 1
        await tab.send("Page.reload")
        await tab.status("Connected.")
        assert await tab.run("document.querySelectorAll('.run').length") == 0


async def test_files_and_subfeeds_are_opened_by_their_uris(lab: Lab) -> None:
    feed = (await lab.call("A", "feed.create", name="f"))["feed"]

    async def append(value: Any) -> None:
        await lab.call(
            "A", "feed.append", feed=feed, subfeed=subfeed_hash("temp"), name="temp",
            data=json.dumps(value).encode(), count=1,
        )  # fmt: skip

    await append({"celsius": 1})
    sha1, _ = await lab.store("A", b"x,y\n1,2\n")
    async with chromium() as browser:
        tab = await joined(browser, await invited(lab))
        for uri in (f"sha1://{sha1}/a.csv", f"feed://{feed.hex()}/temp", "file:///etc/passwd"):
            await tab.run(f"void (document.getElementById('uri').value = {json.dumps(uri)})")
            await tab.click("Open")
        await tab.status("it is no URI of a file")
        cells = "[...document.querySelectorAll('.opened td')].map(cell => cell.textContent).join()"
        await tab.until(f"{cells} === '1,2'")
        await tab.until("document.querySelector('.opened').innerText.includes('1 messages')")
        await append({"celsius": 2})
        await tab.until("document.querySelector('.opened').innerText.includes('2 messages')")
        await tab.send("Page.reload")
        await tab.until("document.querySelectorAll('.known li').length === 2")


async def test_who_is_removed_is_told_so_and_gets_nothing_any_more(lab: Lab) -> None:
    async with chromium() as browser:
        tab = await joined(browser, await invited(lab))
        node = await tab.run("document.getElementById('facts').innerText")
        browser_id = next(
            each.node_id
            for each in lab["A"].network.book.signed(lab.channels["lab"]).document.members
            if each.node_id[:8] in node
        )
        await lab.call("A", "channel.remove-node", channel="lab", node=browser_id)
        await tab.status("was removed from it")
        await tab.send("Page.reload")
        await tab.status("was removed from it")


async def test_the_page_goes_on_when_the_proxy_was_restarted_and_the_network_was_gone(
    lab: Lab,
) -> None:
    async with chromium() as browser:
        tab = await joined(browser, await invited(lab))
        await lab.restart("P")
        await tab.status("Trying again")
        await tab.status("Connected.")
        assert await tab.until("document.querySelector('ul.members').innerText.includes('online')")


async def test_an_invitation_that_is_void_or_damaged_says_so(lab: Lab) -> None:
    link = await invited(lab)
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(link[:-3])
        await tab.status("This invitation is not whole")
        # Pasted with what a mail program put around it.
        await tab.open(link.split("#")[0])
        await tab.status("nothing behind its #")
        line = link.split("#")[1]
        pasted = f"Hello,\n> {line[:90]}\n> {line[90:]}\n\nBest wishes"
        await tab.run(f"void (document.getElementById('invitation').value = {json.dumps(pasted)})")
        await tab.click("Continue")
        await tab.status("You have been invited.")
        await lab.call("A", "channel.revoke-invite", channel="lab", invitation=line)
        await tab.run("void (document.getElementById('label').value = 'x')")
        await tab.click("Join")
        await tab.status("not good any more")


async def test_a_browser_joins_while_the_owner_is_away(lab: Lab) -> None:
    await lab.call("A", "channel.authorise", channel="lab", node="B", roles="request")
    await until(
        lambda: lab["B"].network.book.signed(lab.channels["lab"]).document.may_admit(lab.id("B"))
    )
    made = await lab.call("B", "channel.invite", channel="lab")
    sha1, _ = await lab.store("B", b"results")
    await lab.stop("A")
    async with chromium() as browser:
        tab = await joined(browser, made["link"])
        await tab.run(f"void (document.getElementById('uri').value = 'sha1://{sha1}/r.txt')")
        await tab.click("Open")
        await tab.until("document.querySelector('.opened pre')?.innerText === 'results'")
        # The owner comes back, and lists it; the page takes the newer document.
        await lab.restart("A")
        await lab.linked("A", "lab")
        await tab.until("document.querySelector('ul.members').innerText.includes('A ')")
        await tab.send("Page.reload")
        await tab.status("Connected.")


async def test_who_was_removed_joins_again_and_who_is_a_member_is_led_there(lab: Lab) -> None:
    async with chromium() as browser:
        link = await invited(lab)
        tab = await joined(browser, link, "<b>Bo\u202eb</b>")
        assert await tab.run("document.querySelectorAll('b').length") == 0
        # The link from the mail once more: no second use, but the way to the channel.
        again = await browser.tab()
        await again.open(link)
        await again.until("document.querySelector('main a')?.innerText === 'Open the channel'")
        await again.run("document.querySelector('main a').click()")
        await again.status("Connected.")
        # Two windows of one browser; the removal reaches both.
        document = lab["A"].network.book.signed(lab.channels["lab"]).document
        (node,) = (each.node_id for each in document.members if each.label.startswith("<b>"))
        await lab.call("A", "channel.remove-node", channel="lab", node=node)
        await tab.status("was removed from it")
        await again.status("was removed from it")
        tab = await joined(browser, await invited(lab), "Bob")
        assert f"node {node[:8]}" in await tab.text("#facts")


async def test_a_form_stays_while_its_function_is_away_and_odd_names_are_names(lab: Lab) -> None:
    async def echo(job: Job) -> Any:
        return sorted(job.kwargs)

    name = "<img src=x onerror=alert(1)> é 日本"
    signature = ["", [["__proto__", "text", True], ["n", "integer", False, None]], True]
    async with chromium() as browser:
        tab = await joined(browser, await invited(lab))
        async with backend(lab, "B", {name: ("query", echo)}, signatures={name: signature}):
            await fill(tab, name, __proto__="x", n="1,5")
            wrong = "[...document.querySelectorAll('.wrong')].map(x => x.innerText).join('')"
            await tab.until(f"{wrong}.includes('no whole number')")
            assert await tab.run("document.querySelectorAll('.run').length") == 0
        await tab.until("document.body.innerText.includes('nobody who is connected offers it now')")
        assert await tab.run("document.querySelector('.functions textarea').value") == "x"
        async with backend(lab, "B", {name: ("query", echo)}, signatures={name: signature}):
            await tab.until("!document.querySelector('.functions button').disabled")
            await fill(tab, name, n="", **{"Further arguments": '{"constructor": 1}'})
            await run_state(tab, "Finished")
            assert "__proto__" in await tab.text(".run .result")
            assert "constructor" in await tab.text(".run .result")
            assert await tab.run("document.querySelectorAll('main img').length") == 0


async def test_a_function_is_run_by_the_keyboard_alone_on_a_phone(lab: Lab) -> None:
    async def echo(job: Job) -> Any:
        return job.kwargs["text"]

    serving = backend(lab, "B", {"echo.1": ("query", echo)}, signatures={"echo.1": SIGNATURE})
    async with serving, chromium() as browser:
        tab = await joined(browser, await invited(lab))
        phone = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        await tab.send("Emulation.setDeviceMetricsOverride", **phone)
        await tab.until("document.querySelectorAll('.functions > details').length")

        async def key(name: str, code: int, text: str = "") -> None:
            pressed = {"key": name, "windowsVirtualKeyCode": code}
            more = {"text": text} if text else {}
            await tab.send("Input.dispatchKeyEvent", type="keyDown", **pressed, **more)
            await tab.send("Input.dispatchKeyEvent", type="keyUp", **pressed)

        async def to(name: str) -> None:
            for _ in range(20):
                await key("Tab", 9)
                if await tab.run("document.activeElement.localName") == name:
                    return
            raise AssertionError(f"the keyboard does not lead to {name}")

        await to("summary")
        await key("Enter", 13, "\r")
        await to("textarea")
        await tab.send("Input.insertText", text="typed")
        await tab.run("void document.querySelector('.functions select').focus()")
        await to("button")
        await key("Enter", 13, "\r")
        await run_state(tab, "Finished")
        assert '"typed"' in await tab.text(".run .result")
        assert await tab.run("document.documentElement.scrollWidth") <= 360
