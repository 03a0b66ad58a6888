"""The pictures of the page in docs/img: a shared table on a telephone, a channel, and both views.

Real nodes, links as the documents make them, and Chromium without a window. After ./scripts/web:

    python scripts/screenshot_page.py
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import kachery_p2p as kc  # noqa: E402
from tests.daemons import Lab, at  # noqa: E402
from tests.web.browser import Browser, Tab, chromium  # noqa: E402

IMAGES = ROOT / "docs" / "img"
CHOOSE = "[1, 3, 6].forEach(n => document.querySelectorAll('tbody tr')[n].click())"


async def shot(tab: Tab, name: str) -> None:
    picture = await tab.send("Page.captureScreenshot", format="png")
    path = IMAGES / f"{name}.png"
    path.write_bytes(base64.b64decode(picture["data"]))
    print(f"{path} ({path.stat().st_size} bytes)")


async def opened(browser: Browser, link: str, width: int, height: int, phone: bool = False) -> Tab:
    tab = await browser.tab()
    size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1}
    await tab.send("Emulation.setDeviceMetricsOverride", mobile=phone, **size)
    await tab.open(link)
    await tab.status("Verified.")
    return tab


def recording() -> np.ndarray:
    """20 s of 16 channels: noise, slow waves, and spikes on some of them at once."""
    rng = np.random.default_rng(3)
    samples = 20 * 5_000
    time = np.arange(samples)[:, None] / 5_000
    phase = np.arange(16)[None, :] / 3
    values = rng.normal(size=(samples, 16)) * 4 + 30 * np.sin(2 * np.pi * 1.5 * time + phase)
    for start in rng.integers(0, samples - 40, 120):
        channel = int(rng.integers(0, 13))
        values[start : start + 20, channel : channel + 4] -= 260 * np.hanning(20)[:, None]
    return values.astype("int16")


FUNCTIONS = """
import time
from typing import Literal
import kachery_p2p as kc

@kc.taskfunction("sort_spikes.1")
def sort_spikes(
    *, recording: str, threshold: float = 5.0, detect: Literal["negative", "both"] = "negative"
):
    \"\"\"Finds spikes in a recording and puts them into units.\"\"\"
    for part in range(20):
        print(f"block {part}: {37 + 5 * part % 11} spikes")
        kc.task_progress((part + 1) / 20, f"block {part + 1} of 20")
        time.sleep(0.2)
    return {"units": 12, "spikes": 843, "threshold": threshold}

@kc.taskfunction("restart_rig.1", type="action")
def restart_rig(*, rig: int):
    \"\"\"Restarts the recording computer of a rig.\"\"\"
"""


@contextlib.contextmanager
def serving(lab: Lab, folder: Path) -> Iterator[None]:
    """Functions on offer on one of the nodes."""
    script = folder / "functions.py"
    script.write_text(FUNCTIONS)
    arguments = ["task", "backend", f"{script}:", "--channel", "lab"]
    command = [sys.executable, "-m", "kachery_p2p.cli", *arguments]
    process = subprocess.Popen(command, env=lab.b.env, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


async def channel(browser: Browser, link: str) -> None:
    """A browser joins, and has a function run."""
    tab = await browser.tab()
    size = {"width": 900, "height": 1150, "deviceScaleFactor": 1}
    await tab.send("Emulation.setDeviceMetricsOverride", mobile=False, **size)
    await tab.open(link)
    await tab.status("You have been invited.")
    await tab.run("void (document.getElementById('label').value = 'Ada at home')")
    await tab.click("Join")
    await tab.until("document.querySelectorAll('.functions > details').length === 2")
    await tab.run(
        "void [...document.querySelectorAll('.functions > details')].at(-1).setAttribute('open', '')"
    )
    await tab.run(
        "void (document.querySelector('[open] textarea').value = 'sha1://8c20…/tuesday.npy')"
    )
    await tab.run("document.querySelector('[open] form').requestSubmit()")
    await tab.until("(document.querySelector('.run .state')?.innerText ?? '').includes('60 %')")
    await tab.run("scrollTo(0, 0)")
    await shot(tab, "page-channel")


async def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(4)
    units = [
        {"unit": f"u{n}", "rate": round(float(rate), 2), "snr": round(float(snr), 2)}
        for n, (rate, snr) in enumerate(zip(rng.gamma(3, 4, 40), rng.gamma(4, 2, 40), strict=True))
    ]
    folder = Path(tempfile.mkdtemp(prefix="kp", dir="/tmp"))  # socket paths must be short
    with Lab(folder) as lab:
        with at(lab.a):
            curation = kc.create_feed("sorting").load_subfeed("curation")
            series = await kc.aview_timeseries(recording(), sampling_rate=5_000, title="Tuesday")
            table = await kc.aview_table(
                units, x="rate", y="snr", key="unit", curation=curation.uri, title="Units"
            )
            rows = "\n".join(f"{n},{20 + n % 7 / 2}" for n in range(60))
            invited = (await kc.achannel_invite("lab"))["link"]
            shared = await kc.ashare(kc.store_text(f"hour,celsius\n{rows}\n", "temperatures.csv"))
        async with chromium() as browser:
            tab = await opened(browser, series, 1200, 800)
            frame = await tab.frame()
            for button in ("+", "+"):
                await frame.click(button)
            ended = "!document.getElementById('status').textContent.includes('oading')"
            await frame.until(ended)
            await shot(tab, "view-timeseries")
            tab = await opened(browser, table, 1200, 800)
            frame = await tab.frame()
            await frame.until("document.querySelectorAll('tbody tr').length")
            await frame.run(f"void ({CHOOSE})")
            await frame.click("Save as accept")
            await frame.until("said.textContent.startsWith('Saved')")
            await shot(tab, "view-table")
            with serving(lab, folder):
                await channel(browser, invited)
            await shot(await opened(browser, shared, 390, 700, phone=True), "page-phone")


if __name__ == "__main__":
    asyncio.run(main())
