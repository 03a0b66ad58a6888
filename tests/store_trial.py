"""A storage that is smaller than what goes through it, under fire.

Real daemons: a proxy; ``a``, which has the files and pushes some; ``b``, whose storage is limited, and
which keeps for ``a``; ``c``, which reads what ``b`` has. On ``b`` several programs fetch files of mixed
sizes, store, pin and read parts; nodes and programs are killed with SIGKILL and come back.

    ./scripts/trial store [--fetches 5000] [--files 2500] [--limit 1024] [--kills N] [--seed S]

What must hold: whenever ``b`` is halted (with SIGSTOP) and its folder measured, there are no more
bytes of content in it than the limit; in the end all that was acknowledged as stored, pinned or kept
is there, and is what it should be; a linked file is as it was; nobody has waited for longer than
``_PATIENCE``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from kachery_p2p.protocol.limits import MIB
from tests.daemons import Daemon, until
from tests.trial import Script, Trial, from_command_line

SIZES: Final = (4_000, 8_000_000)
"""Bytes of the smallest and of the largest file; sizes are even on a logarithmic scale."""
_PATIENCE: Final = 120.0
_OWN: Final = 0.25
"""Share of the limit that ``b`` stores itself and pins, and that it keeps for ``a``, each."""
_BETWEEN_LOOKS: Final = 0.1
_PAGE: Final = 4_096

_COMMON: Final = """
import hashlib, json, os, random, sys, time
import kachery_p2p as kc
seed, work = int(sys.argv[1]), json.loads(sys.argv[2])
rng = random.Random(f"{seed} {time.time()}")
def say(*words):
    print(*words, flush=True)
def tried(what, call):
    # What a call returns, or None if somebody that it needs was killed.
    begun = time.monotonic()
    try:
        return call()
    except kc.errors.StorageFull as error:
        say("full", what, error.code)
    except kc.errors.KacheryError as error:
        say("failed", what, error.code)
        time.sleep(0.1)
    finally:
        say("took", what, round(time.monotonic() - begun, 2))
def check(data, uri):
    assert hashlib.sha1(data).hexdigest() == uri[7:47], f"{uri} is something else"
"""

FETCH: Final = (
    _COMMON
    + """
def fetch(uri):
    path = kc.load_file(uri, progress=False)
    if path is None:  # who has it was killed
        return None
    try:
        with open(path, "rb") as file:
            check(file.read(), uri)
    except FileNotFoundError:  # it has gone again to make room
        say("gone", uri)
    return path
own = pinned = 0
while True:
    uri = rng.choice(work["uris"])
    if tried("fetch", lambda: fetch(uri)) is not None:
        say("got", uri)
        if rng.random() < 0.02 and pinned < work["share"]:
            size = work["sizes"][uri]
            if tried("pin", lambda: kc.pin(uri)) is not None:
                pinned += size
                say("pinned", uri)
    if rng.random() < 0.1 and own < work["share"]:
        data = rng.randbytes(rng.randrange(200_000))
        stored = tried("store", lambda: kc.store_bytes(data, progress=False))
        if stored is not None:
            own += len(data)
            say("stored", stored)
"""
)

READ: Final = (
    _COMMON
    + """
def read(uri, size):
    with kc.open(uri) as file:
        for _ in range(4):
            file.seek(rng.randrange(size))
            file.read(100_000)
    return True
while True:
    uri = rng.choice(work["uris"])
    tried("read", lambda: read(uri, work["sizes"][uri])) and say("read", uri)
"""
)

PUSH: Final = (
    _COMMON
    + """
kept = {}
while True:
    uri = rng.choice(work["uris"])
    if uri not in kept and sum(kept.values()) < work["share"]:
        if tried("push", lambda: kc.push(uri, to=work["to"], progress=False)) is not None:
            kept[uri] = work["sizes"][uri]
            say("kept", uri)
    elif kept:
        uri = rng.choice(sorted(kept))
        say("dropping", uri)
        if tried("drop", lambda: kc.drop_kept(uri)) is not None:
            del kept[uri]
"""
)

OTHERS: Final = (
    _COMMON
    + """
while True:
    lines = [line.split() for path in work["said"] if os.path.exists(path) for line in open(path)]
    theirs = [words[1] for words in lines if len(words) == 2 and words[0] == "stored"]
    if not theirs:
        time.sleep(0.2)
        continue
    uri = rng.choice(theirs)
    data = tried("other", lambda: kc.load_bytes(uri))
    if data is not None:
        check(data, uri)
        say("gave", uri)
        tried("rm", lambda: kc.delete_file(uri))
"""
)


class Work(Script):
    """A program that says what it did, a line for each thing."""

    def __init__(self, daemon: Daemon, label: str, code: str, number: int, work: Any) -> None:
        path = daemon.home / f"{label}.json"
        path.write_text(json.dumps(work))
        code = code.replace("json.loads(sys.argv[2])", "json.load(open(sys.argv[2]))")
        super().__init__(daemon, label, code, str(number), str(path))
        self.said = daemon.home / f"{label}.txt"
        self._read = 0

    def heard(self) -> list[list[str]]:
        """The words of the lines that it wrote since this was called last."""
        if not self.said.exists():
            return []
        with self.said.open("rb") as file:
            file.seek(self._read)
            text = file.read().rpartition(b"\n")[0]
        self._read += len(text) + 1 if text else 0
        return [line.split() for line in text.decode().split("\n") if line]


class StoreTrial(Trial):
    """See the module. ``fetches`` in all, of ``files`` files; ``limit``: MiB."""

    def __init__(
        self, folder: Path, *, fetches: int, files: int, limit: int, **options: Any
    ) -> None:
        super().__init__(folder, ("a", "b", "c"), **options)
        self.fetches, self.files, self.limit = fetches, files, limit * MIB
        self.daemons["b"].options["max_storage"] = str(self.limit)
        self.most = self.looks = 0
        """The most bytes that were found at ``b``, and how often it was looked."""
        self.stays: set[tuple[str, str]] = set()
        """What must be at ``b``, and why."""
        self.counts: Counter[str] = Counter()
        """What the programs said that they did."""
        self.slowest: dict[str, float] = {}
        self._next_look = 0.0

    # --- before ------------------------------------------------------------------------------

    def set_up(self) -> None:
        a, b = self.daemons["a"], self.daemons["b"]
        self.meet("a", self.daemons["proxy"].url)
        sizes = self._files(a)
        share = int(self.limit * _OWN)
        b.cli("channel", "set", "lab", "--keep-for", "all", "--keep-limit", str(share))
        self.linked = b.home / "linked.dat"
        self.linked.write_bytes(self.rng.randbytes(1_000_000))
        self.stays.add((b.cli("link", str(self.linked)).stdout.strip(), "linked"))
        until(
            lambda: b.node_id in a.cli("kept", "keepers", "--json", check=False).stdout,
            "a knows of its keeper",
        )
        uris = sorted(sizes)
        work = {"uris": uris, "sizes": sizes, "share": share // 3}
        for number in range(3):
            self._add(Work(b, f"fetch{number}", FETCH, number, work))
        large = sorted(uris, key=lambda uri: sizes[uri])[-len(uris) // 10 :]
        self._add(Work(b, "read", READ, 4, work | {"uris": large}))
        pushed = self.rng.sample(uris, len(uris) // 4)
        self._add(
            Work(a, "push", PUSH, 5, work | {"uris": pushed, "to": b.node_id, "share": share})
        )
        said = [str(b.home / f"fetch{number}.txt") for number in range(3)]
        self._add(Work(self.daemons["c"], "other", OTHERS, 6, {"said": said}))

    def _add(self, work: Work) -> None:
        self.scripts[work.label] = work

    def _files(self, node: Daemon) -> dict[str, int]:
        """Have so many files stored there; their URIs, and the size of each."""
        folder = node.home / "files"
        folder.mkdir()
        least, most = map(math.log, SIZES)
        names = []
        for number in range(self.files):
            size = int(math.exp(self.rng.uniform(least, most)))
            path = folder / f"{number}.dat"
            path.write_bytes(self.rng.randbytes(size))
            names.append(str(path))
        uris: list[str] = []
        for at in range(0, len(names), 500):
            uris += node.cli("link", *names[at : at + 500]).stdout.split()
        return {uri: os.path.getsize(name) for uri, name in zip(uris, names, strict=True)}

    # --- while it goes on --------------------------------------------------------------------

    def run(self) -> None:
        for number in range(self.kills):
            self._go_on(self.fetches * (number + 1) // (self.kills + 1))
            if self.rng.random() < 0.3:
                self.kill(number, self.scripts, "client")
            else:
                victim = self.rng.choice("bba")  # it is about b
                self.kill(number, {victim: self.daemons[victim]}, "node")
            self.bring_back(list(self.down))
        self._go_on(self.fetches)
        for script in self.scripts.values():
            script.kill()
        self._listen(over=True)
        self._look(now=True)
        self._check()

    def _go_on(self, aim: int) -> None:
        """Until so many fetches are done."""
        self.wait(lambda: self._step() >= aim, _PATIENCE * 10)

    def _step(self) -> int:
        self._listen()
        self._look()
        return self.counts["got"]

    def _listen(self, over: bool = False) -> None:
        for work in self.scripts.values():
            assert isinstance(work, Work)
            for words in work.heard():
                self._hear(work, words)
            down = f"{work.label}'s client" in self.down
            if not over and not down and work.status is not None:
                raise AssertionError(f"{work.label}: {work.said.read_text()[-2_000:]}")

    def _hear(self, work: Work, words: list[str]) -> None:
        what, *rest = words
        self.counts[what] += 1
        if what in ("stored", "pinned", "kept"):
            self.stays.add((rest[0], what))
        elif what == "dropping":
            self.stays.discard((rest[0], "kept"))
        elif what in ("failed", "full"):
            self.counts[f"{what} {rest[0]}: {rest[1]}"] += 1
        elif what == "took":
            seconds = float(rest[1])
            self.slowest[rest[0]] = max(self.slowest.get(rest[0], 0.0), seconds)
            assert seconds < _PATIENCE, f"{work.label} waited {seconds} s for a {rest[0]}"

    def _look(self, now: bool = False) -> None:
        """Measure the folder of ``b`` while it is halted."""
        if "b's node" in self.down or (not now and time.monotonic() < self._next_look):
            return
        daemon = self.daemons["b"]
        descriptor = daemon._descriptor
        assert descriptor is not None
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        try:
            _until_halted(daemon.pid)
            found = content_bytes(daemon.storage)
        finally:
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        self.looks += 1
        self.most = max(self.most, found)
        assert found <= self.limit, f"{found - self.limit} bytes over the limit"
        self._next_look = time.monotonic() + _BETWEEN_LOOKS

    # --- in the end --------------------------------------------------------------------------

    def _check(self) -> None:
        b = self.daemons["b"]
        usage = json.loads(b.cli("du", "--json").stdout)
        assert usage["used"] <= self.limit
        assert usage["reserved"] == 0
        for uri, why in self.stays:
            sha1 = uri[7:47]
            path = b.storage / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1
            path = self.linked if why == "linked" else path
            assert path.exists(), f"{uri}, which was {why}, is not there"
            assert hashlib.sha1(path.read_bytes()).hexdigest() == sha1, f"{uri} is damaged"
        report = json.loads(b.cli("verify", "--again", "--json").stdout)
        for what in ("damaged", "lost", "unreadable", "stale"):
            assert not report[what], report
        assert (report["unknown"], report["vanished"]) == (0, 0), report
        kept = json.loads(b.cli("kept", "list", "--json").stdout)["here"]
        whole = {each["uri"][7:47] for each in kept if each["whole"]}
        for uri in (uri for uri, why in self.stays if why == "kept"):
            assert uri[7:47] in whole, f"{uri} is not kept"

    def state(self) -> str:
        return f"{self.counts['got']} fetches, {self.most / 1e6:.0f} MB at most"


def _until_halted(pid: int) -> None:
    """Until no thread of a process runs any more."""
    deadline = time.monotonic() + 10
    while True:
        states = set()
        for task in os.listdir(f"/proc/{pid}/task"):
            text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
            states.add(text.rpartition(")")[2].split()[0])
        if states == {"T"}:
            return
        assert time.monotonic() < deadline, states


def content_bytes(storage: Path) -> int:
    """Bytes of content that lie in a storage folder, hash trees and what is being written included."""
    total = 0
    for part in ("sha1", "tmp"):
        for where, _, names in os.walk(storage / part):
            for name in names:
                if name.endswith((".map", ".checked", ".link")):
                    continue
                status = os.stat(os.path.join(where, name))
                held = status.st_size
                if (
                    part == "tmp" or ".partial" in name
                ):  # filled by and by; the last page may be half empty
                    held = max(0, min(held, status.st_blocks * 512) - _PAGE)
                total += held
    return total


def _told(trial: StoreTrial) -> list[str]:
    why = [each for _, each in trial.stays]
    return [
        f"limit {trial.limit} bytes; at most {trial.most}, measured {trial.looks} times",
        f"what was done: {dict(sorted(trial.counts.items()))}",
        f"there in the end: { {each: why.count(each) for each in sorted(set(why))} }",
        f"the slowest, in seconds: {dict(sorted(trial.slowest.items()))}",
    ]


if __name__ == "__main__":
    sys.exit(
        from_command_line(
            StoreTrial, _told, fetches=5_000, files=2_500, limit=1_024, kills=20, seed=1
        )
    )
