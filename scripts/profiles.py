"""``scripts/profile WHAT``: flame graphs of the processes of a bench, while they do what it measures.

py-spy samples each of them from outside, all threads and the frames of C libraries included. For each
process there is a picture (SVG), without threads that wait, and beside it what the picture is made of:
the stacks, and how often each was seen, as text. Where the time goes is told by processor seconds; a
process is stopped for each sample, so these are more than without.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import bench_feeds
import bench_tasks
from bench_processor import Moving, random_file, used
from bench_report import run, scratch
from flame_graph import draw, hottest, read_stacks

from tests.daemons import ROOT, Daemon, Lab

_TOP = 8
"""Lines of what is on top most often."""
_RATE = 200
"""Samples a second."""
_SPY_SECONDS = 120
"""In which py-spy must have written what it saw."""
_LEAST_SECONDS = 5.0
"""For so long a process is looked at, and its work is repeated."""


@dataclass
class Recorder:
    """What is made of the samples, and where it goes."""

    folder: Path

    @contextlib.contextmanager
    def recording(self, pids: dict[str, int]) -> Iterator[None]:
        """Have processes sampled for as long as the block lasts. ``pids``: by their names."""
        begun = time.monotonic()
        before = {name: used(pid) for name, pid in pids.items()}
        spies = {name: self._spy(name, pid) for name, pid in pids.items()}
        try:
            yield
        finally:
            spent = {name: used(pid) - before[name] for name, pid in pids.items()}
            seconds = time.monotonic() - begun
            for spy in spies.values():
                spy.send_signal(signal.SIGINT)
            for name, spy in spies.items():
                _, said = spy.communicate(timeout=_SPY_SECONDS)
                if not self._path(name).exists():
                    raise SystemExit(f"py-spy could not look into the {name}:\n{said}")
                stacks = read_stacks(self._path(name))
                picture = self._path(name).with_suffix(".svg")
                picture.write_text(draw(stacks, name), encoding="utf-8")
                print(f"{picture}: {spent[name]:.2f} s of processor in {seconds:.1f} s")
                for frame, share in hottest(stacks, _TOP):
                    print(f"    {100 * share:5.1f} %  {frame}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.txt"

    def _spy(self, name: str, pid: int) -> subprocess.Popen[str]:
        self._path(name).unlink(missing_ok=True)
        return subprocess.Popen(
            [
                "py-spy", "record", "--pid", str(pid), "--native", "--threads",
                "--rate", str(_RATE), "--format", "raw",
                "--output", str(self._path(name)),
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip


def again(seconds: float, work: Callable[[], object]) -> None:
    """Do it until so much time is over, once at least."""
    end = time.monotonic() + seconds
    work()
    while time.monotonic() < end:
        work()


def transfer(folder: Path, recorder: Recorder, seconds: float, mib: int, relayed: bool) -> None:
    file = random_file(folder / "big.dat", mib)
    with Lab(folder / "d", direct=not relayed) as lab:
        moving = Moving(lab, file, relayed=relayed)
        moving.go()  # whatever is done only once
        with recorder.recording({name: node.pid for name, node in moving.nodes.items()}):
            again(seconds, moving.go)


def _client(daemon: Daemon, program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=daemon.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def feeds(folder: Path, recorder: Recorder, seconds: float) -> None:
    messages = folder / "messages.jsonl"
    bench_feeds.write_messages(messages)
    with Lab(folder / "d", direct=True) as lab:
        nodes = {"owner": lab.a.pid, "reader": lab.b.pid}

        def append() -> None:
            run(lab.a, bench_feeds.APPEND, str(messages), str(bench_feeds.ONE_BY_ONE))

        append()
        print("append_message one by one, durable:")
        with recorder.recording({"append-owner": lab.a.pid}):
            again(seconds, append)
        print("live, to 50 readers:")
        uri = run(lab.a, bench_feeds.MAKE)
        listening = _client(lab.b, bench_feeds.LISTEN, uri, "50", str(bench_feeds.LIVE))
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        with recorder.recording({f"live-{name}": pid for name, pid in nodes.items()}):
            lab.a.python(bench_feeds.SPEAK, uri, str(bench_feeds.LIVE))
            listening.communicate(timeout=_SPY_SECONDS)


def tasks(folder: Path, recorder: Recorder, seconds: float) -> None:
    counts = [str(each) for each in (1, bench_tasks.TOGETHER, bench_tasks.IN_FLIGHT)]
    with Lab(folder / "d") as lab, bench_tasks.serving(lab.a, folder):
        run(lab.b, bench_tasks.REQUEST, *counts)
        pids = {"task-provider": lab.a.pid, "task-requester": lab.b.pid, "proxy": lab.proxy.pid}
        with recorder.recording(pids):
            again(seconds, lambda: run(lab.b, bench_tasks.REQUEST, *counts))


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/profile", description=__doc__)
    parser.add_argument("what", choices=["transfer", "feeds", "tasks"])
    parser.add_argument("--relayed", action="store_true", help="transfer: through the proxy")
    parser.add_argument("--mib", type=int, default=512, help="transfer: size of the file")
    parser.add_argument("--seconds", type=float, default=_LEAST_SECONDS)
    parser.add_argument("--out", type=Path, default=ROOT / "profiles")
    options = parser.parse_args()
    recorder = Recorder(options.out)
    options.out.mkdir(parents=True, exist_ok=True)
    folder = scratch()
    try:
        if options.what == "transfer":
            transfer(folder, recorder, options.seconds, options.mib, options.relayed)
        else:
            {"feeds": feeds, "tasks": tasks}[options.what](folder, recorder, options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
