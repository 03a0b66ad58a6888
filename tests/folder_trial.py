"""A folder of very many small files under fire: stored, changed, stored again and loaded elsewhere,
while whoever does it is killed.

Real daemons (a proxy, the one that stores, the one that loads), each with a client process. In the
middle of the store and of the load, the client, its node, and for the load the other node too, are
killed with SIGKILL and started again, and the work is begun anew.

    ./scripts/trial folders [--files 100000] [--kills N] [--seed S]

What must hold: the folder that arrives is the one that was stored; no file at the destination is ever
half of one; no node holds more than ``RSS_MB`` of memory.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from kachery_p2p.protocol.limits import RACY_SECONDS
from tests.daemons import announced, at
from tests.trial import Script, Trial, from_command_line

RSS_MB: Final = 200
"""Megabytes (10^6) of memory that a node may hold at any moment."""
SIZE: Final = 1_000
"""Bytes of each file."""
_PATIENCE: Final = 3_600.0

WORK: Final = """
import json, sys, time
import kachery_p2p as kc
def progress(info):
    print("done", info["done"], flush=True)
start = time.perf_counter()
if sys.argv[1] == "store":
    result = kc.store_dir(sys.argv[2], progress=progress)
else:
    result = kc.load_dir(sys.argv[3], sys.argv[2], progress=progress)
print("result", json.dumps([result, time.perf_counter() - start]), flush=True)
"""


class Work(Script):
    """A store or a load, in a client process."""

    def progress(self) -> int:
        """Bytes that it says are done."""
        words = [line.split() for line in self._lines() if line.startswith("done ")]
        return int(words[-1][1]) if words else 0

    def has_done(self, aim: int) -> bool:
        """Whether it is so far, or over."""
        return self.progress() >= aim or self.status is not None

    def result(self) -> tuple[str, float] | None:
        """What it returned, and the seconds that it took; None if it did not."""
        found = [line for line in self._lines() if line.startswith("result ")]
        return tuple(json.loads(found[-1].partition(" ")[2])) if found else None

    def _lines(self) -> list[str]:
        if not self.said.exists():
            return []
        with self.said.open("rb") as file:
            file.seek(max(0, self.said.stat().st_size - 4_096))
            whole = file.read().decode().rpartition("\n")[0]
        return whole.split("\n")

    def start(self) -> None:
        self.said.unlink(missing_ok=True)
        super().start()


class FolderTrial(Trial):
    """See the module. ``files``: how many there are; the rest as :class:`~tests.trial.Trial`, whose
    ``kills`` are in the store, and as many in the load."""

    def __init__(self, folder: Path, *, files: int, **options: Any) -> None:
        super().__init__(folder, ("a", "b"), **options)
        self.files = files
        self.source, self.target = folder / "source", folder / "target"
        self.seconds: dict[str, float] = {}
        """What took how long, of those that nobody was killed in."""
        self.peaks: dict[str, float] = {}
        """Megabytes that each node held at most."""

    def set_up(self) -> None:
        self.meet("a", self.daemons["proxy"].url)
        for number in range(self.files):
            inside = self.source / f"{number // 1_000:04}"
            if number % 1_000 == 0:
                inside.mkdir(parents=True)
            (inside / f"{number:07}.dat").write_bytes(self.rng.randbytes(SIZE))

    def run(self) -> None:
        store = Work(self.daemons["a"], "store", WORK, "store", str(self.source))
        self._work(store, ["a"], kills=self.kills)
        time.sleep(RACY_SECONDS + 1)  # what was written just now would be read again
        self._work(store, [], kills=0, name="stored again")
        path = self.source / "0000" / "0000000.dat"
        path.write_bytes(self.rng.randbytes(SIZE))
        uri = self._work(store, [], kills=0, name="stored with one file changed")
        with at(self.daemons["b"]):
            announced(uri)
        load = Work(self.daemons["b"], "load", WORK, "load", str(self.target), uri)
        self._work(load, ["b", "a"], kills=self.kills, check=self._no_halves)
        self._compare(self.source, self.target)
        self._work(load, [], kills=0, name="loaded again")
        shutil.rmtree(self.target)
        self._work(load, [], kills=0, name="loaded from the storage")
        self._compare(self.source, self.target)
        for name, peak in self.peaks.items():
            assert peak <= RSS_MB, f"{name} held {peak:.0f} MB"

    def _work(
        self, work: Work, nodes: list[str], *, kills: int, name: str = "", check: Any = None
    ) -> str:
        """Have it done, its client and one of the nodes being killed in the midst of it, in turns."""
        self.scripts[work.label] = work
        total = self.files * SIZE
        work.start()
        for number in range(kills):
            aim = total * (number + 1) // (kills + 1)
            self.wait(partial(work.has_done, aim), _PATIENCE)
            self._measure()
            work.kill()
            victim = [*nodes, ""][number % (1 + len(nodes))]
            if victim:
                self.daemons[victim].kill()
                self.daemons[victim].start()
            self.note(
                number, f"killed {work.label}, {victim or 'no'} node", f"{work.label} {victim}"
            )
            if check is not None:
                check()
            work.start()
        self.wait(lambda: work.status is not None, _PATIENCE)
        result = work.result()
        assert result is not None, work.said.read_text()[-3_000:]
        self._measure()
        self.seconds[name or f"the last {work.label}"] = result[1]
        self.say(f"{name or work.label}: {result[1]:.1f} s")
        return result[0]

    def _measure(self) -> None:
        for name, daemon in self.daemons.items():
            status = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            (line,) = (line for line in status if line.startswith("VmHWM:"))
            self.peaks[name] = max(self.peaks.get(name, 0.0), int(line.split()[1]) * 1_024 / 1e6)

    def _no_halves(self) -> None:
        for path in self.target.rglob("*.dat"):
            assert path.stat().st_size == SIZE, f"{path} is half of a file"

    def _compare(self, one: Path, other: Path) -> None:
        names = sorted(os.listdir(one))
        assert names == sorted(os.listdir(other))
        for name in names:
            if (one / name).is_dir():
                self._compare(one / name, other / name)
            else:
                assert filecmp.cmp(one / name, other / name, shallow=False), f"{name} differs"

    def state(self) -> str:
        return ", ".join(f"{name}: {work.progress() // SIZE} files" for name, work in self._works())

    def _works(self) -> list[tuple[str, Work]]:
        return [(name, each) for name, each in self.scripts.items() if isinstance(each, Work)]


def _told(trial: FolderTrial) -> list[str]:
    return [
        f"{trial.files} files of {SIZE} bytes",
        *(f"{name}: {seconds:.1f} s" for name, seconds in trial.seconds.items()),
        f"memory at most, MB: { {name: round(peak) for name, peak in trial.peaks.items()} }",
    ]


if __name__ == "__main__":
    sys.exit(from_command_line(FolderTrial, _told, kills=3, files=100_000, seed=1))
