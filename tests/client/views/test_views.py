"""Views from Python: made with real daemons, opened in a real browser; what is chosen comes back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kachery_p2p as kc
from kachery_p2p.client.views.built_in import FOLDER
from kachery_p2p.protocol.errors import BadInput, BadPath
from tests.daemons import ROOT, Lab, at
from tests.documents import blocks
from tests.web.browser import Tab, chromium

pytestmark = pytest.mark.processes


async def opened(tab: Tab, link: str) -> Tab:
    """The frame of the view, once it has begun."""
    await tab.open(link)
    await tab.status("Verified.")
    return await tab.frame()


def status(frame: Tab) -> Any:
    return frame.until(
        "(text => !text.includes('oading') && text)(document.getElementById('status').textContent)"
    )


def need_views() -> None:
    if not FOLDER.is_dir():
        pytest.skip("the views are not built: run ./scripts/web")


def test_a_folder_that_is_no_view_and_data_that_is_none_are_refused(lab: Lab) -> None:
    folder = lab.a.home / "view"
    folder.mkdir()
    (folder / "main.html").write_text("<p>")
    with at(lab.a):
        with pytest.raises(BadInput, match=r"index\.html"):
            kc.view_url(str(folder))
        (folder / "index.html").write_text("<p>")
        with pytest.raises(BadInput, match="store_json"):
            kc.view_url(str(folder), "x" * 5_000)
        with pytest.raises(BadInput, match="JSON"):
            kc.view_url(str(folder), {"a": object()})
        with pytest.raises(BadInput, match="list_dir"):
            kc.view_url(str(folder), {"folder": kc.store_dir(str(folder))})
        with pytest.raises(BadInput, match="16 contents"):
            kc.view_url(str(folder), [f"sha1://{n:040x}/a" for n in range(16)])
        with pytest.raises(BadInput, match="key lies on the node"):
            kc.view_url(str(folder), append=[f"feed://{'ab' * 32}/x"])
        with pytest.raises(BadPath):
            kc.view_url(str(folder / "nowhere"))
        assert kc.list_shares() == []
        first, second = (kc.view_url(str(folder), {"a": 1}) for _ in range(2))
        assert first != second
        assert len({each["uri"] for each in kc.list_shares()}) == 1
    done = lab.a.cli("view", "view", "--data", '{"a": 1}', "--title", "One")
    assert done.stdout.startswith("http://127.0.0.1:")
    assert lab.a.cli("view", "view", "--data", "{a: 1}", check=False).returncode == 2


async def test_a_recording_is_zoomed_and_only_what_is_on_screen_is_fetched(lab: Lab) -> None:
    need_views()
    async with chromium("--window-size=1200,900") as browser:
        rng = np.random.default_rng(1)
        recording = (rng.standard_normal((1_000_000, 16)) * 50).astype("int16")
        recording[654_321, 3] = 20_000
        with at(lab.a):
            link = await kc.aview_timeseries(
                recording, sampling_rate=1_000, channel_names=[f"ch{n}" for n in range(16)]
            )
        tab = await browser.tab()
        frame = await opened(tab, link)
        text = await status(frame)
        assert text.startswith("0 to 1000 s")
        assert float(text.split("· ")[1].split()[0]) < 1  # of 32 MB
        for _ in range(8):
            await frame.click("+")
        await frame.until("document.getElementById('status').textContent.includes('to 501.9')")
        text = await status(frame)
        assert float(text.split("· ")[1].split()[0]) < 8
        assert tab.troubles == []


async def test_what_is_chosen_in_the_browser_is_read_in_python(lab: Lab) -> None:
    need_views()
    async with chromium("--window-size=1200,900") as browser:
        with at(lab.a):
            feed = kc.create_feed("curation")
            units = feed.load_subfeed("units")
            rows = [
                {"unit": f"u{n}", "rate": n / 2, "snr": 10 - n, "note": "<b>"} for n in range(9)
            ]
            link = await kc.aview_table(rows, key="unit", curation=units.uri, title="Units")
        tab = await browser.tab()
        frame = await opened(tab, link)
        await frame.until("document.querySelectorAll('tbody tr').length === 9")
        assert await frame.run(
            "['x', 'y'].map(id => document.getElementById(id).selectedOptions[0].text)"
        ) == ["rate", "snr"]
        await frame.run("[2, 5].forEach(n => document.querySelectorAll('tbody tr')[n].click())")
        assert await frame.text("#chosen") == "2 of 9 rows chosen"
        await frame.click("Save as accept")
        await frame.until("said.textContent.startsWith('Saved')")
        # Those in a rectangle over all points are chosen too.
        drag = """for (const [type, x, y] of [['pointerdown', 1, 1], ['pointermove', 9999, 9999],
            ['pointerup', 9999, 9999]]) {
            const event = new PointerEvent(type, {pointerId: 1, clientX: x, clientY: y});
            Object.defineProperty(event, 'offsetX', {value: x});
            Object.defineProperty(event, 'offsetY', {value: y});
            points.setPointerCapture = () => undefined;
            points.dispatchEvent(event);
        }"""
        await frame.run(f"void (() => {{ {drag} }})()")
        assert await frame.text("#chosen") == "9 of 9 rows chosen"
        await frame.click("Save as reject")
        with at(lab.a):
            messages = units.get_next_messages(wait_msec=10_000)
            while len(messages) < 2:
                messages += units.get_next_messages(wait_msec=10_000)
        assert messages[0] == {"label": "accept", "rows": ["u2", "u5"]}
        assert messages[1] == {"label": "reject", "rows": [f"u{n}" for n in range(9)]}
        assert tab.troubles == []


async def test_a_view_of_a_large_csv_shows_the_rows_on_screen(lab: Lab, tmp_path: Path) -> None:
    need_views()
    async with chromium("--window-size=1200,900") as browser:
        lines = ["x,y,name"] + [f'{n},{n % 7},"name, {n}"' for n in range(20_000)]
        with at(lab.a):
            uri = kc.store_text("\n".join(lines), "rows.csv")
            link = await kc.aview_table(uri)
        tab = await browser.tab()
        frame = await opened(tab, link)
        await frame.until("chosen.textContent === '0 of 20000 rows chosen'")
        assert await frame.run("document.querySelectorAll('tbody tr').length") < 200
        await frame.run("void (rows.scrollTop = 10_000 * 28)")
        await frame.until("rows.innerText.includes('name, 10000')")
        labels = json.loads(
            await frame.run("JSON.stringify([...labels.children].map(b => b.disabled))")
        )
        assert labels == [True, True]  # there is no subfeed that it could go to


async def test_the_view_of_the_document_shows_what_it_says(lab: Lab) -> None:
    async with chromium() as browser:
        folder = lab.a.home / "my_view"
        folder.mkdir()
        for block in blocks(ROOT / "docs/views.md"):
            if block.comment.startswith("file /tmp/my_view/"):
                (folder / block.comment.rpartition("/")[2]).write_text(block.text)
        with at(lab.a):
            uri = await kc.astore_npy(np.array([20.5, 21.0, 21.5]))
            view = await kc.astore_dir(folder)
            link = await kc.aview_url(view, data={"temperatures": uri}, title="Greenhouse")
        tab = await browser.tab()
        frame = await opened(tab, link)
        await frame.until("document.body.innerText.includes('3 values, the first: 20.5')")
        assert await tab.text("h1") == "Greenhouse"
        assert tab.troubles == []
