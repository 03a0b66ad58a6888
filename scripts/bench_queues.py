"""``scripts/bench queues``: how long what is small waits behind what is large, on one link.

A provider behind a line of its own (a network namespace), a proxy, and a requester that is ``rtt`` away
from both. The requester loads three large files from the provider, directly or through the proxy;
beside them it loads small ones, one after the other, and reads a feed that the provider appends to.
What they take more than with nothing beside them is the queue. Needs root and iproute2.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_report import run, scratch

from kachery_p2p.testing.background import Background
from kachery_p2p.testing.links import Line
from tests.daemons import Daemon, free_port
from tests.netns import hosts

STORE = """
import json, os, sys
import kachery_p2p as kc
large, small = int(sys.argv[1]), int(sys.argv[2])
print(json.dumps({
    "large": [kc.store_bytes(os.urandom(large)) for _ in range(3)],
    "small": [kc.store_bytes(os.urandom(1_000)) for _ in range(small)],
    "feed": kc.create_feed().load_subfeed("n").uri,
}))
"""

APPEND = """
import sys, time
import kachery_p2p as kc
subfeed = kc.load_subfeed(sys.argv[1])
end = time.time() + float(sys.argv[2])
while time.time() < end:
    subfeed.append_message({"at": time.time()})
    time.sleep(0.1)
"""

LOAD = """
import asyncio, json, sys, time
import kachery_p2p as kc
job = json.load(sys.stdin)
done = {}
small, feed = [], []

async def messages():
    subfeed = await kc.aload_subfeed(job["feed"])
    subfeed.set_position(await subfeed.aget_num_messages())
    await subfeed.aget_next_messages(wait_msec=5_000)
    while True:
        for message in await subfeed.aget_next_messages(wait_msec=5_000):
            feed.append(1000 * (time.time() - message["at"]))

async def files(uris):
    for uri in uris:
        start = time.perf_counter()
        assert len(await kc.aload_bytes(uri)) == 1_000
        small.append(1000 * (time.perf_counter() - start))
        await asyncio.sleep(0.05)

async def phase(uris, seconds):
    tasks = [asyncio.create_task(messages()), asyncio.create_task(files(uris))]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        if task.done():
            task.result()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = {"small": small[:], "feed": feed[:]}
    small.clear()
    feed.clear()
    return found

async def main():
    half = len(job["small"]) // 2
    await kc.aload_bytes(job["small"].pop())
    idle = await phase(job["small"][:half], job["idle"])
    begun = asyncio.Event()
    def tell(uri):
        def hear(info):
            done[uri] = sum(source["bytes"] for source in info["sources"])
            if done[uri] and len(done) == len(job["large"]):
                begun.set()
        return hear
    loads = [asyncio.create_task(kc.aload_file(uri, progress=tell(uri))) for uri in job["large"]]
    await begun.wait()
    await asyncio.sleep(1.0)
    before, start = sum(done.values()), time.perf_counter()
    busy = await phase(job["small"][half:], job["seconds"])
    rate = (sum(done.values()) - before) / (time.perf_counter() - start) / 1e6
    finished = all(load.done() for load in loads)
    for load in loads:
        load.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    print(json.dumps({"idle": idle, "busy": busy, "rate": rate, "finished": finished}))

asyncio.run(main())
"""


@dataclass(frozen=True)
class Case:
    mbit: int
    rtt: float
    direct: bool

    @property
    def name(self) -> str:
        return f"{self.mbit} Mbit/s, {self.rtt:g} ms, {'direct' if self.direct else 'relayed'}"


class Bench:
    def __init__(self, folder: Path, case: Case, seconds: float) -> None:
        self.folder, self.case, self.seconds = folder, case, seconds

    @contextlib.contextmanager
    def running(self) -> Iterator[tuple[Daemon, Daemon]]:
        """The provider and the requester."""
        case = self.case
        with contextlib.ExitStack() as stack:
            line = stack.enter_context(hosts.line(0, f"{case.mbit}mbit"))
            background = Background("far")
            stack.callback(background.close)
            far = Line()
            background.run(far.start())
            stack.callback(lambda: background.run(far.close()))
            port = free_port()
            self.folder.mkdir()
            proxy = Daemon(self.folder, "proxy", listen=f"0.0.0.0:{port}", proxy=True)
            listen = f"{line.address}:{free_port()}" if case.direct else None
            provider = Daemon(self.folder, "provider", netns=line.name, listen=listen)
            requester = Daemon(self.folder, "requester")
            if case.rtt:
                requester.env["ws_proxy"] = far.url
            for daemon in (proxy, provider, requester):
                stack.enter_context(daemon)
            # By an address that is not this computer's loopback, which goes past HTTP proxies.
            urls = [f"ws://{line.gateway}:{port}#{proxy.node_id}"]
            bootstraps = (part for url in urls for part in ("--bootstrap", url))
            provider.cli("channel", "create", "lab", *bootstraps)
            provider.cli("channel", "add-node", "lab", requester.node_id, "--label", "requester")
            text = provider.cli("channel", "export", "lab").stdout
            proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
            requester.cli("channel", "join", "-", stdin=text)
            far.slow(None, case.rtt / 2000)
            yield provider, requester

    def measure(self) -> dict[str, Any]:
        with self.running() as (provider, requester):
            large = int(min(self.case.mbit * 125_000 * (self.seconds + 6) / 3, 300_000_000))
            stored = run(provider, STORE, str(large), "201")
            while not json.loads(
                requester.cli("find", stored["small"][-1], "--json", check=False).stdout
            )["holders"]:
                pass
            idle = 3.0
            append = subprocess.Popen(
                [sys.executable, "-c", APPEND, stored["feed"], str(idle + self.seconds + 30)],
                env=provider.env,
            )
            try:
                job = {**stored, "idle": idle, "seconds": self.seconds}
                found: dict[str, Any] = run(requester, LOAD, stdin=json.dumps(job))
            finally:
                append.kill()
                append.wait()
            return found


def _high(figures: list[float]) -> float:
    return sorted(figures)[max(0, round(0.95 * len(figures)) - 1)]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench queues")
    parser.add_argument("--mbit", type=int, nargs="*", default=[10, 100, 880])
    parser.add_argument("--rtt", type=float, nargs="*", default=[0.0, 50.0], help="milliseconds")
    parser.add_argument("--routes", nargs="*", default=["direct", "relayed"])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each case")
    options = parser.parse_args(arguments)
    reason = hosts.why_not()
    if reason is not None:
        print(f"scripts/bench queues {reason}: nothing is measured")
        return 0
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; ms: median, 95 %")
    print(f"{'':34} {'small file: idle':>16} {'beside 3 loads':>16} {'feed: idle':>16}", end="")
    print(f"{'beside 3 loads':>16} {'MB/s':>7}")
    folder = scratch()
    try:
        for mbit in options.mbit:
            for rtt in options.rtt:
                for route in options.routes:
                    case = Case(mbit, rtt, route == "direct")
                    found = Bench(folder / f"{mbit}{rtt:g}{route[0]}", case, options.seconds)
                    print(_row(case, found.measure()), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _row(case: Case, found: dict[str, Any]) -> str:
    cells = [
        f"{statistics.median(found[phase][what]):7.1f} {_high(found[phase][what]):8.1f}"
        if found[phase][what]
        else f"{'none came':>16}"
        for what in ("small", "feed")
        for phase in ("idle", "busy")
    ]
    over = " (it ended)" if found["finished"] else ""
    return f"{case.name:34} " + " ".join(cells) + f" {found['rate']:7.2f}{over}"
