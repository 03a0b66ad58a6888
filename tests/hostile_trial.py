"""All attacks together and again and again, while honest members go on with their work.

Real daemons on loopback: a proxy, an owner that listens too, two leaves. The leaves reach the owner
through the proxy: one loads files that the owner stores and asks for tasks there, the other reads its
feed. After a phase in peace one member attacks alone, then a hundred do, with strangers, guests and
local callers (tests/attackers.py); one is removed and admitted again all the while. In the end the
owner removes them all.

All of this shares one machine, where nodes that are attacked take processors from the honest ones.
How much that is by itself shows a phase in which nobody attacks, and programs that only compute run
beside them, as many as there are processors.

    ./scripts/trial hostile [--minutes 10] [--seed S]

What must hold: memory stays below ``ONE_MIB`` and ``HUNDRED_MIB``; what honest members get done does
not fall below ``LEAST_RATIO`` of what they did in peace; no daemon dies or has a bug in its log; and in
the end memory, descriptors and tables are as before. Exit status 1 otherwise, with a sentence for each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

import kachery_p2p as kc
from kachery_p2p.protocol.identity import NodeKey
from tests.attackers import Door, World
from tests.daemons import ROOT, free_port, short_folder
from tests.trial import Script, Trial

ONE_MIB: Final = 250.0
"""What a node may have in memory while one member attacks it."""
HUNDRED_MIB: Final = 1024.0
LEAST_RATIO: Final = 0.5
BACK_MIB: Final = 60.0
"""How much more memory a node may have afterwards than before."""
BACK_DESCRIPTORS: Final = 5
MEMBERS: Final = 100
SHARES: Final = (0.15, 0.1, 0.3, 0.45)
"""Of the time: for peace, busy processors, one attacker, a hundred."""
BACK_SECONDS: Final = 90.0
"""Until everything must be back; half a minute more than it takes a stalled stream to end."""
BIG_BYTES: Final = 64 << 20
FILE_BYTES: Final = 4 << 20
"""Of the files that honest members exchange."""
_PEACE, _BUSY, _ONE = "in peace", "busy machine", "one attacker"
_HUNDRED, _AFTER = f"{MEMBERS} attackers", "afterwards"

BACKEND: Final = """
import kachery_p2p as kc

@kc.taskfunction("echo.1", type="query")
def echo(*, n):
    return n

kc.run_task_backend(channels=["lab"], slots=4)
"""


@dataclass
class Process:
    """What the kernel says of a daemon."""

    pid: int
    peaks: dict[str, tuple[float, int]] = field(default_factory=dict)

    def look(self, phase: str) -> tuple[float, int]:
        """MiB in memory and open descriptors now. Raises OSError if it is gone."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        rss = next((int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS")), 0)
        if not rss:
            raise ProcessLookupError(self.pid)
        now = rss / 1024, len(os.listdir(f"/proc/{self.pid}/fd"))
        most = self.peaks.get(phase, (0.0, 0))
        self.peaks[phase] = max(most[0], now[0]), max(most[1], now[1])
        return now


class Work:
    """Something that an honest member does again and again, in a thread; ``done`` and ``failed`` count
    for the phase that is on."""

    def __init__(self, trial: HostileTrial, name: str, once: Callable[[int], None]) -> None:
        self.name = name
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._trial, self._once = trial, once
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join(60)

    def _run(self) -> None:
        number = 0
        while not self._trial.over.is_set():
            number += 1
            phase = self._trial.phase
            try:
                self._once(number)
                self.done[phase] += 1
            except (kc.KacheryError, AssertionError) as error:
                self.failed[phase] += 1
                self.errors[f"{type(error).__name__}: {error}"[:150]] += 1
                time.sleep(0.1)


class HostileTrial(Trial):
    """See the module."""

    def __init__(
        self, folder: Path, *, minutes: float, seed: int, say: Callable[[str], None]
    ) -> None:
        super().__init__(folder, ("owner", "b", "c"), kills=0, seed=seed, say=say)
        self.minutes = minutes
        self.phase = _PEACE
        self.over = threading.Event()
        self.violations: list[str] = []
        self.seconds: Counter[str] = Counter()
        self.done_by_attackers: dict[str, dict[str, int]] = {}
        self.processes: dict[str, Process] = {}
        self.before: dict[str, tuple[float, int]] = {}
        self.works: list[Work] = []
        self._folder = folder
        self._keys = [NodeKey(random.Random(f"{seed} {n}").randbytes(32)) for n in range(MEMBERS)]
        self._ports = {
            "owner": free_port(),
            "proxy": int(self.daemons["proxy"].url.rsplit(":", 1)[1]),
        }
        # It is dialled by attackers, who know its port; the others think that it cannot be.
        self.daemons["owner"].options |= {
            "listen": f"127.0.0.1:{self._ports['owner']}",
            "public_url": f"ws://127.0.0.1:{free_port()}",
        }
        self._tcp = {name: free_port() for name in self._ports}
        for name, port in self._tcp.items():
            self.daemons[name].options["api_port"] = port

    # --- before ------------------------------------------------------------------------------

    def set_up(self) -> None:
        self.meet("owner", self.daemons["proxy"].url)
        owner = self.daemons["owner"]
        path = owner.home / "backend.py"
        path.write_text(BACKEND)
        run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
        self.scripts["backend"] = Script(owner, "backend", run)
        with owner.at():
            for number, key in enumerate(self._keys):
                kc.channel_add_node("lab", key.node_id, label=f"m{number}")
            channel = kc.channel_show("lab")
            big = kc.store_bytes(self.rng.randbytes(BIG_BYTES))
            small = kc.store_bytes(self.rng.randbytes(30_000))
            feed = kc.create_feed()
            self._log = feed.load_subfeed("honest")
            target = feed.load_subfeed("target")
            target.append_messages([{"x": "y" * 10_000}] * 500)
        self.world = World(
            channel=channel["id"], version=channel["version"], big=_sha1(big), big_bytes=BIG_BYTES,
            small=_sha1(small), feed=feed.uri.split("//")[1], subfeed=target.subfeed_hash,
            function="echo.1",
            keys=[key.seed.hex() for key in self._keys], seed=self.rng.randrange(1 << 30),
            doors=[
                Door(port, self.daemons[name].node_id, str(self.daemons[name].socket),
                     self._tcp[name], name == "proxy")
                for name, port in self._ports.items()
            ],
        )  # fmt: skip
        self.processes = {name: Process(each.pid) for name, each in self.daemons.items()}

    # --- what honest members do --------------------------------------------------------------

    def _file(self, number: int) -> None:
        with self.daemons["owner"].at():
            uri = kc.store_bytes(os.urandom(FILE_BYTES))
        begun = time.monotonic()
        with self.daemons["b"].at():
            # It takes a moment until a file that was just stored is announced.
            while (data := kc.load_bytes(uri)) is None:
                assert time.monotonic() - begun < 20, "nobody has it"
                time.sleep(0.02)
        assert len(data) == FILE_BYTES

    def _message(self, number: int) -> None:
        with self.daemons["owner"].at():
            self._log.append_message({"n": number})
        with self.daemons["c"].at():
            got = self._reader.get_next_messages(wait_msec=10_000)
        assert got, "no message came"

    def _task(self, number: int) -> None:
        with self.daemons["b"].at():
            request = kc.request_task("echo.1", {"n": number}, "query", channel="lab")
            assert request.wait(20) == number

    # --- the trial ---------------------------------------------------------------------------

    def run(self) -> None:
        with self.daemons["c"].at():
            self._reader = kc.load_subfeed(self._log.uri)
        self.works = [
            Work(self, name, once)
            for name, once in (
                ("files", self._file),
                ("feed", self._message),
                ("tasks", self._task),
            )
        ]
        for work in self.works:
            work.start()
        try:
            peace, busy, one, hundred = (60 * self.minutes * share for share in SHARES)
            self._wait(5.0, "warming up")
            self._wait(peace, _PEACE)
            self.before = {name: each.look(_PEACE) for name, each in self.processes.items()}
            with computing():
                self._wait(busy, _BUSY)
            for phase, keys, seconds in ((_ONE, 1, one), (_HUNDRED, MEMBERS, hundred)):
                with self._attack(phase, keys):
                    self._wait(seconds, phase, restless=True)
            self._come_back()
        finally:
            self.over.set()
            for work in self.works:
                work.join()
        self._judge()

    def _wait(self, seconds: float, phase: str, *, restless: bool = False) -> None:
        """Let a phase go on, and look at the daemons every second."""
        self.phase = phase
        begun = time.monotonic()
        last = begun
        while (left := begun + seconds - time.monotonic()) > 0:
            time.sleep(min(1.0, left))
            self._look(phase)
            if restless:
                self._readmit()
            if time.monotonic() - last > 10:
                last = time.monotonic()
                self.say(f"{phase}: {self.state()}")
        self.seconds[phase] += round(time.monotonic() - begun)
        self.say(f"{phase}: {self.state()}")

    def _look(self, phase: str) -> None:
        for name, process in self.processes.items():
            with contextlib.suppress(FileNotFoundError):
                try:
                    process.look(phase)
                except ProcessLookupError:
                    self._violated(f"the daemon of {name} died {phase}")

    def _readmit(self) -> None:
        """A member that is removed, and admitted again."""
        node = self._keys[0].node_id
        with self.daemons["owner"].at():
            try:
                if self.rng.random() < 0.1:
                    kc.channel_remove_node("lab", node)
                    kc.channel_add_node("lab", node, label="m0")
            except kc.KacheryError as error:
                self._violated(f"a member could not be removed or admitted: {error}")

    @contextlib.contextmanager
    def _attack(self, phase: str, keys: int) -> Iterator[None]:
        path = self._folder / "world.json"
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(
            self.world, keys=self.world.keys[:keys])))  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.attackers", str(path)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            yield
            if process.poll() is not None:
                self._violated(f"the attackers ended by themselves ({phase})")
            with contextlib.suppress(subprocess.TimeoutExpired):  # its own links are stuck
                said, _ = process.communicate("", timeout=30)
                self.done_by_attackers[phase] = json.loads(said or "{}")
        finally:
            process.kill()
            process.wait()

    def _come_back(self) -> None:
        """Remove the attackers and wait until all is as before, or for too long; then compare tables,
        with honest work over."""
        with self.daemons["owner"].at():
            for key in self._keys:
                kc.channel_remove_node("lab", key.node_id)
        begun = time.monotonic()
        while time.monotonic() - begun < BACK_SECONDS:
            self._wait(5.0, _AFTER)
            if not self._not_back():
                break
        self.over.set()
        for work in self.works:
            work.join()
        time.sleep(2)
        self.violations += self._not_back()
        hostile = {key.node_id for key in self._keys}
        for name, daemon in self.daemons.items():
            with daemon.at():
                status = kc.node_status()
            for table in ("links", "uploads", "tasks"):
                rows = [row for row in status[table] if row.get("node") in hostile]
                if rows:
                    self._violated(f"{name} still has {len(rows)} {table} of attackers")
            if name == "proxy" and status["relay"]["circuits"] > 4:
                self._violated(f"the proxy still has {status['relay']['circuits']} circuits")

    def _not_back(self) -> list[str]:
        found = []
        for name, process in self.processes.items():
            with contextlib.suppress(OSError):
                (rss, files), (rss_then, files_then) = process.look(_AFTER), self.before[name]
                if rss > rss_then + BACK_MIB:
                    found.append(f"{name} has {rss:.0f} MiB in memory; before {rss_then:.0f}")
                if files > files_then + BACK_DESCRIPTORS:
                    found.append(f"{name} has {files} open descriptors; before {files_then}")
        return found

    # --- what must hold ----------------------------------------------------------------------

    def _violated(self, sentence: str) -> None:
        if sentence not in self.violations:
            self.violations.append(sentence)
            self.say(f"VIOLATED: {sentence}")

    def _judge(self) -> None:
        for phase, most in ((_ONE, ONE_MIB), (_HUNDRED, HUNDRED_MIB)):
            for name, process in self.processes.items():
                if process.peaks[phase][0] > most:
                    self._violated(f"{name} had {process.peaks[phase][0]:.0f} MiB with {phase}")
            for work in self.works:
                if self.ratio(work, phase) < LEAST_RATIO:
                    ratio = self.ratio(work, phase)
                    self._violated(f"{work.name} went on at {ratio:.2f} of their rate with {phase}")
        for name, daemon in self.daemons.items():
            for path in daemon.home.rglob("*.log"):
                if (count := path.read_text(errors="replace").count("Traceback")) > 0:
                    self._violated(f"{name} has {count} tracebacks in its log")

    def rate(self, work: Work, phase: str) -> float:
        """How often a second it was done."""
        return work.done[phase] / max(1, self.seconds[phase])

    def ratio(self, work: Work, phase: str) -> float:
        return self.rate(work, phase) / max(1e-9, self.rate(work, _PEACE))

    def state(self) -> str:
        sizes = []
        for name, process in self.processes.items():
            with contextlib.suppress(OSError):
                rss, files = process.look(self.phase)
                sizes.append(f"{name} {rss:.0f} MiB {files} fd")
        done = ", ".join(f"{work.name} {work.done[self.phase]}" for work in self.works)
        return f"{', '.join(sizes)}; {done}"

    def report(self) -> Iterator[str]:
        phases = [_PEACE, _BUSY, _ONE, _HUNDRED, _AFTER]
        yield f"peaks of memory (MiB) and descriptors: {', '.join(phases)}"
        for name, process in self.processes.items():
            peaks = [process.peaks.get(phase, (0.0, 0)) for phase in phases]
            yield f"  {name:6} " + "  ".join(f"{rss:5.0f} {files:4}" for rss, files in peaks)
        for name, process in self.processes.items():
            with contextlib.suppress(OSError, KeyError):
                then, now = self.before[name], process.look(_AFTER)
                yield (
                    f"  {name:6} before {then[0]:.0f} MiB {then[1]} fd, "
                    f"after {now[0]:.0f} MiB {now[1]} fd"
                )
        yield "done in a second, ratio to peace, failures"
        for work in self.works:
            for phase in phases:
                yield (f"  {work.name:6} {phase:14} {self.rate(work, phase):8.2f} "
                       f"{self.ratio(work, phase):6.2f} {work.failed[phase]:4}")  # fmt: skip
            for error, count in work.errors.most_common(4):
                yield f"         {count} x {error}"
        for phase, done in self.done_by_attackers.items():
            yield f"{phase} began: {done}"


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """As many programs as there are processors do nothing but compute."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _sha1(uri: str) -> str:
    return uri.split("//", 1)[1].split("/", 1)[0].split("?", 1)[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/trial hostile")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with short_folder() as folder:
        say: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
        trial = HostileTrial(folder, minutes=options.minutes, seed=options.seed, say=say)
        with trial:
            trial.run()
            for line in trial.report():
                say(line)
    for sentence in trial.violations:
        print(f"VIOLATED: {sentence}")
    return 1 if trial.violations else 0


if __name__ == "__main__":
    sys.exit(main())
