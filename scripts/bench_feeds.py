"""``scripts/bench feeds``: how fast messages are appended, read and sent, beside hypercore's.

Starts its own daemons: a proxy, a writer's node and a reader's node that links to it directly, all of
them durable; and one alone whose durability is relaxed, like hypercore's, which syncs nothing. All
programs are clients as users write them. hypercore is installed from npm, once, into ``.venv``; without
node and npm its rows are left out, and said to be. Of hypercore, storing what was fetched is counted,
reading it is not; of ours, both are.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bench_peers import Comparison, report_beside
from bench_report import Row, run, scratch, settle, take_turns

from tests.daemons import ROOT, Daemon, Lab

MESSAGES = 20_000
ONE_BY_ONE = 5_000
MANY = 1_000_000
LIVE = 200
"""Messages of a live row, of which there are at most 50 in a second."""
HYPERCORE = "11.37.1"
"""The newest whose dependencies npm could resolve when this was written."""

HEAD = """
import asyncio, json, sys, time
import kachery_p2p as kc
with open(sys.argv[1]) as file:
    messages = [json.loads(line) for line in file]
"""

APPEND = (
    HEAD
    + """
subfeed = kc.create_feed().load_subfeed("n")
subfeed.append_message("warm")
start = time.perf_counter()
for message in messages[:int(sys.argv[2])]:
    subfeed.append_message(message)
print(json.dumps(int(sys.argv[2]) / (time.perf_counter() - start)))
"""
)

BATCH = (
    HEAD
    + """
subfeed = kc.create_feed().load_subfeed("n")
start = time.perf_counter()
subfeed.append_messages(messages)
seconds = time.perf_counter() - start
print(json.dumps({"per_second": len(messages) / seconds, "uri": subfeed.uri}))
"""
)

READ = (
    HEAD
    + """
kc.get_node_id()
subfeed = kc.load_subfeed(sys.argv[2])
found = []
start = time.perf_counter()
while len(found) < len(messages):
    found += subfeed.get_next_messages(wait_msec=5_000)
seconds = time.perf_counter() - start
assert found == messages
print(json.dumps(len(messages) / seconds))
"""
)

FILL = (
    HEAD
    + """
subfeed = kc.create_feed().load_subfeed("n")
for _ in range(int(sys.argv[2]) // len(messages)):
    subfeed.append_messages(messages)
print(json.dumps(subfeed.uri))
"""
)

OPEN = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
start = time.perf_counter()
subfeed = kc.load_subfeed(sys.argv[1])
subfeed.set_position(subfeed.get_num_messages() - 1)
message = subfeed.get_next_message()
seconds = time.perf_counter() - start
assert message is not None and subfeed.position == int(sys.argv[2])
print(json.dumps(1000 * seconds))
"""

FORGET = """
import json, sys
import kachery_p2p as kc
print(json.dumps(kc.delete_feed(sys.argv[1])))
"""

MAKE = """
import json, kachery_p2p as kc
subfeed = kc.create_feed().load_subfeed("n")
subfeed.append_message({"t": 0})
print(json.dumps(subfeed.uri))
"""

LISTEN = """
import asyncio, json, sys, time
import kachery_p2p as kc
uri, readers, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
async def read(ready):
    delays = []
    async for message in kc.load_feed(uri.rpartition("/")[0]).load_subfeed("n").amessages():
        now = time.monotonic()
        if not message["t"]:
            ready.release()
            continue
        delays.append(1000 * (now - message["t"]))
        if len(delays) == wanted:
            return delays
async def main():
    ready = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(read(ready)) for _ in range(readers)]
    for _ in tasks:
        await ready.acquire()
    print("ready", flush=True)
    print(json.dumps([delay for delays in await asyncio.gather(*tasks) for delay in delays]))
asyncio.run(main())
"""

SPEAK = """
import json, sys, time
import kachery_p2p as kc
subfeed = kc.load_subfeed(sys.argv[1])
for _ in range(int(sys.argv[2])):
    time.sleep(0.02)
    subfeed.append_message({"t": time.monotonic()})
print("0")
"""


def write_messages(path: Path) -> None:
    with path.open("w") as file:
        for number in range(MESSAGES):
            message = {"n": number, "trial": f"t{number % 97}", "spikes": [number % 7, 0.25]}
            file.write(json.dumps(message, separators=(",", ":")) + "\n")


class Relaxed(Daemon):
    """A node that waits for no disk."""

    def start(self) -> Self:
        config = {
            "state_dir": str(self.home / "state" / "kachery-p2p"),
            "storage_dir": str(self.storage),
            "runtime_dir": str(self.home / "run" / "kachery-p2p"),
            "durable": False,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "kachery_p2p.node", json.dumps(config)], env=self.env
        )
        while not self._descriptor:
            time.sleep(0.02)
            assert process.poll() is None, "the node did not start"
            self._watch()
        return self


@dataclass
class Hypercore:
    """hypercore's side: a program of node's, run for the same messages."""

    modules: Path
    messages: Path
    folder: Path
    version: str

    @classmethod
    def install(cls, messages: Path, folder: Path) -> Self | None:
        """None, and says why, if it cannot be had here."""
        if not (shutil.which("node") and shutil.which("npm")):
            print("node or npm is not installed: no comparison with hypercore")
            return None
        place = ROOT / ".venv" / "hypercore"
        place.mkdir(parents=True, exist_ok=True)
        manifest = place / "node_modules" / "hypercore" / "package.json"
        if not manifest.exists():
            command = ["npm", "install", "--prefix", str(place), f"hypercore@{HYPERCORE}"]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                print(f"npm could not install hypercore: no comparison\n{done.stderr[-500:]}")
                return None
        version = json.loads(manifest.read_text())["version"]
        return cls(place / "node_modules", messages, folder, version)

    def _start(self, what: str, *more: str) -> subprocess.Popen[str]:
        place = tempfile.mkdtemp(dir=self.folder)
        program = ROOT / "scripts" / "bench_hypercore.js"
        return subprocess.Popen(
            ["node", str(program), what, str(self.messages), place, *more],
            env={**os.environ, "NODE_PATH": str(self.modules)},
            stdout=subprocess.PIPE,
            text=True,
        )

    def rate(self, what: str, *more: str) -> float:
        """Messages per second of one run."""
        out, _ = self._start(what, *more).communicate(timeout=600)
        return float(json.loads(out)["per_second"])

    def replicate(self) -> float:
        server = self._start("serve")
        assert server.stdout is not None
        try:
            told = json.loads(server.stdout.readline())
            return self.rate("fetch", str(told["port"]), told["key"])
        finally:
            server.kill()
            server.communicate()


class Bench:
    def __init__(self, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self.messages = folder / "messages.jsonl"
        write_messages(self.messages)
        self.hypercore = Hypercore.install(self.messages, folder)
        self.compared: list[Comparison] = []

    def run(self, daemon: Daemon, program: str, *arguments: Any) -> Any:
        return run(daemon, program, str(self.messages), *(str(each) for each in arguments))

    def add(self, name: str, values: list[float], unit: str, asked: str = "") -> None:
        print(Row(name, values, unit, asked), flush=True)

    def compare(self, name: str, ours: Callable[[], float], theirs: str) -> list[list[float]]:
        works = [ours]
        if self.hypercore is not None:
            core = self.hypercore
            works.append(core.replicate if theirs == "fetch" else lambda: core.rate(theirs))
        return take_turns(self.runs, *works)

    def beside(
        self, name: str, ours: Callable[[], float], theirs: str, asked: str, ratio: str = ""
    ) -> None:
        """A row of ours, one of hypercore's, and what the first is to the second."""
        mine, *others = self.compare(name, ours, theirs)
        self.add(name, mine, "/s", asked)
        if others:
            self.add(f"  hypercore: {theirs}", others[0], "/s")
            ratios = [a / b for a, b in zip(mine, others[0], strict=True)]
            self.add("  ours / hypercore", ratios, "x", ratio)
            peer = f"hypercore: {theirs}"
            self.compared.append(Comparison(name, peer, "/s", mine, others[0], asked=ratio))

    # --- rows --------------------------------------------------------------------------------

    def appending(self, durable: Daemon, relaxed: Daemon) -> None:
        [values] = take_turns(self.runs, lambda: float(self.run(durable, APPEND, ONE_BY_ONE)))
        self.add("append_message one by one, durable", values, "/s", ">= 2000 asked")
        self.beside(
            "append_message one by one, durability relaxed",
            lambda: float(self.run(relaxed, APPEND, ONE_BY_ONE)),
            "append", "", ">= 1.0 asked",
        )  # fmt: skip
        self.beside(
            f"append_messages, one batch of {MESSAGES:,}, durable",
            lambda: float(self.run(durable, BATCH)["per_second"]),
            "batch", ">= 100000 asked",
        )  # fmt: skip

    def reading(self, owner: Daemon, other: Daemon) -> None:
        uri = self.run(owner, BATCH)["uri"]
        self.beside(
            f"get_next_messages, {MESSAGES:,} local ones",
            lambda: float(self.run(owner, READ, uri)),
            "read", ">= 100000 asked",
        )  # fmt: skip

        def fetch() -> float:
            fresh = self.run(owner, BATCH)["uri"]
            settle()
            return float(self.run(other, READ, fresh))

        self.beside(
            f"{MESSAGES:,} messages to an empty node, and read there",
            fetch, "fetch", ">= 50000 asked", ">= 10 asked",
        )  # fmt: skip

    def live(self, owner: Daemon, other: Daemon, readers: int) -> None:
        medians, late = [], []
        for turn in range(self.runs + 1):
            uri = run(owner, MAKE)
            listening = subprocess.Popen(
                [sys.executable, "-c", LISTEN, uri, str(readers), str(LIVE)],
                env=other.env, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert listening.stdout is not None
            assert listening.stdout.readline() == "ready\n"
            owner.python(SPEAK, uri, str(LIVE))
            out, _ = listening.communicate(timeout=120)
            delays = json.loads(out)
            if turn:
                medians.append(statistics.median(delays))
                late.append(statistics.quantiles(delays, n=100)[98])
        who = "1 reader" if readers == 1 else f"{readers} readers"
        self.add(f"append to receipt on another node, {who}, p50", medians, "ms", "<= 3 asked")
        self.add(f"append to receipt on another node, {who}, p99", late, "ms", "<= 20 asked")

    def opening(self, owner: Daemon, other: Daemon) -> None:
        uri = self.run(owner, FILL, MANY)
        here, there = [], []
        for turn in range(self.runs + 1):
            if turn:
                run(other, FORGET, uri.rpartition("/")[0])
            owner.stop()
            owner.start()
            here.append(float(run(owner, OPEN, uri, str(MANY))))
            time.sleep(2)  # the links are there again: what counts is the feed
            there.append(float(run(other, OPEN, uri, str(MANY))))
        asked = "<= 50 asked"
        self.add(f"last of {MANY:,} messages, its node just started", here[1:], "ms", asked)
        self.add(f"last of {MANY:,} messages, on an empty node", there[1:], "ms", asked)


def main(runs: int, *, peers: bool = False) -> int:
    """``peers``: only what hypercore does as well, and into docs/benchmarks.md."""
    folder = scratch()
    try:
        bench = Bench(folder, runs)
        core = bench.hypercore
        beside = f"hypercore {core.version}, " if core is not None else ""
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {beside}", end="")
        print(f"median (min .. max) of {runs}")
        with (
            Lab(folder / "d", direct=True) as lab,
            Relaxed(folder, "relaxed") as relaxed,
        ):
            bench.appending(lab.a, relaxed)
            bench.reading(lab.a, lab.b)
            if not peers:
                bench.live(lab.a, lab.b, 1)
                bench.live(lab.a, lab.b, 50)
                bench.opening(lab.a, lab.b)
        if peers:
            missing = {} if core is not None else {"hypercore": "node or npm is not installed"}
            report_beside("feeds", runs, bench.compared, missing)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
