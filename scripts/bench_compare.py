"""``scripts/bench compare REVISION``: this tree beside an older one, in turns, on one machine.

Both have their daemons running at once, each made by its own tree; the same client programs are run at
one and at the other, and each turn begins with the other one. What is printed is the ratio of the two
(above 1: this tree is better), the median of all turns, and the interval in which nine of ten medians
of such turns lie (bootstrap). A row whose interval is wide says only that more turns are needed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_feeds
import bench_programs
import bench_tasks
from bench_report import scratch, settle

ROOT = Path(__file__).resolve().parent.parent
RESAMPLED = 2_000
MIB = 1 << 20

HOLD = """
import json, sys
from pathlib import Path
from tests.daemons import Lab
folder = Path(sys.argv[1])
with Lab(folder / "d", direct=True) as direct, Lab(folder / "r") as relayed:
    labs = {"direct": direct, "relayed": relayed}
    print(json.dumps({
        name: {side: [getattr(lab, side).env, str(getattr(lab, side).storage)] for side in "ab"}
        for name, lab in labs.items()
    }), flush=True)
    sys.stdin.read()
"""

Figures = dict[str, float]
"""What each row measured; more is better."""


@dataclass
class Node:
    """A client's way to one running node of a tree."""

    env: dict[str, str]
    storage: Path
    code: Path

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            env=self.env, cwd=self.code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, program: str, *arguments: str, stdin: str = "") -> Any:
        process = self.start(program, *arguments)
        out, _ = process.communicate(stdin, timeout=300)
        assert process.returncode == 0, out
        return json.loads(out)

    def forget(self, uri: str) -> None:
        """Remove a blob and what lies beside it, so that it is fetched or stored again."""
        sha1 = uri.split("/")[2].partition("?")[0]
        folder = self.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6]
        for file in folder.glob(sha1 + "*"):
            file.unlink()


class Tree:
    """A checkout with its daemons."""

    def __init__(self, nodes: dict[str, dict[str, Node]], folder: Path) -> None:
        self.folder = folder
        self.direct, self.relayed = nodes["direct"], nodes["relayed"]
        self.a, self.b = self.relayed["a"], self.relayed["b"]


@contextmanager
def tree(checkout: Path, folder: Path) -> Iterator[Tree]:
    folder.mkdir()
    env = {**os.environ, "PYTHONPATH": str(checkout)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env=env, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        nodes = {
            lab: {
                side: Node({**env, "PYTHONPATH": str(checkout)}, Path(storage), checkout)
                for side, (env, storage) in sides.items()
            }
            for lab, sides in told.items()
        }
        backend = folder / "backend.py"
        backend.write_text(bench_tasks.BACKEND)
        serving = nodes["relayed"]["a"].start(f"exec(open({str(backend)!r}).read())")
        try:
            time.sleep(2)
            yield Tree(nodes, folder)
        finally:
            serving.terminate()
            serving.communicate(timeout=30)
    finally:
        process.communicate("", timeout=60)


@contextmanager
def checkout(revision: str, folder: Path) -> Iterator[Path]:
    place = folder / "checkout"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(place), revision], check=True)
    try:
        yield place
    finally:
        subprocess.run([*git, "remove", "--force", str(place)], check=True)


# --- what is measured ----------------------------------------------------------------------------


def small(at: Tree) -> Figures:
    texts = at.a.run(bench_programs.STORE_TEXTS, str(time.time_ns()))["per_second"]
    uris = json.dumps(at.a.run(bench_programs.STORE_SMALL, "551"))
    settle()
    found = at.b.run(bench_programs.LOAD_SMALL, stdin=uris)
    return {
        "store_text /s": texts,
        "small files gathered /s": found["per_second"],
        "one small remote file": 1 / statistics.median(found["one_ms"]),
        "a look-up that finds nothing": 1 / statistics.median(found["none_ms"]),
    }


def large(at: Tree) -> Figures:
    file = at.folder / "big.dat"
    if not file.exists():
        with file.open("wb") as out:
            for _ in range(256):
                out.write(os.urandom(MIB))
    figures = {}
    for lab, name in ((at.direct, "load_file direct"), (at.relayed, "load_file by the proxy")):
        stored = lab["a"].run(bench_programs.STORE, str(file))
        figures["store_file"] = 1 / stored["seconds"]
        settle()
        figures[name] = 1 / lab["b"].run(bench_programs.LOAD, stored["uri"])["seconds"]
        for node in lab.values():
            node.forget(stored["uri"])
    return figures


def feeds(at: Tree) -> Figures:
    owner, other = at.direct["a"], at.direct["b"]
    messages = at.folder / "messages.jsonl"
    bench_feeds.write_messages(messages)
    one = owner.run(bench_feeds.APPEND, str(messages), "2000")
    batch = owner.run(bench_feeds.BATCH, str(messages))
    settle()
    fetched = other.run(bench_feeds.READ, str(messages), batch["uri"])
    read = owner.run(bench_feeds.READ, str(messages), batch["uri"])
    uri = owner.run(bench_feeds.MAKE)
    listening = other.start(bench_feeds.LISTEN, uri, "1", "100")
    assert listening.stdout is not None
    assert listening.stdout.readline() == "ready\n"
    owner.run(bench_feeds.SPEAK, uri, "100")
    delays = json.loads(listening.communicate(timeout=120)[0])
    return {
        "append one by one": one,
        "append a batch": batch["per_second"],
        "fetch and read": fetched,
        "read": read,
        "append to receipt": 1 / statistics.median(delays),
    }


def tasks(at: Tree) -> Figures:
    found = at.b.run(bench_tasks.REQUEST, "150", "1000", "100")
    return {
        "no-op task": 1 / statistics.median(found["one_ms"]),
        "cached result": 1 / statistics.median(found["cached_ms"]),
        "no-op tasks /s": found["per_second"],
    }


WHAT: dict[str, Callable[[Tree], Figures]] = {
    "small": small, "large": large, "feeds": feeds, "tasks": tasks
}  # fmt: skip


def interval(ratios: list[float]) -> tuple[float, float]:
    medians = sorted(
        statistics.median(random.choices(ratios, k=len(ratios))) for _ in range(RESAMPLED)
    )
    return medians[RESAMPLED // 20], medians[-RESAMPLED // 20]


def main(revision: str, turns: int, what: list[str], other: str | None = None) -> int:
    """``other``: a second revision to be measured instead of this tree."""
    folder = scratch()
    ratios: dict[str, list[float]] = {}
    try:
        with ExitStack() as stack:
            (folder / "old").mkdir()
            old_code = stack.enter_context(checkout(revision, folder / "old"))
            new_code = ROOT
            if other is not None:
                (folder / "new").mkdir()
                new_code = stack.enter_context(checkout(other, folder / "new"))
            old = stack.enter_context(tree(old_code, folder / "o"))
            new = stack.enter_context(tree(new_code, folder / "n"))
            print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; ", end="")
            print(f"{other or 'this tree'} / {revision}, {turns} turns")
            for name in what or list(WHAT):
                measure = WHAT[name]
                for turn in range(turns + 1):
                    pair: dict[int, Figures] = {}
                    for at in (old, new) if turn % 2 else (new, old):
                        settle()
                        pair[id(at)] = measure(at)
                    if turn:  # the first one warms up
                        for row, value in pair[id(new)].items():
                            ratios.setdefault(row, []).append(value / pair[id(old)][row])
                for row in pair[id(new)]:
                    low, high = interval(ratios[row])
                    median = statistics.median(ratios[row])
                    print(f"{row:32} {median:6.3f}x  ({low:.3f} .. {high:.3f})", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0
