"""Views in a real Chromium: what they get, and that they can reach nothing else."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from tests.node.harness import Lab, laboratory

from .browser import Browser, Tab, chromium, require_browser
from .viewing import pack_of, view_link

PLAIN = {"index.html": "<!doctype html><title>v</title><p>here</p>"}


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    require_browser()
    async with laboratory() as made:
        yield made


async def store(lab: Lab, data: bytes, name: str) -> str:
    sha1, manifest = await lab.store("A", data)
    return f"sha1://{sha1}/{name}" + (f"?manifest={manifest}" if manifest else "")


async def opened(browser: Browser, link: str) -> tuple[Tab, Tab]:
    """The tab, and the frame of the view in it."""
    tab = await browser.tab()
    await tab.open(link)
    await tab.status("Verified.")
    return tab, await tab.frame()


async def outcome(frame: Tab, expression: str) -> Any:
    """The value of a promise, or the code of what it was rejected with."""
    return await frame.run(f"({expression}).catch(error => error.code ?? error.name)")


async def test_a_view_gets_its_files_and_its_data(lab: Lab) -> None:
    array = np.arange(24, dtype=">i2").reshape(4, 3, 2)
    npy = io.BytesIO()
    np.save(npy, array)
    data = {
        "array": await store(lab, npy.getvalue(), "a.npy"),
        "text": await store(lab, "naïve".encode(), "a.txt"),
        "json": await store(lab, b'{"n": [1]}', "a.json"),
    }
    files = {
        "index.html": '<!doctype html><link rel=stylesheet href="css/a.css"><p id=p>x</p>'
        '<script src="first.js"></script><script type=module src="./js/main.js"></script>',
        "css/a.css": "#p { color: rgb(1, 2, 3) } @import 'b.css'; p { background: url(i.svg) }",
        "css/i.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>",
        "first.js": "window.first = kachery.title;",
        "js/main.js": "import { two } from './deep/two.js'; window.second = [first, two];",
        "js/deep/two.js": "import { base } from '../base.js'; export const two = base * 2;",
        "js/base.js": "export const base = 21;",
    }
    link = await view_link(lab, files, data, reads=tuple(data.values()))
    async with chromium() as browser:
        tab, frame = await opened(browser, link)
        assert tab.troubles == []
        assert await tab.text("h1") == "Tuesday"
        assert await frame.until("window.second") == ["Tuesday", 42]
        assert await frame.run("getComputedStyle(p).color") == "rgb(1, 2, 3)"
        assert "blob:" in await frame.run("getComputedStyle(p).backgroundImage")
        assert await frame.run("kachery.data") == data
        assert await frame.run("kachery.text(kachery.data.text)") == "naïve"
        assert await frame.run("kachery.json(kachery.data.json)") == {"n": [1]}
        assert await frame.run("kachery.info(kachery.data.text)") == {"name": "a.txt", "size": 6}
        assert await frame.run("kachery.text(kachery.data.text, 4)") == "ve"
        rows = "kachery.npy(kachery.data.array, 1, 3).then(a => ({...a, data: [...a.data]}))"
        found = await frame.run(rows)
        assert (found["dtype"], found["shape"]) == (">i2", [2, 3, 2])
        assert found["data"] == array[1:3].ravel().tolist()
        assert (
            await frame.run("new TextDecoder().decode(kachery.asset('js/base.js'))")
            == files["js/base.js"]
        )
        assert "What the view tried" not in await tab.text("main")


REACH = {
    "fetch": "fetch(there).then(() => 'reached', () => 'blocked')",
    "fetch of the page's own server": "fetch('/kachery.js').then(() => 'reached', () => 'blocked')",
    # It says that it was sent also if it was not: what the server heard is what counts.
    "beacon": "Promise.resolve(navigator.sendBeacon(there) ? 'asked' : 'blocked')",
    "socket": "new Promise(done => { try { const s = new WebSocket(there.replace('http', 'ws'));"
    " s.onopen = () => done('reached'); s.onerror = () => done('blocked') }"
    " catch { done('blocked') } })",
    "image": "new Promise(done => { const i = new Image(); i.onload = () => done('reached');"
    " i.onerror = () => done('blocked'); i.src = there })",
    "script": "new Promise(done => { const s = document.createElement('script');"
    " s.onload = () => done('reached'); s.onerror = () => done('blocked'); s.src = there;"
    " document.head.append(s) })",
    "style": "new Promise(done => { const s = document.createElement('link'); s.rel = 'stylesheet';"
    " s.onload = () => done('reached'); s.onerror = () => done('blocked'); s.href = there;"
    " document.head.append(s) })",
    "worker": "new Promise(done => { try { const w = new Worker(URL.createObjectURL(new Blob(['"
    "postMessage(1)'])));"
    " w.onmessage = () => done('reached'); w.onerror = () => done('blocked') }"
    " catch { done('blocked') } })",
    "parent": "new Promise(done => { try { done(parent.document ? 'reached' : 'blocked') }"
    " catch { done('blocked') } })",
    "storage": "new Promise(done => { try { localStorage.x = 1; done('reached') }"
    " catch { done('blocked') } })",
    "database": "new Promise(done => { try { indexedDB.open('x').onsuccess = () => done('reached');"
    " setTimeout(() => done('blocked'), 300) } catch { done('blocked') } })",
    "cookie": "new Promise(done => { try { document.cookie = 'a=1';"
    " done(document.cookie ? 'reached' : 'blocked') } catch { done('blocked') } })",
    "popup": "Promise.resolve(open(there) ? 'reached' : 'blocked')",
    "top": "new Promise(done => { try { top.location = there; done('asked') }"
    " catch { done('blocked') } })",
    "frame": "new Promise(done => { const f = document.createElement('iframe'); f.src = there;"
    " f.onload = () => { try { f.contentDocument.title; done('blocked') }"
    " catch { done('frame of its own') } }; document.body.append(f) })",
    "peer connection": "new Promise(done => { try { const c = new RTCPeerConnection();"
    " c.createDataChannel('x'); c.createOffer().then(o => c.setLocalDescription(o))"
    ".then(() => done('reached'), () => done('blocked')); } catch { done('blocked') } })",
    "peer connection of a frame inside": "new Promise(done => {"
    " const f = document.createElement('iframe');"
    " document.body.append(f); try { new f.contentWindow.RTCPeerConnection(); done('reached') }"
    " catch { done('blocked') } })",
    "script of a frame inside": "new Promise(done => { const f = document.createElement('iframe');"
    " onmessage = ({data}) => data === 'inside' && done('reached');"
    " const url = URL.createObjectURL(new Blob(['parent.postMessage(`inside`, `*`)'],"
    " {type: 'text/javascript'}));"
    " f.srcdoc = `<script src='${url}'></` + `script>"
    "<script>parent.postMessage('inside', '*')</` + `script>`;"
    " document.body.append(f); setTimeout(() => done('blocked'), 500) })",
    "transport": "(async () => { const t = new WebTransport(there.replace('http', 'https'));"
    " await t.ready })()"
    ".then(() => 'reached', () => 'blocked')",
    "service worker": "(async () => navigator.serviceWorker.register('/kachery.js'))()"
    ".then(() => 'reached', () => 'blocked')",
    "form": "new Promise(done => { const f = document.createElement('form'); f.action = there;"
    " f.method = 'post'; document.body.append(f); f.submit(); done('asked') })",
    "prefetch": "new Promise(done => { for (const rel of ['prefetch', 'preload', 'preconnect',"
    " 'dns-prefetch', 'modulepreload']) { const l = document.createElement('link'); l.rel = rel;"
    " l.href = there; l.as = 'image'; document.head.append(l) } done('asked') })",
    "speculation": "new Promise(done => { const s = document.createElement('script');"
    " s.type = 'speculationrules'; s.textContent = JSON.stringify({prefetch: [{source: 'list',"
    " urls: [there], eagerness: 'immediate'}]}); document.head.append(s); done('asked') })",
}


async def test_a_view_can_reach_nothing(lab: Lab) -> None:
    heard: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Browsers connect ahead of what their policy then refuses: what counts is that nothing is said.
        heard.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    there = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/there"
    link = await view_link(lab, PLAIN)
    async with chromium() as browser:
        tab, frame = await opened(browser, link)
        await frame.run(f"void (window.there = {json.dumps(there)})")
        outcomes = {}
        for name, script in REACH.items():
            outcomes[name] = await frame.run(script)
        reached = {name for name, said in outcomes.items() if said == "reached"}
        assert reached == set(), outcomes
        await frame.send("Runtime.evaluate", expression="void (location = there + '?secret')")
        await tab.until("document.querySelector('main ul').innerText.includes('left its frame')")
        assert b"".join(heard) == b"", outcomes
        assert await tab.run("location.href") == link
        tried = await tab.text("main ul")
        assert "connect-src" in tried
        assert "worker-src" in tried
        targets = (await browser.send("Target.getTargets", {}))["targetInfos"]
        assert sum(each["type"] == "page" for each in targets) == 2  # this one, and the first
    server.close()
    await server.wait_closed()
    assert b"".join(heard) == b""


async def test_a_view_reads_what_its_link_names_and_nothing_else(lab: Lab) -> None:
    named = await store(lab, b"named", "a.txt")
    other = await store(lab, b"other", "b.txt")
    feed = (await lab.call("A", "feed.create", name="f"))["feed"]
    empty = f"feed://{feed.hex()}/empty"
    link = await view_link(lab, PLAIN, named, reads=(named, empty))
    async with chromium() as browser:
        _, frame = await opened(browser, link)
        assert await outcome(frame, "kachery.text(kachery.data)") == "named"
        for call in (
            f"kachery.text({json.dumps(other)})",
            f"kachery.feed('feed://{'ab' * 32}/x').append(1)",
            "(async () => { for await (const _ of kachery.feed("
            f"'feed://{'ab' * 32}/x').follow()) return 1 }})()",
        ):
            assert await outcome(frame, call) == "access-denied", call
        assert await outcome(frame, "kachery.text('file:///etc/passwd')") == "bad-input"
        assert await outcome(frame, "kachery.text(kachery.data, 3, 2)") == "bad-input"
        many = (
            "Promise.all(Array.from({length: 65}, async () => { for await (const _ of"
            f" kachery.feed({json.dumps(empty)}).follow()) return }}))"
        )
        assert await outcome(frame, many) == "busy"


async def test_what_is_chosen_in_a_view_arrives_in_a_feed(lab: Lab) -> None:
    feed = (await lab.call("A", "feed.create", name="f"))["feed"]
    mine, other = (f"feed://{feed.hex()}/{name}" for name in ("curation", "other"))
    link = await view_link(lab, PLAIN, mine, appends=(mine,), reads=(other,))
    async with chromium() as browser:
        _tab, frame = await opened(browser, link)
        assert await frame.run("kachery.feed(kachery.data).append({a: 1}, 'two')") == 0
        assert await frame.run("kachery.feed(kachery.data).append({a: 'é\\n'})") == 2
        following = (
            "(async () => { const all = []; for await (const messages of"
            " kachery.feed(kachery.data).follow(1)) { all.push(...messages);"
            " if (all.length === 2) return all } })()"
        )
        found = await frame.run(following)
        assert [(each["number"], each["value"]) for each in found] == [
            (1, "two"),
            (2, {"a": "é\n"}),
        ]
        assert all(len(each["author"]) == 64 for each in found)
        denied = f"kachery.feed({json.dumps(other)}).append(1)"
        assert await outcome(frame, denied) == "access-denied"
        await lab.call("A", "share.revoke", id=link)
        assert await outcome(frame, "kachery.feed(kachery.data).append(1)") == "share-refused"


async def test_a_pack_that_was_tampered_with_is_not_opened(lab: Lab) -> None:
    pack = pack_of({"index.html": b"<p>here</p>", "a.js": b"honest()"})
    links = [
        await view_link(lab, {}, pack=pack.replace(b"honest()", b"hostile!")[:]),
        await view_link(lab, {}, pack=pack[:-1]),
        await view_link(lab, {}, pack=b"<p>no pack</p>"),
    ]
    async with chromium() as browser:
        for link, said in zip(links, ("not what", "not what", "cannot read its pack"), strict=True):
            tab = await browser.tab()
            await tab.open(link)
            await tab.status(said)
            assert await tab.run("document.querySelectorAll('iframe').length") == 0
