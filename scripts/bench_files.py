"""Reading parts of a file that another node has, over a road with a round trip of ``--rtt`` ms, beside
what else reads parts: fsspec's http and remfile against nginx, over the same road.

Readers take turns, each with ranges that nobody has read before.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench_programs import STORE
from bench_report import Row, processor_seconds, run, scratch
from bench_roads import Pair, far, nginx

import kachery_p2p as kc
from tests.daemons import Daemon, announced, at

MIB = 1 << 20
KIB4 = 4096
IN_A_ROW = 64 * MIB


class Reader:
    """One way to read: opened anew for each figure, so that nothing is remembered."""

    def __init__(self, name: str, open_file: Callable[[], Any]) -> None:
        self.name, self.open = name, open_file


def read_at(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    return bytes(file.read(size))


def random_reads(reader: Reader, places: Iterator[int], count: int) -> list[float]:
    """Seconds of each read of 4 KiB at a place of chance."""
    seconds = []
    with reader.open() as file:
        read_at(file, 0, 10)
        for _ in range(count):
            start = next(places)
            began = time.perf_counter()
            read_at(file, start, KIB4)
            seconds.append(time.perf_counter() - began)
    return seconds


def in_a_row(reader: Reader, start: int, count: int) -> float:
    """MB per second of reads of 64 KiB one after another."""
    with reader.open() as file:
        read_at(file, 0, 10)
        file.seek(start)
        began = time.perf_counter()
        left = count
        while left > 0:
            left -= len(file.read(65_536))
        return count / 1e6 / (time.perf_counter() - began)


def one_stream(url: str, start: int, count: int) -> float:
    """MB per second of one TCP connection, with nothing done to what comes."""
    stop = start + count - 1
    command = ["curl", "-sf", "-r", f"{start}-{stop}", "-o", "/dev/null", "-w", "%{speed_download}"]
    done = subprocess.run([*command, url], check=True, capture_output=True, text=True)
    return float(done.stdout) / 1e6


def others(url: str) -> list[Reader]:
    """What else there is here; what is not installed is said."""
    found = []
    try:
        import aiohttp  # noqa: F401
        import fsspec

        fs = fsspec.filesystem("http", skip_instance_cache=True)
        found.append(Reader("fsspec http, nginx", lambda: fs.open(url)))
    except ImportError as error:
        print(f"(no fsspec http: {error})")
    try:
        import remfile

        class File(remfile.File):  # type: ignore[misc]
            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                self.close()

        found.append(Reader("remfile, nginx", lambda: File(url)))
    except ImportError as error:
        print(f"(no remfile: {error})")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench files")
    parser.add_argument("--rtt", type=float, default=50.0, help="milliseconds of a round trip")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--reads", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args(arguments)
    rtt = options.rtt / 1000
    folder = scratch()
    try:
        (folder / "web").mkdir()
        source = random_file(folder / "web" / "file", options.mib)
        with far(rtt) as there, Pair(folder / "lab", there) as pair:
            print(
                f"{os.cpu_count()} cores, {options.mib} MiB, round trip {options.rtt:g} ms "
                f"({there.kind}), median (min .. max)",
                flush=True,
            )
            uri = run(pair.a, STORE, str(source))["uri"]
            with at(pair.b):
                announced(uri)
                web = nginx(folder, folder / "web", there)
                try:
                    measure(options, uri, None if web is None else f"{web.url}/file", pair)
                finally:
                    if web is not None:
                        web.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def random_file(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return path


def measure(options: argparse.Namespace, uri: str, url: str | None, pair: Pair) -> None:
    rtt, size = options.rtt / 1000, options.mib * MIB
    ours = Reader("kc.open", lambda: kc.open(uri))
    readers = [ours, *(others(url) if url is not None else [])]
    # The first half is read at random places, the second in a row.
    places = iter(random.Random(7).sample(range(0, size // 2, 65_536), size // 2 // 65_536))
    scattered(readers, places, rtt, options)
    processor(ours, places, pair.b, options.reads)
    only_ours(uri, places, rtt, options.runs)
    streams(readers, url, size // 2, options.runs)


def scattered(
    readers: list[Reader], places: Iterator[int], rtt: float, options: argparse.Namespace
) -> None:
    """Reads at places of chance."""
    found: dict[str, list[float]] = {reader.name: [] for reader in readers}
    for _ in range(options.runs):
        for reader in readers:
            found[reader.name] += random_reads(reader, places, options.reads // options.runs)
    for name, seconds in found.items():
        each = sorted(value / rtt if rtt else value * 1e3 for value in seconds)
        asked = "<= 1.15 RTT" if name == "kc.open" else ""
        row = Row(f"4 KiB anywhere: {name}", each, "RTT" if rtt else "ms", asked)
        print(row, f"p95 {each[int(len(each) * 0.95)]:.2f}", flush=True)


def processor(reader: Reader, places: Iterator[int], node: Daemon, count: int) -> None:
    """What a first read of 4 KiB takes of the processor, at the requester."""
    before, mine = processor_seconds(node.pid), time.process_time()
    random_reads(reader, places, count)
    node_took = (processor_seconds(node.pid) - before) / count * 1e3
    print(Row("... processor time of the requester's node", [node_took], "ms", "<= 0.5 asked"))
    took = (time.process_time() - mine) / count * 1e3
    print(Row("... and of the program that reads", [took], "ms"), flush=True)


def only_ours(uri: str, places: Iterator[int], rtt: float, runs: int) -> None:
    """What only we are asked for."""
    with kc.open(uri) as file:
        start = next(places)
        file.read_at(start, KIB4)
        with kc.open(uri) as other:
            began = time.perf_counter()
            other.read_at(start, KIB4)
            print(Row("the same bytes, opened again", [(time.perf_counter() - began) * 1e3], "ms"))
        again = []
        for _ in range(100):
            began = time.perf_counter()
            file.read_at(start + 1, KIB4 - 1)
            again.append((time.perf_counter() - began) * 1e3)
        print(
            Row("the same bytes, or their neighbours", [statistics.median(again)], "ms", "<= 0.5")
        )
        took = []
        for _ in range(max(runs, 5)):
            ranges = [(place, place + KIB4) for place in (next(places) for _ in range(100))]
            began = time.perf_counter()
            file.read_many(ranges)
            took.append((time.perf_counter() - began) / (rtt or 1e-3))
        print(Row("100 ranges at once", took, "RTT" if rtt else "ms", "<= 3 RTT"), flush=True)


def streams(readers: list[Reader], url: str | None, start: int, runs: int) -> None:
    """Reads one after another."""
    found: dict[str, list[float]] = {}
    at_byte = start
    for _ in range(runs):
        for reader in readers:
            found.setdefault(reader.name, []).append(in_a_row(reader, at_byte, IN_A_ROW))
        if url is not None and shutil.which("curl"):
            speed = one_stream(url, at_byte, IN_A_ROW)
            found.setdefault("one TCP stream, nothing done to it (curl)", []).append(speed)
        at_byte += IN_A_ROW
    for name, rates in found.items():
        print(Row(f"64 KiB in a row: {name}", rates, "MB/s"), flush=True)
    raw = found.get("one TCP stream, nothing done to it (curl)")
    if raw is not None:
        ratios = [ours / theirs for ours, theirs in zip(found["kc.open"], raw, strict=True)]
        print(Row("kc.open / one TCP stream", ratios, "x", ">= 0.8 asked"), flush=True)
