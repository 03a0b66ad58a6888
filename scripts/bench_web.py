"""``scripts/bench web``: the page in a real Chromium, beside ``kachery-p2p`` on the same proxy.

A link opens through the proxy, end to end encrypted, and what comes is verified: a file of ``--mib``
MiB into the page (and nowhere else), the same into a file of the browser, and beside it by
``kc.load_file``, in turns. Then a small thing until it is on the screen, a view over a recording of
``--recording`` MB whose packets come ``--rtt`` / 2 late each way, and what the page holds in memory
while as much is saved.

What counts are the ratios: the browser and all nodes share the machine's processors.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from bench_programs import LOAD
from bench_report import Row, run, scratch, settle

import kachery_p2p as kc
from tests.daemons import Lab, at, free_port
from tests.web.browser import Browser, Tab, chromium

MIB = 1 << 20
NOWHERE = """window.showSaveFilePicker = async () => ({createWritable: async () => ({
    write: async () => undefined, close: async () => undefined, abort: async () => undefined})})"""
"""What is saved is verified, and thrown away."""
OWN_FILE = """window.showSaveFilePicker = async () =>
    (await navigator.storage.getDirectory()).getFileHandle('bench', {create: true})"""
"""What is saved goes to a file of the browser's own."""
WATCH = """addEventListener('DOMContentLoaded', () => new MutationObserver(() => {
    if (document.getElementById('status').textContent === 'Verified.')
        window.shownAt ??= performance.now()
}).observe(document.body, {subtree: true, childList: true, characterData: true}))"""


class Slow:
    """Passes bytes on, both ways, after a delay. ``down``: bytes to the browser so far."""

    def __init__(self, port: int, target: tuple[str, int], seconds: float) -> None:
        self.port, self._target, self._seconds = port, target, seconds
        self.down = 0

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=MIB)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(*self._target, limit=MIB)
        await asyncio.gather(
            self._pass(reader, onward, count=False), self._pass(there, writer, count=True)
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, count: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(MIB):
                if count:
                    self.down += len(data)
                loop.call_later(self._seconds, self._write, writer, data)
        loop.call_later(self._seconds + 0.001, writer.close)

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not writer.is_closing():
            writer.write(data)


def random_file(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return path


def forget(path: str) -> None:
    """Remove what was loaded, so that it is fetched again."""
    for file in Path(path).parent.glob(Path(path).name + "*"):
        file.unlink()


def renderers() -> list[int]:
    """The processes of pages, of whatever browser runs here now."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if b"--type=renderer" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def rss_mb(pids: list[int]) -> float:
    """Of the largest one."""
    sizes = [0.0]
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    sizes.append(int(line.split()[1]) / 1024)
    return max(sizes)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def processor_seconds(pids: list[int]) -> float:
    """Used so far by all of them, those included that ended and were waited for."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


async def saved(tab: Tab, size: int, sample: Callable[[], None] | None = None) -> float:
    """Click on Save, and wait until all is verified: MB/s."""
    start = time.perf_counter()
    await tab.click("Save")
    while "Saved;" not in await tab.text("#status"):
        if sample is not None:
            sample()
        assert time.perf_counter() - start < 600, await tab.text("body")
        await asyncio.sleep(0.05)
    return size / (time.perf_counter() - start) / 1e6


@contextlib.asynccontextmanager
async def opened(browser: Browser, link: str, before: str) -> AsyncIterator[Tab]:
    tab = await browser.tab(before=before)
    await tab.send("Network.disable")  # or each frame comes here, too, as text
    await tab.open(link)
    await tab.status("Verified.")
    try:
        yield tab
    finally:
        await tab.send("Page.close")


class Bench:
    def __init__(self, lab: Lab, folder: Path, options: argparse.Namespace, slow: Slow) -> None:
        self.lab, self.folder, self.options, self.slow = lab, folder, options, slow

    def through_slow(self, link: str) -> str:
        parts = urlsplit(link)
        return urlunsplit(parts._replace(netloc=f"127.0.0.1:{self.slow.port}"))

    async def transfer(self) -> None:
        size = self.options.mib * MIB
        path = random_file(self.folder / "big.dat", self.options.mib)
        with at(self.lab.a):
            uri = await kc.astore_file(path)
            link = await kc.ashare(uri)
        path.unlink()
        figures: dict[str, list[float]] = {"page": [], "file": [], "load": []}
        used: dict[str, list[float]] = {"page": [], "file": [], "load": []}

        def processor() -> float:
            """Of everybody who takes part: nodes, and the browser and clients below this program."""
            daemons = [self.lab.a.pid, self.lab.b.pid, self.lab.proxy.pid]
            mine = [pid for pid in family(os.getpid()) if pid not in daemons]
            return processor_seconds([*daemons, *mine])

        def load() -> float:
            result = run(self.lab.b, LOAD, uri)
            forget(result["path"])
            return size / result["seconds"] / 1e6

        async with chromium() as browser:
            for turn in range(self.options.runs + 1):
                for name, before in (("page", NOWHERE), ("file", OWN_FILE)):
                    settle()
                    async with opened(browser, link, before) as tab:
                        began = processor()
                        rate = await saved(tab, size)
                        spent = processor() - began
                    figures[name] += [rate] if turn else []
                    used[name] += [spent * 1e9 / size] if turn else []
                settle()
                began = processor()
                rate = await asyncio.to_thread(load)
                figures["load"] += [rate] if turn else []
                used["load"] += [(processor() - began) * 1e9 / size] if turn else []
        print(Row("into the page, verified", figures["page"], "MB/s", ">= 120 asked"))
        print(Row("into a file of the browser, verified", figures["file"], "MB/s"))
        print(Row("kachery-p2p load, through the same proxy", figures["load"], "MB/s"))
        ratios = [a / b for a, b in zip(figures["page"], figures["load"], strict=True)]
        print(Row("page / kachery-p2p load", ratios, "x", ">= 0.8 asked"), flush=True)
        for name in ("page", "file", "load"):
            what = f"processor time of all nodes and programs, {name}"
            print(Row(what, used[name], "s/GB"), flush=True)

    async def small(self) -> None:
        figures = []
        with at(self.lab.a):
            links = [
                await kc.ashare(await kc.astore_text(f"text {n}", "a.txt"))
                for n in range(self.options.runs * 2 + 1)
            ]
        await asyncio.sleep(1)
        async with chromium() as browser:
            for link in links:
                async with opened(browser, link, WATCH) as tab:
                    figures.append(float(await tab.run("window.shownAt")))
        print(
            Row("a small text on the screen after the click", figures[1:], "ms", "<= 300 asked"),
            flush=True,
        )

    async def recording(self) -> None:
        channels = 16
        samples = self.options.recording * 1_000_000 // (2 * channels)
        path = self.folder / "recording.npy"
        rng = np.random.default_rng(1)
        block = (rng.standard_normal((1_000_000, channels)) * 50).astype("int16")
        array = np.lib.format.open_memmap(path, mode="w+", dtype="int16", shape=(samples, channels))
        for start in range(0, samples, len(block)):
            stop = min(samples, start + len(block))
            array[start:stop] = np.roll(block, start % 997, axis=0)[: stop - start]
        del array, block
        began = time.perf_counter()
        with at(self.lab.a):
            uri = await kc.astore_file(path)
            link = await kc.aview_timeseries(uri, sampling_rate=30_000)
            print(
                f"stored, and its levels made, in {time.perf_counter() - began:.0f} s", flush=True
            )
            large = await kc.ashare(uri)
        path.unlink()
        settle()
        await self._zoom(link)
        await self._memory(large, self.options.recording * 1_000_000)

    async def _zoom(self, link: str) -> None:
        times: list[float] = []
        moved: list[float] = []
        async with chromium("--window-size=1200,900") as browser:
            tab = await browser.tab()
            await tab.send("Network.disable")
            before = self.slow.down
            start = time.perf_counter()
            await tab.open(self.through_slow(link))
            await tab.status("Verified.")
            frame = await tab.frame()
            done = "!document.getElementById('status').textContent.includes('oading')"
            await frame.until(done)
            print(
                f"the view of {self.options.recording} MB is there after "
                f"{time.perf_counter() - start:.2f} s, with {(self.slow.down - before) / 1e6:.2f} MB",
                flush=True,
            )
            watch = """(name => new Promise(resolve => {
                const status = document.getElementById('status');
                const started = performance.now();
                const all = [...document.querySelectorAll('button')];
                all.find(button => button.textContent === name).click();
                const look = () => requestAnimationFrame(() => status.textContent.includes('oading')
                    || performance.now() - started < 20
                        ? look() : resolve(performance.now() - started));
                look(); }))"""
            for _ in range(12):
                before = self.slow.down
                times.append(await frame.run(f"{watch}('+')") / 1000)
                moved.append((self.slow.down - before) / 1e6)
                await asyncio.sleep(0.3)
        print(Row(f"a zoom, drawn, at {self.options.rtt:g} ms", times, "s", "<= 0.5 asked"))
        print(Row("bytes that it moved", moved, "MB", "<= 5 asked"), flush=True)

    async def _memory(self, link: str, size: int) -> None:
        async with chromium() as browser, opened(browser, link, OWN_FILE) as tab:
            samples: list[tuple[float, float]] = []
            pids = renderers()

            def sample() -> None:
                samples.append((time.perf_counter(), rss_mb(pids)))

            before = rss_mb(pids)
            rate = await saved(tab, size, sample)
            heap = await tab.run("performance.memory?.usedJSHeapSize ?? 0")
        figures = [each for _, each in samples]
        quarter = len(figures) // 4
        print(
            f"saved {size / 1e6:.0f} MB at {rate:.0f} MB/s; its process: {before:.0f} MB before, "
            f"{max(figures[:quarter] or [0]):.0f} MB at most in the first quarter, "
            f"{max(figures[-quarter:] or [0]):.0f} MB in the last; "
            f"JavaScript's own {heap / 1e6:.0f} MB at the end",
            flush=True,
        )


async def measure(options: argparse.Namespace) -> None:
    folder = scratch()
    try:
        with contextlib.ExitStack() as stack:
            lab = Lab(folder / "lab")
            slow_port = free_port()
            lab.proxy.options["public_url"] = f"ws://127.0.0.1:{slow_port}"
            stack.enter_context(lab)
            host, port = str(lab.proxy.options["listen"]).split(":")
            slow = Slow(slow_port, (host, int(port)), options.rtt / 2000)
            server = await slow.start()
            bench = Bench(lab, folder, options, slow)
            for row in options.rows:
                await getattr(bench, row)()
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench web")
    parser.add_argument("--mib", type=int, default=300)
    parser.add_argument("--recording", type=int, default=2_000, help="MB")
    parser.add_argument("--rtt", type=float, default=50.0, help="milliseconds, of the view")
    parser.add_argument("--runs", type=int, default=5)
    rows = ["small", "transfer", "recording"]
    parser.add_argument("--rows", nargs="*", default=rows, choices=rows)
    options = parser.parse_args(arguments)
    load = statistics.fmean(os.getloadavg())
    print(f"{os.cpu_count()} cores, load {load:.1f}, median (min .. max) of {options.runs}")
    asyncio.run(measure(options))
    return 0
