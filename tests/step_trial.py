"""Kills a node before each step of what it does on the disk, one after another, and looks what is left.

    ./scripts/trial steps [--every N] [--seed S]

Real daemons: a proxy; ``a``, which stores a folder with a file that has a manifest and small ones,
pushes and archives it; ``b``, which keeps it. For each step (:mod:`tests.dying.sitecustomize`) of the
keeper and the pusher during a push, and of ``a`` during ``archive``, everything is new. ``--every 3``
takes each third step.

What must hold: if the push says that it is kept, it is so after another kill, whole and right; if it
does not, pushing again makes it so, and nothing counts twice. What lies in the archive under a name is
what the name says; what counts as archived is there; archiving again makes it so; and nothing is lost
to make room that is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from kachery_p2p.protocol.limits import MANIFEST_CHUNK
from tests.daemons import ROOT, Daemon, Lab, short_folder, until

_DYING: Final = ROOT / "tests" / "dying"
_SMALL: Final = 5
_NEVER: Final = 1_000_000


class Dying:
    """A daemon that can be told to die before a step."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._path = daemon.home / "dies-at"
        daemon.env["PYTHONPATH"] = f"{_DYING}:{daemon.env['PYTHONPATH']}"
        daemon.env["TRIAL_DIES_AT"] = str(self._path)

    def at(self, step: int) -> None:
        self._path.write_text(str(step))

    def steps(self) -> int:
        """How many there were since; from now on it does not die."""
        self._path.unlink(missing_ok=True)
        count = Path(f"{self._path}.count")
        found = int(count.read_text()) if count.exists() else 0
        count.unlink(missing_ok=True)
        return found

    def back(self) -> None:
        """Start it again, if it died or not."""
        self.daemon.kill()
        self.daemon.start()


class Steps:
    """Of one network. ``say`` gets a line for each round."""

    def __init__(self, lab: Lab, folder: Path, seed: int, say: Callable[[str], None]) -> None:
        self.a, self.b = Dying(lab.a), Dying(lab.b)
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.say = say
        self.done: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._round = 0

    # --- content -----------------------------------------------------------------------------

    def fresh(self) -> tuple[str, dict[str, int]]:
        """The URI of a folder that was never there before, and the hash and size of each file."""
        self._round += 1
        folder = self.a.daemon.home / f"folder-{self._round}"
        folder.mkdir()
        sizes = [MANIFEST_CHUNK + 100_000, 200_000, *(1_000,) * _SMALL]
        found = {}
        for number, size in enumerate(sizes):
            data = self._rng.randbytes(size)
            (folder / f"{number}.dat").write_bytes(data)
            found[hashlib.sha1(data).hexdigest()] = size
        uri = self.a.daemon.cli("store", str(folder)).stdout.strip()
        for path in folder.iterdir():
            path.unlink()
        return uri, found

    def check(self, daemon: Daemon, content: dict[str, int]) -> None:
        for sha1 in content:
            path = at(daemon.storage, sha1)
            assert path.exists(), f"{sha1} is not there"
            assert hashlib.sha1(path.read_bytes()).hexdigest() == sha1, f"{sha1} is damaged"

    # --- pushing -----------------------------------------------------------------------------

    def push(self, victim: Dying, step: int) -> bool:
        """Whether it died."""
        uri, content = self.fresh()
        self.keeper_is_known()
        victim.at(step)
        done = self.a.daemon.cli("push", uri, check=False)
        said = done.returncode == 0
        assert "Traceback" not in done.stderr, done.stderr
        died = victim.steps() >= step
        victim.back()
        if said:
            self.check(self.b.daemon, content)
            self.is_kept(uri, content)
        else:
            assert died, done.stderr
            self.again("push", uri)
        for _ in range(2):
            self.b.back()
            self.check(self.b.daemon, content)
            self.is_kept(uri, content)
        self.keeper_is_known()
        until(lambda: self.told(uri) == [True], "the pusher knows that it is kept")
        self.a.daemon.cli("kept", "drop", uri)
        until(lambda: not at(self.b.daemon.storage, next(iter(content))).exists(), "it goes")
        self.a.daemon.cli("rm", "--force", uri)
        self.done[f"push: {'said' if said else 'not said'}"] += 1
        return died

    def again(self, command: str, uri: str) -> None:
        def works() -> bool:
            done = self.a.daemon.cli(command, uri, check=False)
            assert "Traceback" not in done.stderr, done.stderr
            return done.returncode == 0

        until(works, f"{command} once more works")

    def keeper_is_known(self) -> None:
        until(
            lambda: self.a.daemon.cli("kept", "keepers", check=False).returncode == 0,
            "a knows its keeper",
        )

    def is_kept(self, uri: str, content: dict[str, int]) -> None:
        (here,) = json.loads(self.b.daemon.cli("kept", "list", "--json").stdout)["here"]
        assert here["uri"].partition("://")[2][:40] == uri.partition("://")[2][:40]
        assert here["whole"]
        assert here["count"] >= len(content) + 2

    def told(self, uri: str) -> list[Any]:
        kept = json.loads(self.a.daemon.cli("kept", "list", "--json").stdout)["elsewhere"]
        return [each["confirmed"] for each in kept]

    # --- archiving ---------------------------------------------------------------------------

    def to_archive(self, victim: Dying, step: int) -> bool:
        """Whether it died."""
        a = self.a.daemon
        uri, content = self.fresh()
        victim.at(step)
        done = a.cli("archive", uri, check=False)
        said = done.returncode == 0
        assert "Traceback" not in done.stderr, done.stderr
        died = victim.steps() >= step
        victim.back()
        self.archive_is_right()
        a.cli("gc", "--to", "1")
        gone = [sha1 for sha1 in content if not at(a.storage, sha1).exists()]
        for sha1 in gone:
            assert at(self.archive, sha1).exists(), f"{sha1} went and is in no archive"
        assert not said or len(gone) == len(content)
        self.again("archive", uri)
        self.archive_is_right()
        for sha1 in content:
            assert at(self.archive, sha1).exists()
        a.cli("gc", "--to", "1")
        a.cli("load", uri, "--dest", str(a.home / f"back-{self._round}"))
        for path in (a.home / f"back-{self._round}").iterdir():
            assert hashlib.sha1(path.read_bytes()).hexdigest() in content
            path.unlink()
        self.done[f"archive: {'said' if said else 'not said'}"] += 1
        return died

    def archive_is_right(self) -> None:
        """Whatever lies there under a name is what that says, and what counts as archived is there."""
        for path in (self.archive / "sha1").rglob("*"):
            if path.is_file() and len(path.name) == 40:
                found = hashlib.sha1(path.read_bytes()).hexdigest()
                assert found == path.name, f"{path.name} is something else in the archive"
        listed = self.a.daemon.cli("ls", "--archived", "--json").stdout.splitlines()
        for record in map(json.loads, listed):
            assert at(self.archive, record["sha1"]).exists(), f"{record['sha1']} is not there"

    # --- all of it ---------------------------------------------------------------------------

    def run(self, every: int, most: int) -> None:
        rounds: list[tuple[str, Callable[[Dying, int], bool], Dying]] = [
            ("keeper, push", self.push, self.b),
            ("pusher, push", self.push, self.a),
            ("archive", self.to_archive, self.a),
        ]
        for name, work, victim in rounds:
            step, died = 1, True
            while died and step <= most:
                died = work(victim, step)
                self.say(f"{name}: step {step}{'' if died else ' was not reached'}")
                self.done[name] += died
                step += every


def at(root: Path, sha1: str) -> Path:
    return root / "sha1" / sha1[:2] / sha1[2:4] / sha1[4:6] / sha1


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/trial steps")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--most", type=int, default=_NEVER)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.monotonic()
    with short_folder() as folder:
        lab = Lab(folder)
        steps = Steps(lab, folder, options.seed, lambda line: print(line, flush=True))
        lab.a.options |= {"archive": str(steps.archive), "archive_own": True}
        with lab:
            lab.b.cli("channel", "set", "lab", "--keep-for", "all")
            steps.run(options.every, options.most)
    print(f"{dict(sorted(steps.done.items()))}")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
