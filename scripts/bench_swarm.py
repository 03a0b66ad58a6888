"""``scripts/bench swarm``: one file from many sources, each of which is a host with a line of its own.

The hosts are network namespaces, so this needs root and iproute2; without them it says so, and measures
nothing. Seconds, and what the lines carried, are what counts.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_programs import STORE
from bench_report import Row, run, scratch

from tests.daemons import Daemon, free_port
from tests.netns import hosts

FAST = "80mbit"
"""10 MB/s."""
STORE_AFTER = 1.5
"""Seconds into a download when another source comes to have the file."""

LOAD = """
import json, sys, time
import kachery_p2p as kc
kc.get_node_id()
history = []
def tell(info):
    by = {source["label"]: source["bytes"] for source in info["sources"]}
    history.append((time.time(), info["done"], by))
    print(info["done"], flush=True, file=sys.stderr)
start = time.time()
path = kc.load_file(sys.argv[1], progress=tell)
print(json.dumps({"start": start, "seconds": time.time() - start, "path": path, "history": history}))
"""


class Load:
    """A load that runs beside what this program does."""

    def __init__(self, daemon: Daemon, uri: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", LOAD, uri],
            env=daemon.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def result(self) -> dict[str, Any]:
        out, _ = self.process.communicate(timeout=600)
        found: dict[str, Any] = json.loads(out)
        for file in Path(found["path"]).parent.glob(Path(found["path"]).name + "*"):
            file.unlink()
        return found


def gap(result: dict[str, Any]) -> float:
    """The longest time in which nothing came, but for the end, when the whole is hashed."""
    times = [result["start"]]
    done = 0
    for when, bytes_done, _ in result["history"]:
        if bytes_done > done:
            times.append(when)
            done = bytes_done
    return max(b - a for a, b in itertools.pairwise(times))


def first_from(result: dict[str, Any], label: str) -> float:
    """When the first bytes of a source had come."""
    return next((when for when, _, by in result["history"] if by.get(label)), float("inf"))


class Swarm:
    """A proxy, sources behind lines, and requesters here, on one channel."""

    def __init__(self, folder: Path, rates: list[str], requesters: int) -> None:
        self.folder, self.rates, self.count = folder, rates, requesters
        self.sources: list[Daemon] = []
        self.requesters: list[Daemon] = []
        self.lines: list[hosts.Line] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[Swarm]:
        with contextlib.ExitStack() as stack:
            port = free_port()
            self.folder.mkdir()
            proxy = Daemon(self.folder, "proxy", listen=f"0.0.0.0:{port}", proxy=True)
            for number, rate in enumerate(self.rates):
                line = stack.enter_context(hosts.line(number, rate))
                self.lines.append(line)
                listen = f"{line.address}:{free_port()}"
                self.sources.append(
                    Daemon(self.folder, f"s{number}", netns=line.name, listen=listen)
                )
            for number in range(self.count):
                listen = f"127.0.0.1:{free_port()}"
                self.requesters.append(Daemon(self.folder, f"r{number}", listen=listen))
            for daemon in (proxy, *self.sources, *self.requesters):
                stack.enter_context(daemon)
            ways = ["127.0.0.1", *(line.gateway for line in self.lines)]
            urls = [f"ws://{way}:{port}#{proxy.node_id}" for way in ways]
            owner = self.requesters[0]
            bootstraps = (part for url in urls for part in ("--bootstrap", url))
            owner.cli("channel", "create", "lab", *bootstraps)
            others = [*self.sources, *self.requesters[1:]]
            for daemon in others:
                owner.cli("channel", "add-node", "lab", daemon.node_id, "--label", daemon.label)
            text = owner.cli("channel", "export", "lab").stdout
            proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
            for daemon in others:
                daemon.cli("channel", "join", "-", stdin=text)
            yield self

    def store(self, path: Path, sources: list[Daemon]) -> str:
        """Have these sources store a file, and the requesters hear of it."""
        for source in sources:
            uri = str(run(source, STORE, str(path))["uri"])
        while True:
            found = json.loads(self.requesters[0].cli("find", uri, "--json", check=False).stdout)
            if len(found.get("holders", ())) == len(sources):
                return uri

    def load(self, uri: str) -> dict[str, Any]:
        return Load(self.requesters[0], uri).result()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench swarm")
    parser.add_argument("--mb", type=int, default=400, help="size of the file, in 10^6 bytes")
    rows = {"four": four, "slow": slow, "newcomer": newcomer, "requesters": requesters}
    parser.add_argument("--rows", nargs="*", default=list(rows), choices=list(rows))
    options = parser.parse_args(arguments)
    reason = hosts.why_not()
    if reason is not None:
        print(f"scripts/bench swarm {reason}: nothing is measured")
        return 0
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load {load:.1f} before, {options.mb} MB, sources of 10 MB/s")
    folder = scratch()
    try:
        file = random_file(folder / "file", options.mb * 1_000_000)
        for name in options.rows:
            rows[name](folder, file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def random_file(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def four(folder: Path, file: Path) -> None:
    with Swarm(folder / "four", [FAST] * 4, 1).running() as swarm:
        uri = swarm.store(file, swarm.sources)
        load_and_say("four", swarm, uri, file)
        silent_one(swarm, uri)


def slow(folder: Path, file: Path) -> None:
    for rate, name in (("800kbit", "100 kB/s"), ("8mbit", "1 MB/s")):
        with Swarm(folder / rate, [FAST] * 4 + [rate], 1).running() as swarm:
            uri = swarm.store(file, swarm.sources)
            load_and_say(f"four, and a fifth of {name}", swarm, uri, file)


def load_and_say(name: str, swarm: Swarm, uri: str, file: Path) -> None:
    mb = file.stat().st_size / 1e6
    seconds = swarm.load(uri)["seconds"]
    asked = f"<= {mb / 40 * 1.05:.1f} asked"
    print(Row(name, [seconds], f"s, {mb / seconds:.1f} MB/s", asked), flush=True)


def silent_one(swarm: Swarm, uri: str) -> None:
    """A source stops in the middle of it, without a word."""
    victim = swarm.sources[2]
    timer = threading.Timer(1.0, os.kill, (victim.pid, signal.SIGSTOP))
    timer.start()
    try:
        result = swarm.load(uri)
    finally:
        timer.join()
        os.kill(victim.pid, signal.SIGCONT)
    print(Row("one falls silent after 1 s: longest gap", [gap(result)], "s", "<= 2 asked"))
    print(Row("... and all of it", [result["seconds"]], "s"), flush=True)


def newcomer(folder: Path, file: Path) -> None:
    with Swarm(folder / "newcomer", [FAST] * 2, 1).running() as swarm:
        uri = swarm.store(file, swarm.sources[:1])
        stored = threading.Event()

        def store() -> None:
            run(swarm.sources[1], STORE, str(file))
            stored.set()

        timer = threading.Timer(STORE_AFTER, store)
        timer.start()
        loading = Load(swarm.requesters[0], uri)
        stored.wait()
        when = time.time()
        result = loading.result()
        took = first_from(result, "s1") - when
        print(Row("another one comes to have it: until it gives", [took], "s", "<= 1 asked"))
        print(Row("... and all of it", [result["seconds"]], "s"), flush=True)


def requesters(folder: Path, file: Path) -> None:
    with Swarm(folder / "many", [FAST], 3).running() as swarm:
        uri = swarm.store(file, swarm.sources)
        alone = swarm.load(uri)["seconds"]
        print(Row("one requester of one source", [alone], "s"), flush=True)
        before = swarm.lines[0].sent
        loads = [Load(each, uri) for each in swarm.requesters]
        results = [each.result() for each in loads]
        seconds = [result["seconds"] for result in results]
        ratio = [each / alone for each in seconds]
        print(Row("three requesters / one", ratio, "x", "<= 1.4 asked"))
        sent = (swarm.lines[0].sent - before) / file.stat().st_size
        print(Row("the source sends, of the file", [100 * sent], "%", "<= 130 asked"), flush=True)
