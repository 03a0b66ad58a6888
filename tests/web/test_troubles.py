"""What happens to a page: bytes changed on the way, a network that goes, a link that is over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kachery_p2p.protocol.feeds.feed import subfeed_hash
from tests.node.harness import Lab, laboratory, until

from .browser import chromium, require_browser
from .samples import pdf


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    require_browser()
    async with laboratory() as made:
        yield made


async def share(lab: Lab, data: bytes, name: str, **options: Any) -> str:
    sha1, _ = await lab.store("A", data)
    made = await lab.call("A", "share.create", uri=f"sha1://{sha1}/{name}", **options)
    return str(made["link"])


ON_THE_WAY = """
const Real = WebSocket;
window.WebSocket = class extends Real {
    set onmessage(hear) {
        let number = 0;
        let kept = null;
        const flipped = (data, at) => {
            const copy = data.slice(0);
            new Uint8Array(copy)[at] ^= 1;
            return copy;
        };
        super.onmessage = hear && (event => {
            const deliver = data => hear({data});
            const [n, data] = [number++, event.data];
            (CHANGE)(n, data, deliver, flipped);
        });
    }
    get onmessage() { return super.onmessage }
};"""

CHANGES = {
    "a byte of the handshake": "(n, d, to, flip) => to(n === 0 ? flip(d, 60) : d)",
    "the version in the handshake": "(n, d, to, flip) => to(n === 0 ? flip(d, 12) : d)",
    "a byte of sealed headers": "(n, d, to, flip) => to(n === 2 ? flip(d, 8) : d)",
    "the length of headers": "(n, d, to, flip) => to(n === 2 ? flip(d, 3) : d)",
    "a record that is lost": "(n, d, to) => { if (n !== 2) to(d) }",
    "a record that comes twice": "(n, d, to) => { to(d); if (n === 2) to(d) }",
    "two records in another order": "(n, d, to) => { if (n === 2) kept = d;"
    " else if (n === 3) { to(d); to(kept) } else to(d) }",
    "a record that is cut short": "(n, d, to) => to(n === 2 ? d.slice(0, -1) : d)",
    "a byte behind a record": "(n, d, to) => { const more = new Uint8Array(d.byteLength + 1);"
    " more.set(new Uint8Array(d)); to(n === 2 ? more.buffer : d) }",
    "text in place of a record": "(n, d, to) => to(n === 2 ? 'text' : d)",
    "the last byte of all, which is the sealed content's": "(n, d, to, flip) =>"
    " to(n > 2 ? flip(d, d.byteLength - 1) : d)",
}


async def test_whatever_is_changed_on_the_way_nothing_of_it_is_shown(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    async with chromium() as browser:
        for name, change in CHANGES.items():
            tab = await browser.tab(before=ON_THE_WAY.replace("CHANGE", change))
            await tab.open(link)
            await tab.until("document.getElementById('status')?.classList.contains('error')")
            assert await tab.text("main") == "", name
            assert not any("Uncaught" in each for each in tab.troubles), (name, tab.troubles)
            await tab.send("Page.close")
        tab = await browser.tab(before=ON_THE_WAY.replace("CHANGE", "(n, d, to) => to(d)"))
        await tab.open(link)
        await tab.status("Verified.")


async def test_a_page_that_was_offline_goes_on_where_it_was(lab: Lab) -> None:
    feed = (await lab.call("A", "feed.create", name="f"))["feed"]

    async def append(value: int) -> None:
        await lab.call(
            "A", "feed.append", feed=feed, subfeed=subfeed_hash("temp"), name="temp",
            data=json.dumps(value).encode(), count=1,
        )  # fmt: skip

    await append(0)
    made = await lab.call("A", "share.create", uri=f"feed://{feed.hex()}/temp")
    nothing = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(made["link"])
        await tab.status("1 messages")
        await tab.send("Network.emulateNetworkConditions", offline=True, **nothing)
        await append(1)
        await tab.status("Trying again")
        await tab.send("Network.emulateNetworkConditions", offline=False, **nothing)
        await tab.status("2 messages")
        await append(2)
        await tab.status("3 messages")
        assert await tab.run("document.querySelectorAll('ol li').length") == 3


async def test_a_link_whose_time_is_over_says_so(lab: Lab) -> None:
    ahead = 0.0
    for name in ("P", "A"):
        context = lab[name].context
        real = context.clock
        context.clock = lambda real=real: real() + ahead  # type: ignore[misc]
    link = await share(lab, b"results", "r.txt", expires_in=300)
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(link)
        await tab.status("Verified.")
        ahead = 400.0
        await tab.send("Page.reload")
        await tab.status("its time is over")
        assert await tab.text("main") == ""


async def test_a_pdf_is_shown_by_the_browsers_viewer(lab: Lab) -> None:
    link = await share(lab, pdf(), "paper.pdf")
    other = await share(lab, b"<script>document.title = 'in'</script>", "page.pdf")
    async with chromium("--window-size=900,700") as browser:
        tab = await browser.tab()
        await tab.open(link)
        await tab.status("Verified.")

        viewer = await tab.frame()
        assert (await viewer.run("location.href")).startswith("chrome-extension://")
        assert tab.troubles == []
        tab = await browser.tab()
        await tab.open(other)
        await tab.status("Verified.")
        assert "<script>" in await tab.text("pre")


async def test_a_page_that_asks_again_gets_its_content_when_the_proxy_is_back(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(link)
        await tab.status("Verified.")
        await lab.restart("P")
        await lab.linked("A", "lab")
        await lab.announced("A")
        await tab.send("Page.reload")
        await tab.status("Verified.")
        await until(lambda: lab["P"].network.links_to(lab.id("A"), lab.channels["lab"]))
