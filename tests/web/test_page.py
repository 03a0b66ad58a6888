"""The page in a real Chromium, on real nodes: what share links open, and what it refuses."""

from __future__ import annotations

import io
import json
import struct
import wave
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from kachery_p2p.protocol.feeds.feed import subfeed_hash
from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.node.harness import Lab, laboratory, until

from .browser import Browser, Tab, chromium, require_browser


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    require_browser()
    async with laboratory() as made:
        yield made


async def share(lab: Lab, data: bytes, name: str, **options: Any) -> str:
    """A link to a file that A has stored."""
    sha1, _ = await lab.store("A", data)
    made = await lab.call("A", "share.create", uri=f"sha1://{sha1}/{name}", **options)
    return str(made["link"])


async def opened(browser: Browser, link: str, **options: Any) -> Tab:
    """A tab in which what the link is to is shown, without any trouble."""
    tab = await browser.tab(**options)
    await tab.open(link)
    await tab.status("Verified.")
    assert tab.troubles == []
    return tab


def png() -> bytes:
    """An image of 2 x 1 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + b"\xff\0\0" + b"\0\xff\0")
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def wav(seconds: float = 0.5, rate: int = 8_000) -> bytes:
    """Silence."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * 2))
    return data.getvalue()


async def test_each_kind_of_file_is_shown_as_what_it_is(lab: Lab) -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    npy = io.BytesIO()
    np.save(npy, array)
    value = {"name": "αβγ", "big": 12345678901234567890, "list": [1, {"deep": True}]}
    links = {
        "text": await share(lab, "naïve\ntext".encode(), "a.txt"),
        "json": await share(lab, json.dumps(value).encode(), "a.json"),
        "csv": await share(lab, b'x,y\n1,"two, ""2"""\n', "a.csv"),
        "npy": await share(lab, npy.getvalue(), "a.npy"),
        "png": await share(lab, png(), "a.png"),
        "wav": await share(lab, wav(), "a.wav"),
        "empty": await share(lab, b"", "a.bin"),
        "other": await share(lab, bytes(range(256)), "a.bin"),
    }
    async with chromium() as browser:
        tabs = {name: await opened(browser, link) for name, link in links.items()}
        assert await tabs["text"].text("pre") == "naïve\ntext"
        tree = await tabs["json"].text("main")
        assert 'name: "αβγ"' in tree
        assert "big: 12345678901234567890" in tree  # not the nearest double
        cells = "[...document.querySelectorAll('th, td')].map(cell => cell.textContent)"
        assert await tabs["csv"].run(cells) == ["x", "y", "1", 'two, "2"']
        assert await tabs["npy"].run(cells) == [
            "shape", "(2, 3)", "dtype", ">f4", "order", "C", "values", "6", "min", "0", "max", "5",
            "mean", "2.5", "standard deviation", f"{array.astype(float).std():.7f}",
        ]  # fmt: skip
        assert await tabs["npy"].run("document.querySelectorAll('polyline').length") == 3
        assert await tabs["png"].until("document.querySelector('img').naturalWidth") == 2
        assert await tabs["wav"].until("document.querySelector('audio').duration") == 0.5
        assert "empty" in await tabs["empty"].text("main")
        assert "no view" in await tabs["other"].text("main")
        assert "channel lab" in await tabs["text"].text("#facts")
        assert "From A, through" in await tabs["text"].text("#route")


async def test_sound_is_sought_by_ranges_and_nothing_of_it_stays(lab: Lab) -> None:
    data = wav(400, 96_000)
    link = await share(lab, data, "a.wav")
    provider = lab["A"].provider
    audio = "document.querySelector('audio')"
    seek = f"""new Promise((resolve, reject) => {{
        const audio = {audio};
        audio.addEventListener('seeked', () => resolve(audio.currentTime));
        audio.addEventListener('error', () => reject(audio.error.message));
        audio.currentTime = 390; }})"""
    async with chromium() as browser:
        tab = await opened(browser, link)
        assert await tab.until(f"{audio}.duration") == 400
        assert await tab.run(seek) == 390
        assert await tab.until(f"{audio}.readyState > 1")
        assert provider.served_bytes < len(data) / 3
        asked = "performance.getEntriesByType('resource').filter(e => e.name.includes('/media/'))"
        name = await tab.run(f"{asked}[0].name")
        # Who else asks under that name gets nothing; the page that has it gets sound, and no document.
        other = await opened(browser, await share(lab, b"small", "a.txt"))
        ask = f"fetch({json.dumps(name)}, {{headers: {{Range: 'bytes=5-'}}}})"
        assert await other.run(f"{ask}.then(answer => answer.status)") == 404
        kind = f"{ask}.then(answer => [answer.status, answer.headers.get('Content-Type')])"
        assert await tab.run(kind) == [206, "audio/wav"]
        # Who wants the whole is not given a part of it.
        assert await tab.run(f"fetch({json.dumps(name)}).then(answer => answer.status)") == 404
        # Another page has it too, and again, and has it still when this one is gone; then it goes.
        more = await opened(browser, link)
        await more.send("Page.reload")
        await more.status("Verified.")
        assert await more.until(f"{audio}?.duration") == 400
        await tab.send("Page.close")
        assert await more.run(seek) == 390
        assert await more.text("#status") == "Verified."
        await more.send("Page.close")
        await other.until(
            "navigator.serviceWorker.getRegistrations().then(all => all.length === 0)"
        )


@pytest.mark.parametrize("order", ["C", "F"])
async def test_an_array_of_two_axes_is_a_heat_map(lab: Lab, order: str) -> None:
    array = np.zeros((300, 40), "float32", order="C" if order == "C" else "F")
    array[:, 39] = 1
    npy = io.BytesIO()
    np.save(npy, array)
    async with chromium() as browser:
        tab = await opened(browser, await share(lab, npy.getvalue(), "a.npy"))
        pixel = (
            "[...document.querySelector('canvas').getContext('2d').getImageData({}, 7, 1, 1).data]"
        )
        assert await tab.run(
            "[document.querySelector('canvas').width, document.querySelector('canvas').height]"
        ) == [40, 256]
        assert await tab.run(pixel.format(38)) == [68, 1, 84, 255]
        light = await tab.run(pixel.format(39))
        assert light[0] > 240
        assert light[2] < 50


async def test_nothing_of_the_link_reaches_a_server_and_no_other_site_is_asked(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    host = urlsplit(link).netloc
    async with chromium() as browser:
        tab = await opened(browser, link)
        asked = [urlsplit(url) for url in tab.requests]
        assert {url.netloc for url in asked} == {host}
        paths = {url.path for url in asked} - {
            "/icon.svg"
        }  # a browser without a window may not ask
        assert paths == {"/", "/kachery-p2p", "/kachery.css", "/kachery.js"}
        assert not any(url.query for url in asked)


async def test_what_others_wrote_is_text_and_never_markup(lab: Lab) -> None:
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>'
    links = [
        await share(lab, evil.encode(), "<b>bold<_b>.txt"),
        await share(lab, json.dumps({evil: evil}).encode(), "a.json"),
        await share(lab, f"{evil}\n{evil}\n".replace('"', "").encode(), "a.csv"),
        await share(
            lab, f"<svg xmlns='http://www.w3.org/2000/svg'>{evil}</svg>".encode(), "a.svg.txt"
        ),
    ]
    async with chromium() as browser:
        for link in links:
            tab = await opened(browser, link)
            assert (
                await tab.run("document.querySelectorAll('main img, main script, b').length") == 0
            )
            assert not (await tab.run("document.title")).isdigit()


async def test_a_large_file_is_saved_whole_and_verified(lab: Lab, tmp_path: Path) -> None:
    data = np.random.default_rng(1).bytes(2 * MANIFEST_CHUNK + 5)
    link = await share(lab, data, "large.dat")
    # No picker, as in browsers that have none: then it goes through the browser's own files.
    async with chromium() as browser:
        tab = await opened(
            browser, link, before="delete window.showSaveFilePicker", downloads=tmp_path
        )
        await tab.click("Save")
        await tab.status("Saved; all of it was verified.")
        saved = tmp_path / "large.dat"
        await until(saved.exists, "the browser has moved it there")
        assert saved.read_bytes() == data


async def test_a_link_that_is_void_or_damaged_says_so(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    once = await share(lab, b"once", "o.txt", uses=1)
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(link[:-2])
        await tab.status("This link is not whole")
        await tab.open(link)
        await tab.status("Verified.")
        await lab.call("A", "share.revoke", id=link)
        again = await browser.tab()
        await again.open(link)
        await again.status("revoked")
        # Who opened it may load it again; another browser may not.
        # A mail scanner may open it, and run its scripts; a click is what counts.
        scanner = await browser.tab()
        await scanner.open(once)
        await scanner.status("one browser only")
        first = await browser.tab()
        await first.open(once)
        await first.click("Open it in this browser")
        await first.status("Verified.")
        await first.send("Page.reload")
        await first.status("Verified.")
    async with chromium() as other:
        tab = await other.tab()
        await tab.open(once)
        await tab.click("Open it in this browser")
        await tab.status("as often as it may be")


async def test_who_has_it_and_is_offline_is_named(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    await lab.stop("A")
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(link)
        await tab.status("A has it, but is offline")
        await lab.restart("A")
        await lab.linked("A", "lab")
        await tab.click("Try again")
        await tab.status("Verified.")


async def test_messages_of_a_subfeed_are_shown_as_they_come(lab: Lab) -> None:
    feed = (await lab.call("A", "feed.create", name="f"))["feed"]

    async def append(value: Any) -> None:
        await lab.call(
            "A", "feed.append", feed=feed, subfeed=subfeed_hash("temp"), name="temp",
            data=json.dumps(value).encode(), count=1,
        )  # fmt: skip

    for n in range(3):
        await append({"celsius": n})
    made = await lab.call("A", "share.create", uri=f"feed://{feed.hex()}/temp")
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open(made["link"])
        await tab.status("3 messages")
        await append({"celsius": 41, "note": "<b>hot</b>"})
        await tab.status("4 messages")
        assert "<b>hot</b>" in await tab.text("ol li:first-child")
        assert "celsius: 0 to 41, now 41" in await tab.text("main")
        # The proxy goes away and comes back: the page goes on where it was.
        await lab.restart("P")
        await tab.status("Trying again")
        await lab.linked("A", "lab")
        await append({"celsius": 5})
        await tab.status("5 messages")
        assert await tab.run("document.querySelectorAll('ol li').length") == 5


async def test_a_page_of_another_site_is_refused_still(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    host = urlsplit(link).netloc
    async with chromium() as browser:
        tab = await browser.tab()
        await tab.open("data:text/html,<title>elsewhere</title>")
        outcome = f"""new Promise(done => {{
            const socket = new WebSocket("ws://{host}/kachery-p2p", "kachery-p2p");
            socket.onopen = () => done("open"); socket.onerror = () => done("refused"); }})"""
        assert await tab.run(outcome) == "refused"


async def test_links_that_mail_programs_spoiled_and_clocks_that_are_wrong(lab: Lab) -> None:
    link = await share(lab, b"results", "r.txt")
    async with chromium() as browser:
        for spoiled in (link.replace("/#", "/%23"), link.replace("/#", "/some/where/#")):
            tab = await opened(browser, spoiled)
            assert await tab.text("pre") == "results"
        assert "%23" not in await tab.run("location.href")
        bare = await browser.tab()
        await bare.open(link.split("#")[0])
        await bare.status("nothing behind its #")
        # The same tab goes on to another link.
        await bare.run(f"location.hash = {json.dumps(link.split('#')[1])}")
        await bare.status("Verified.")
        late = await browser.tab(before="const now = Date.now; Date.now = () => now() - 3600000")
        await late.open(link)
        await late.status("The clock of this device is 3600 s off")


async def test_odd_contents_are_shown_as_what_they_are(lab: Lab) -> None:
    links = {
        "nan": await share(lab, b'{"a": NaN}', "a.json"),
        "deep": await share(lab, b"[" * 100_000 + b"]" * 100_000, "a.json"),
        "wide": await share(lab, json.dumps(list(range(5_000))).encode(), "a.json"),
        "latin": await share(lab, "Grün;1\n".encode("latin-1"), "a.csv"),
        "broken": await share(lab, b"\x89PNG not an image", "a.png"),
        "object": await share(lab, b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, "
                              b"'shape': (3,), }".ljust(128) + b"\x80\x04.", "a.npy"),
    }  # fmt: skip
    async with chromium() as browser:
        tabs = {name: await opened(browser, link) for name, link in links.items()}
        assert "no valid JSON" in await tabs["nan"].text("main")
        assert "too deeply" in await tabs["deep"].text("main")
        assert "4500 more are not shown" in await tabs["wide"].text("main")
        assert "Gr\ufffdn" in await tabs["latin"].text("main")
        assert await tabs["broken"].until(
            "document.querySelector('main').innerText.includes('cannot')"
        )
        assert "(3)" in await tabs["object"].text("main")
