"""Tasks: a function that does nothing, requested from another node through the proxy.

Beside it dask.distributed, with as many processes and as many tasks in flight, on this machine; it has
no second node, no encryption, and nothing that decides who may run what.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_peers import Comparison, report_beside
from bench_report import Row, run, scratch, settle

from tests.daemons import Daemon, Lab

ONE_BY_ONE = 300
TOGETHER = 2_000
IN_FLIGHT = 100

BACKEND = """
import kachery_p2p as kc

@kc.taskfunction("noop.1", type="query")
def noop(*, n):
    return n

@kc.taskfunction("noop.2", type="pure-calculation")
def pure(*, n):
    return n

@kc.taskfunction("noop.3", type="action")
def action(*, n):
    return n

kc.run_task_backend(["lab"], slots=2)
"""

REQUEST = """
import asyncio, json, sys, time
import kachery_p2p as kc
one_by_one, together, in_flight = map(int, sys.argv[1:])

def timed(function, type, n):
    start = time.perf_counter()
    request = kc.request_task(function, {"n": n}, type, channel="lab")
    assert request.wait(30) == n
    return 1000 * (time.perf_counter() - start)

async def rate():
    numbers = iter(range(together))
    async def worker():
        for n in numbers:
            request = await kc.arequest_task("noop.1", {"n": n}, "query", channel="lab")
            assert await request == n
    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return together / (time.perf_counter() - start)

timed("noop.1", "query", -1)
timed("noop.2", "pure-calculation", -1)
print(json.dumps({
    "one_ms": [timed("noop.1", "query", n) for n in range(one_by_one)],
    "cached_ms": [timed("noop.2", "pure-calculation", -1) for _ in range(one_by_one)],
    "per_second": asyncio.run(rate()),
}))
"""

DASK = """
import json, sys, time
from dask.distributed import Client, LocalCluster, as_completed

def noop(n):
    return n

def main():
    one_by_one, together, in_flight = map(int, sys.argv[1:])
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, \\
            Client(cluster) as client:
        def timed(n):
            start = time.perf_counter()
            assert client.submit(noop, n, pure=False).result() == n
            return 1000 * (time.perf_counter() - start)
        timed(-1)
        ones = [timed(n) for n in range(one_by_one)]
        numbers = iter(range(together))
        start = time.perf_counter()
        first = [client.submit(noop, next(numbers), pure=False) for _ in range(in_flight)]
        running = as_completed(first, with_results=True)
        for done, _ in running:
            n = next(numbers, None)
            if n is not None:
                running.add(client.submit(noop, n, pure=False))
        rate = together / (time.perf_counter() - start)
    print(json.dumps({"one_ms": ones, "per_second": rate}))

if __name__ == "__main__":
    main()
"""


@contextlib.contextmanager
def serving(daemon: Daemon, folder: Path) -> Iterator[None]:
    """A backend on a node, as a script of its user."""
    script = folder / "backend.py"
    script.write_text(BACKEND)
    process = subprocess.Popen([sys.executable, str(script)], env=daemon.env)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def dask(folder: Path, *arguments: str) -> Any:
    script = folder / "with_dask.py"
    script.write_text(DASK)
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    return json.loads(done.stdout)


def main(runs: int, *, peers: bool = False) -> int:
    """``peers``: what dask does as well goes into docs/benchmarks.md."""
    folder = scratch()
    counts = [str(count) for count in (ONE_BY_ONE, TOGETHER, IN_FLIGHT)]
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, ", end="")
    print(f"median (min .. max) of {runs}; every p50 is of {ONE_BY_ONE}")
    ours: list[Any] = []
    theirs: list[Any] = []
    try:
        with Lab(folder / "d") as lab, serving(lab.a, folder):
            for turn in range(runs + 1):
                settle()
                figures = run(lab.b, REQUEST, *counts)
                settle()
                others = dask(folder, *counts)
                if turn:
                    ours.append(figures)
                    theirs.append(others)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

    def p50(turns: list[Any], name: str) -> list[float]:
        return [statistics.median(turn[name]) for turn in turns]

    def rates(turns: list[Any]) -> list[float]:
        return [turn["per_second"] for turn in turns]

    in_flight = f"no-op tasks, {IN_FLIGHT} in flight"
    for row in (
        Row(
            "no-op from another node, there and back, p50", p50(ours, "one_ms"), "ms", "<= 5 asked"
        ),
        Row("the same with dask.distributed on this machine, p50", p50(theirs, "one_ms"), "ms"),
        Row("a result that is cached here, p50", p50(ours, "cached_ms"), "ms", "<= 1 asked"),
        Row(f"{in_flight}, one requester", rates(ours), "/s", ">= 500 asked"),
        Row(f"{in_flight}, dask.distributed", rates(theirs), "/s"),
    ):
        print(row)
    if peers:
        once, rate = "no-op task, there and back, p50", f"no-op tasks, {IN_FLIGHT} in flight"
        rows = [
            Comparison(once, "dask", "ms", p50(ours, "one_ms"), p50(theirs, "one_ms"), less=True),
            Comparison(rate, "dask", "/s", rates(ours), rates(theirs)),
        ]
        report_beside("tasks", runs, rows, {})
    return 0
