"""The progress of loads in a notebook, laid out by a real browser with the styles of notebooks."""

from __future__ import annotations

import itertools
import shutil
from typing import Any
from urllib.parse import quote

import pytest

from kachery_p2p.client.display.progress_bars import html
from kachery_p2p.client.display.progress_rows import Row
from tests.web.browser import chromium

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")

STYLES = {
    "JupyterLab": "table{table-layout:fixed;margin:auto;border-collapse:collapse;font-size:12px}"
    "td{text-align:right;padding:.5em;white-space:normal;max-width:none}",
    "none": "",
}
MEASURE = """
[...document.querySelectorAll('tr')].map(row => [...row.children].map(cell => ({
    width: cell.clientWidth, whole: cell.scrollWidth <= cell.clientWidth, text: cell.innerText,
    end: cell.getBoundingClientRect().right,
})))
"""


def rows(name: str) -> list[Row]:
    shared: dict[str, Any] = {"total": 60_000_000, "left": "0:05", "sources": "2 sources"}
    return [
        Row(None, "1 of 3 files done", 24_000_000, rate="12.0 MB/s", **shared),
        Row(None, name, 12_345_678, rate="stalled 0:12", stalled=True, **shared),
    ]


async def test_all_that_is_said_can_be_read_at_any_width() -> None:
    shown = html(rows("loading " + "recording-of-a-long-name-" * 4 + ".dat"))
    async with chromium(page=False) as browser:
        tab = await browser.tab()
        for (style, css), width in itertools.product(STYLES.items(), (550, 740, 1100)):
            page = (
                f"<!doctype html><style>{css}</style><body style='margin:0;width:{width}px'>{shown}"
            )
            await tab.open(f"data:text/html,{quote(page + f'<i>{style} {width}</i>')}")
            await tab.until(f"document.querySelector('i')?.innerText === '{style} {width}'")
            for name, bar, *numbers in await tab.run(MEASURE):
                assert name["width"] > 60
                assert bar["width"] > 40
                assert all(cell["whole"] for cell in numbers), numbers
                assert numbers[-1]["end"] <= width + 1
