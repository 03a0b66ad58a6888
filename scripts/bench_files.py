"""Reading parts of a file that another node has, over a road with a round trip of ``--rtt`` ms, beside
what else reads parts: fsspec's http and remfile against nginx, over the same road.

The road is a forwarder that delays what passes; with ``--rtt 0`` it only passes it on.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from bench_report import Row, scratch

import kachery_p2p as kc
from kachery_p2p.testing import Network
from tests.daemons import announced, at, free_port

MIB = 1 << 20
KIB4 = 4096


class Road:
    """A TCP port before another one, behind which everything is ``delay`` seconds late each way."""

    def __init__(self, target: int, delay: float) -> None:
        self.port = free_port()
        self._target, self._delay = target, delay
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        threading.Thread(target=self._run, args=(started,), daemon=True).start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        async def serve() -> None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            started.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    async def _accept(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        far, onward = await asyncio.open_connection("127.0.0.1", self._target)
        try:
            await asyncio.gather(self._carry(near, onward), self._carry(far, back))
        except OSError:
            back.transport.abort()
            onward.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1024)

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while data := await reader.read(65_536):
                await under_way.put((self._loop.time() + self._delay, data))
            await under_way.put((self._loop.time() + self._delay, b""))
            await delivering
        finally:
            delivering.cancel()


class Reader:
    """One way to read: opened anew for each figure, so that nothing is remembered."""

    def __init__(self, name: str, open_file: Callable[[], Any]) -> None:
        self.name, self.open = name, open_file


def read_at(file: Any, start: int, size: int) -> bytes:
    file.seek(start)
    return bytes(file.read(size))


def random_reads(reader: Reader, size: int, count: int, seed: int) -> list[float]:
    """Seconds of each read of 4 KiB at a place of chance."""
    places = random.Random(seed)
    seconds = []
    with reader.open() as file:
        read_at(file, 0, 10)
        for _ in range(count):
            start = places.randrange(size - KIB4)
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
    parser.add_argument("--reads", type=int, default=100)
    options = parser.parse_args(arguments)
    rtt = options.rtt / 1000
    folder = scratch()
    print(f"{os.cpu_count()} cores, {options.mib} MiB, round trip {options.rtt:g} ms")
    from bench import Nginx, random_file  # which imports this module

    (folder / "web").mkdir()
    source = random_file(folder / "web" / "file", options.mib)
    size = source.stat().st_size
    nginx = Nginx(folder / "web", folder / "web") if shutil.which("nginx") else None
    try:
        with Network(["a", "b"], processes=True) as lab:
            with at(lab["a"]):
                uri = kc.store_file(str(source))
            with at(lab["b"]):
                announced(uri)
            lab.slow("b", delay=rtt / 2)
            with at(lab["b"]):
                ours = Reader("kc.open", lambda: kc.open(uri))
                readers = [ours]
                if nginx is not None:
                    road = Road(nginx.port, rtt / 2)
                    readers += others(f"http://127.0.0.1:{road.port}/file")
                measure(readers, size, rtt, options.reads)
                only_ours(uri, size, rtt)
    finally:
        if nginx is not None:
            nginx.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def measure(readers: list[Reader], size: int, rtt: float, count: int) -> None:
    """What all of them can do, in turns."""
    for place, reader in enumerate(readers):
        seconds = sorted(random_reads(reader, size, count, place))
        each = [value / rtt for value in seconds] if rtt else [value * 1e3 for value in seconds]
        unit = "RTT" if rtt else "ms"
        row = Row(f"4 KiB anywhere: {reader.name}", each, unit, "<= 1.15 RTT (kc.open)")
        print(row, f"p95 {each[int(count * 0.95)]:.2f}", flush=True)
    for place, reader in enumerate(readers):
        start = (place + 1) * size // 8
        print(Row(f"64 KiB in a row: {reader.name}", [in_a_row(reader, start, 64 * MIB)], "MB/s"))


def only_ours(uri: str, size: int, rtt: float) -> None:
    """What only we are asked for."""
    places = random.Random(99)
    with kc.open(uri) as file:
        start = places.randrange(size - KIB4)
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
        ranges = [(at, at + KIB4) for at in (places.randrange(size - KIB4) for _ in range(100))]
        began = time.perf_counter()
        file.read_many(ranges)
        took = time.perf_counter() - began
        print(Row("100 ranges at once", [took / rtt if rtt else took], "RTT", "<= 3 RTT"))
