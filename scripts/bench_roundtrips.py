"""``scripts/bench roundtrips``: how many round trips a thing takes, on real daemons.

What the requester says and hears comes ``--rtt`` / 2 late each way, so to the proxy, and through it to
every other node, is one round trip. A figure is the time that passed, in round trips: what a busy
machine adds to it is little beside them.

Cold: the requester's daemon was just started and is linked to its proxy and nobody else.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable
from typing import Any, cast

from bench_report import Row, scratch
from bench_tasks import serving

import kachery_p2p as kc
from kachery_p2p.testing import Daemon, Network
from tests.daemons import at

FIRST = ("files", "feeds")
"""Nodes to which the requester is not linked: of each, one thing is measured."""


class Bench:
    def __init__(self, lab: Network, rtt: float, runs: int) -> None:
        self._lab, self._rtt, self._runs = lab, rtt, runs
        self._requester = cast(Daemon, lab["requester"])

    def _timed(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) / self._rtt

    def report(self, name: str, figures: list[float], asked: str) -> None:
        p95 = sorted(figures)[max(0, round(0.95 * len(figures)) - 1)]
        print(Row(name, figures, "RTT", f"{asked} asked"), f" p95 {p95:.2f}", flush=True)

    def cold(self) -> None:
        """The first byte of a file, and the first message of a feed, of who was never spoken to."""
        with at(cast(Daemon, self._lab["files"])):
            uris = [kc.store_bytes(os.urandom(1_000)) for _ in range(self._runs)]
            large = [kc.store_bytes(os.urandom(100_000)) for _ in range(self._runs)]
        with at(cast(Daemon, self._lab["feeds"])):
            feeds = []
            for number in range(self._runs):
                feed = kc.create_feed()
                feed.load_subfeed("n").append_message({"n": number})
                feeds.append(feed.uri)
        self._lab.settle()
        small: list[float] = []
        first: list[float] = []
        message: list[float] = []
        for number in range(self._runs):
            for figures, work in (
                (small, lambda n=number: kc.load_bytes(uris[n])),
                (first, lambda n=number: kc.load_bytes(large[n], start=0, end=1)),
                (message, lambda n=number: self._message(feeds[n])),
            ):
                self._restart()
                with at(self._requester):
                    kc.get_node_id()
                    figures.append(self._timed(cast(Callable[[], object], work)))
        self.report("a file of 1 kB, cold", small, "<= 4")
        self.report("first byte of a file of 100 kB, cold", first, "<= 4")
        self.report("first message of a feed, cold", message, "<= 4")

    def _restart(self) -> None:
        self._lab.slow("requester")
        self._requester.restart()
        self._lab.wait_linked("requester")
        time.sleep(0.3)  # what nodes say when they meet is over
        self._lab.slow("requester", delay=self._rtt / 2)

    def _message(self, uri: str) -> None:
        assert kc.load_feed(uri).load_subfeed("n").get_next_message(wait_msec=20_000) is not None

    def linked(self) -> None:
        for size, asked in ((1_000, "<= 1.1"), (100_000, "<= 1.3")):
            with at(cast(Daemon, self._lab["files"])):
                uris = [kc.store_bytes(os.urandom(size)) for _ in range(self._runs * 2 + 1)]
            self._lab.settle()
            with at(self._requester):
                kc.load_bytes(uris.pop())
                figures = [self._timed(lambda u=uri: kc.load_bytes(u)) for uri in uris]  # type: ignore[misc]
            self.report(f"a file of {size // 1000} kB, linked", figures, asked)

    def tasks(self) -> None:
        for type_, function, asked in (
            ("query", "noop.1", "<= 1.1"),
            ("pure-calculation", "noop.2", "<= 1.1"),
            ("action", "noop.3", "<= 2.1"),
        ):
            with at(self._requester):

                def ask(n: int, type_: Any = type_, function: str = function) -> None:
                    request = kc.request_task(function, {"n": n}, type_, channel="lab")
                    assert request.wait(30) == (True if type_ == "action" else n)

                ask(-1)
                figures = []
                for n in range(self._runs * 2):
                    time.sleep(0.5)
                    figures.append(self._timed(lambda n=n: ask(n)))  # type: ignore[misc]
            self.report(f"a {type_}, linked, there and back", figures, asked)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench roundtrips")
    parser.add_argument("--rtt", type=float, default=100.0, help="milliseconds of a round trip")
    parser.add_argument("--runs", type=int, default=5)
    rows = ["cold", "linked", "tasks"]
    parser.add_argument("--rows", nargs="*", default=rows, choices=rows)
    options = parser.parse_args(arguments)
    folder = scratch()
    print(f"{os.cpu_count()} cores, round trip {options.rtt:g} ms, median (min .. max)")
    try:
        with Network(["requester", *FIRST], processes=True) as lab:
            bench = Bench(lab, options.rtt / 1000, options.runs)
            if "cold" in options.rows:
                bench.cold()
            lab.slow("requester", delay=options.rtt / 2000)
            if "linked" in options.rows:
                bench.linked()
            if "tasks" in options.rows:
                with serving(cast(Daemon, lab["files"]), folder):
                    bench.tasks()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
