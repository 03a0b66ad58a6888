"""``scripts/bench processor``: the processor time that a gigabyte costs each node it passes through.

One file goes to another node, directly and through a proxy, again and again; what each daemon used
meanwhile is read from ``/proc``. Such figures hold on a machine that has other things to do, where
rates do not.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bench_programs import LOAD, STORE
from bench_report import Row, run, scratch, settle

from tests.daemons import Daemon, Lab

MIB = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def used(pid: int) -> float:
    """Seconds of processor time that a process has used, the kernel's for it too."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def using(daemons: list[Daemon], work: Callable[[], object]) -> list[float]:
    """What each used while ``work`` was done, in seconds."""
    before = [used(each.pid) for each in daemons]
    work()
    return [used(each.pid) - one for each, one in zip(daemons, before, strict=True)]


def forget(daemon: Daemon, path: str) -> None:
    """Remove a loaded blob and what lies beside it, so that it is fetched again."""
    for file in Path(path).parent.glob(Path(path).name + "*"):
        file.unlink()


def load(daemon: Daemon, uri: str, *, relayed: bool) -> str:
    """Fetch a file. Its path."""
    result = run(daemon, LOAD, uri)
    assert {source["via"] is not None for source in result["route"]} == {relayed}, result["route"]
    return str(result["path"])


class Moving:
    """A file that goes from one node of a lab to the other, as often as wanted."""

    def __init__(self, lab: Lab, file: Path, *, relayed: bool) -> None:
        self.relayed = relayed
        self.size = file.stat().st_size
        self._lab = lab
        self._uri = run(lab.a, STORE, str(file))["uri"]
        self.nodes = {"provider": lab.a, "requester": lab.b}
        if relayed:
            self.nodes["proxy"] = lab.proxy

    def go(self) -> None:
        path = load(self._lab.b, self._uri, relayed=self.relayed)
        forget(self._lab.b, path)

    def processor(self) -> list[float]:
        """Seconds per GB of each node, of one time."""
        settle()
        spent = using(list(self.nodes.values()), self.go)
        return [seconds / self.size * 1e9 for seconds in spent]


ASKED = {"provider": "<= 0.9 asked", "requester": "<= 1.7 asked", "proxy": "<= 0.8 asked"}


def rows(moving: Moving, runs: int) -> list[Row]:
    """What each node used, the first time left out."""
    moving.processor()
    turns = [moving.processor() for _ in range(runs)]
    way = "through the proxy" if moving.relayed else "direct"
    return [
        Row(f"processor time of the {name}, {way}", list(values), "s/GB", ASKED[name])
        for name, values in zip(moving.nodes, zip(*turns, strict=True), strict=True)
    ]


def random_file(path: Path, mib: int) -> Path:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
    return path


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench processor")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=512, help="size of the file that moves")
    options = parser.parse_args(arguments)
    folder = scratch()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {options.mib} MiB, ", end="")
    print(f"median (min .. max) of {options.runs}")
    try:
        file = random_file(folder / "big.dat", options.mib)
        for relayed in (False, True):
            with Lab(folder / ("r" if relayed else "d"), direct=not relayed) as lab:
                for row in rows(Moving(lab, file, relayed=relayed), options.runs):
                    print(row, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
