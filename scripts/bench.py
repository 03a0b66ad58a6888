"""``scripts/bench transfer``: how fast files move, beside the plain-web way, in one run.

Starts its own daemons (a proxy, a provider, a requester) and its own nginx on loopback, takes turns
between ours and theirs, and prints median, min and max. What counts are the ratios: absolute figures
drift with the machine. nginx and curl come from the system (``apt-get install nginx-light curl``);
without them their rows are left out, and said to be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import bench_compare
import bench_feeds
import bench_files
import bench_folders
import bench_lazy
import bench_peers
import bench_processor
import bench_queues
import bench_roundtrips
import bench_storage
import bench_swarm
import bench_tasks
import bench_web
from bench_processor import forget, random_file
from bench_programs import LOAD, LOAD_SMALL, STORE, STORE_SMALL, STORE_TEXTS
from bench_report import Row, run, scratch, settle, take_turns
from bench_roads import Far, Nginx

from tests.daemons import Daemon, Lab

MIB = 1 << 20


def peak_mb(pid: int, field: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def fetch(url: str, target: Path) -> float:
    """The plain-web way: curl | tee FILE | sha1sum, then sync FILE. Seconds."""
    command = (
        f"set -o pipefail; curl -sf {url} | tee {target} | sha1sum > /dev/null && sync {target}"
    )
    start = time.perf_counter()
    subprocess.run(["bash", "-c", command], check=True)
    seconds = time.perf_counter() - start
    target.unlink()
    return seconds


class Bench:
    def __init__(self, folder: Path, runs: int, mib: int, large_mib: int) -> None:
        self.folder, self.runs, self.mib, self.large_mib = folder, runs, mib, large_mib
        self.bytes = mib * MIB
        self.rows: list[Row] = []
        self.source = folder / "source"
        self.source.mkdir()

    def add(self, row: Row) -> Row:
        self.rows.append(row)
        print(row, flush=True)
        return row

    def rate(self, seconds: float) -> float:
        return self.bytes / seconds / 1e6

    def load_once(self, daemon: Daemon, uri: str, relayed: bool) -> float:
        result = run(daemon, LOAD, uri)
        vias = {source["via"] is not None for source in result["route"]}
        assert vias == {relayed}, result["route"]
        forget(daemon, result["path"])
        return self.rate(result["seconds"])

    def storing(self, lab: Lab) -> None:
        original = random_file(self.source / "store.dat", self.mib)
        copy = self.folder / "copy.dat"

        def ours() -> float:
            result = run(lab.a, STORE, str(original))
            sha1 = result["uri"].split("/")[2]
            blob = lab.a.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
            forget(lab.a, str(blob))
            return float(result["seconds"])

        def theirs() -> float:
            start = time.perf_counter()
            command = f"cp {original} {copy} && sha1sum {copy} > /dev/null"
            subprocess.run(["bash", "-c", command], check=True)
            seconds = time.perf_counter() - start
            copy.unlink()
            return seconds

        mine, other = take_turns(self.runs, ours, theirs)
        original.unlink()
        self.add(Row("store_file, durable", mine, "s"))
        self.add(Row("cp, then sha1sum (not synced)", other, "s"))
        ratios = [a / b for a, b in zip(mine, other, strict=True)]
        self.add(Row("store_file / (cp; sha1sum)", ratios, "x", "<= 1.0 asked"))

    def texts(self, lab: Lab) -> None:
        texts = [run(lab.a, STORE_TEXTS, f"{time.time()}")["per_second"] for _ in range(self.runs)]
        self.add(Row("store_text, sync client, durable", texts, "/s", ">= 1000 asked"))

    def moving(self, lab: Lab, relayed_lab: Lab) -> None:
        file = random_file(self.source / "big.dat", self.mib)
        uri = run(lab.a, STORE, str(file))["uri"]
        assert run(relayed_lab.a, STORE, str(file))["uri"] == uri
        settle()
        works = [
            lambda: self.load_once(lab.b, uri, relayed=False),
            lambda: self.load_once(relayed_lab.b, uri, relayed=True),
        ]
        nginx = None
        if shutil.which("nginx") and shutil.which("curl"):
            nginx = Nginx(self.folder, self.source, Far(None, 0.0))
            target = self.folder / "fetched.dat"
            url = f"{nginx.url}/big.dat"
            works.append(lambda: self.rate(fetch(url, target)))
        try:
            direct, relayed, *others = take_turns(self.runs, *works)
        finally:
            if nginx is not None:
                nginx.stop()
        file.unlink()
        self.add(
            Row("load_file, direct: encrypted, verified, synced", direct, "MB/s", ">= 350 asked")
        )
        self.add(Row("load_file, through the proxy", relayed, "MB/s"))
        ratios = [a / b for a, b in zip(relayed, direct, strict=True)]
        self.add(Row("proxy / direct", ratios, "x", ">= 0.4 asked"))
        if others:
            self.add(Row("nginx -> curl | tee | sha1sum, sync", others[0], "MB/s"))
            ratios = [a / b for a, b in zip(direct, others[0], strict=True)]
            self.add(Row("direct / nginx", ratios, "x", ">= 1.0 asked"))
        else:
            print("nginx or curl is not installed: no comparison with the plain web")

    def small(self, lab: Lab) -> None:
        rates, one, none = [], [], []
        for _ in range(self.runs):
            uris = lab.a.python(STORE_SMALL, "1051")
            settle()
            result = run(lab.b, LOAD_SMALL, stdin=uris)
            rates.append(result["per_second"])
            one.append(statistics.median(result["one_ms"]))
            none.append(max(result["none_ms"]))
        self.add(Row("1,000 files of 10 kB, asyncio.gather", rates, "/s", ">= 600 asked"))
        self.add(Row("one small remote file, p50", one, "ms", "<= 5 asked"))
        self.add(Row("a look-up that finds nothing, slowest of 50", none, "ms", "<= 100 asked"))

    def memory(self, folder: Path) -> None:
        with Lab(folder, direct=True) as lab:
            for daemon in (lab.proxy, lab.a, lab.b):
                idle = peak_mb(daemon.pid, "VmRSS")
                self.add(Row(f"idle RSS of {daemon.label}", [idle], "MB", "<= 60 asked"))
            peaks: dict[int, list[float]] = {}
            for mib in (self.mib, self.large_mib):
                file = random_file(self.source / f"{mib}.dat", mib)
                uri = run(lab.a, STORE, str(file))["uri"]
                file.unlink()
                run(lab.b, LOAD, uri)
                peaks[mib] = [peak_mb(daemon.pid, "VmHWM") for daemon in (lab.a, lab.b)]
            for mib, figures in peaks.items():
                name = f"peak RSS of provider, requester up to {mib} MiB"
                self.add(Row(name, figures, "MB", "<= 150 asked"))


OTHERS = {
    "files": bench_files.main,
    "folders": bench_folders.main,
    "lazy": bench_lazy.main,
    "processor": bench_processor.main,
    "queues": bench_queues.main,
    "roundtrips": bench_roundtrips.main,
    "storage": bench_storage.main,
    "swarm": bench_swarm.main,
    "web": bench_web.main,
}
"""Benches with options of their own."""


def main() -> int:
    what = sys.argv[1] if len(sys.argv) > 1 else ""
    if what in OTHERS:
        return OTHERS[what](sys.argv[2:])
    whats = ["transfer", "feeds", "tasks", "compare", *OTHERS]
    parser = argparse.ArgumentParser(prog="scripts/bench")
    parser.add_argument("what", choices=whats)
    parser.add_argument("revision", nargs="?", help="compare: the older tree")
    parser.add_argument("other", nargs="?", help="compare: another one instead of this tree")
    parser.add_argument("--rows", nargs="*", default=[], choices=list(bench_compare.WHAT))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file that moves")
    parser.add_argument("--large-mib", type=int, default=4096, help="size for the memory figures")
    parser.add_argument(
        "--peers", action="store_true", help="beside scp, rsync and others; into docs/benchmarks.md"
    )
    parser.add_argument("--quick", action="store_true", help="2 runs, of 256 MiB: only a look")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.mib, options.large_mib = 2, 256, 1024
    if options.what == "compare":
        if options.revision is None:
            parser.error("compare: with which revision?")
        return bench_compare.main(options.revision, options.runs, options.rows, options.other)
    if options.what == "feeds":
        return bench_feeds.main(options.runs, peers=options.peers)
    if options.what == "tasks":
        return bench_tasks.main(options.runs, peers=options.peers)
    if options.peers:
        return bench_peers.transfer(options.runs, options.mib)
    folder = scratch()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {options.mib} MiB, ", end="")
    print(f"median (min .. max) of {options.runs}")
    try:
        bench = Bench(folder, options.runs, options.mib, options.large_mib)
        with Lab(folder / "d", direct=True) as direct, Lab(folder / "r") as relayed:
            # First what makes many files: for minutes after others went, ext4 is slow at it.
            bench.texts(relayed)
            bench.small(relayed)
            bench.moving(direct, relayed)
            bench.storing(relayed)
        bench.memory(folder / "m")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
