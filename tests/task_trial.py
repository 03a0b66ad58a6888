"""Actions under fire: each notes its number in a file, while everybody is killed at random.

Real daemons (a proxy, two with a backend, the requester's), each with a client process. Every one of
these may be killed with SIGKILL at any moment, and is started again.

    ./scripts/trial tasks --kills 100 --actions 500 [--seed S]

What must hold: no number is noted twice; every request ends as finished, failed or unknown (that of
a requester that was killed is unknown to it); what finished is noted, what failed is not, and what is
noted has finished or is unknown.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.daemons import Daemon, free_port, short_folder
from tests.feed_trial import Script

END_SECONDS: Final = 90.0
"""After the last kill, every request must have ended within so long."""
_KILL_WITHIN: Final = 0.1
"""Seconds to the next kill, at most, once enough requests have ended that the kills spread evenly."""
_WAITS: Final = 2.0
"""Seconds after which the next kill comes although they have not."""
_STAYS_DOWN: Final = 0.3
"""Share of the killed that come back only after the next kill."""
_POLL_SECONDS: Final = 0.02

BACKEND: Final = """
import os, sys, time
import kachery_p2p as kc

@kc.taskfunction("note.1", type="action")
def note(*, n, path):
    log = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(log, b"%d\\n" % n)
    os.close(log)
    time.sleep(0.005)
    return n

kc.run_task_backend(channels=["lab"], slots=2)
"""

REQUESTER: Final = """
import asyncio, os, sys
import kachery_p2p as kc
ledger, total, asked, ended = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
first = max((int(line) for line in open(asked)), default=-1) + 1
ask_log = os.open(asked, os.O_WRONLY | os.O_APPEND)
end_log = os.open(ended, os.O_WRONLY | os.O_APPEND)

async def one(n):
    # From here on nobody asks for this number again, whatever happens to this process.
    os.write(ask_log, b"%d\\n" % n)
    request = await kc.arequest_task(
        "note.1", {"n": n, "path": ledger}, "action", channel="lab",
        timeout_sec=60, backend_timeout_sec=30,
    )
    try:
        assert await request == n
        end = "finished"
    except kc.errors.TaskUnknown:
        end = "unknown"
    except (kc.errors.TaskFailed, kc.errors.NoBackend, kc.errors.DeadlineExceeded) as error:
        print(n, error.code, error, flush=True)
        end = "failed"
    except (kc.errors.LinkClosed, kc.errors.DaemonNotRunning) as error:
        print(n, error.code, error, flush=True)
        end = "unknown"  # the node that could say did not come back
    os.write(end_log, b"%d %s\\n" % (n, end.encode()))

async def main():
    numbers = iter(range(first, total))
    async def worker():
        for n in numbers:
            await one(n)
    await asyncio.gather(*(worker() for _ in range(8)))

asyncio.run(main())
"""


class Trial:
    """See the module. ``say`` gets a line for each thing that happens."""

    def __init__(
        self,
        folder: Path,
        *,
        kills: int,
        actions: int,
        seed: int,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.kills, self.actions = kills, actions
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        """What was killed, and how often."""
        self.ends: Counter[str] = Counter()
        """How requests ended."""
        self._say = say
        self._down: dict[str, Callable[[], object]] = {}
        self._proxy = Daemon(folder, "proxy", listen=f"127.0.0.1:{free_port()}", proxy=True)
        self._leaves = {name: Daemon(folder, name) for name in ("a", "c", "requester")}
        self._ledger, self._asked, self._ended = (
            folder / name for name in ("ledger", "asked", "ended")
        )
        for path in (self._ledger, self._asked, self._ended):
            path.touch()
        self._scripts: dict[str, Script] = {}

    def __enter__(self) -> Trial:
        try:
            self._set_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for script in self._scripts.values():
            script.kill()
        for daemon in (*self._leaves.values(), self._proxy):
            daemon.close()

    def _set_up(self) -> None:
        for daemon in (self._proxy, *self._leaves.values()):
            daemon.start()
        owner = self._leaves["requester"]
        owner.cli("channel", "create", "lab", "--bootstrap", self._proxy.url)
        for name in ("a", "c"):
            owner.cli("channel", "add-node", "lab", self._leaves[name].node_id, "--label", name)
        text = owner.cli("channel", "export", "lab").stdout
        self._proxy.cli("channel", "join", "-", "--roles", "none", stdin=text)
        for name in ("a", "c"):
            self._leaves[name].cli("channel", "join", "-", stdin=text)
            path = self._leaves[name].home / "backend.py"
            path.write_text(BACKEND)
            # As a script, so that its processes find the function.
            run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
            self._scripts[name] = Script(self._leaves[name], name, run)
        files = [str(path) for path in (self._ledger, self.actions, self._asked, self._ended)]
        self._scripts["requester"] = Script(owner, "requester", REQUESTER, *files)
        for script in self._scripts.values():
            script.start()

    # --- trouble -----------------------------------------------------------------------------

    def run(self) -> None:
        """All the kills, then the end of it. Raises AssertionError for what must not be."""
        for number in range(self.kills):
            self._wait_for(self.actions * number // (self.kills + 1))
            time.sleep(self.rng.uniform(0, _KILL_WITHIN))
            back = list(self._down)
            self._kill(number)
            self._bring_back(back)
        self._bring_back(list(self._down))
        begun = time.monotonic()
        while self._scripts["requester"].status is None:
            assert time.monotonic() - begun < END_SECONDS, f"not over: {self._state()}"
            time.sleep(_POLL_SECONDS)
        said = self._scripts["requester"].said.read_text()
        assert self._scripts["requester"].status == 0, said[-3000:]
        self._check()

    def _wait_for(self, ends: int) -> None:
        begun = time.monotonic()
        while len(self._ended.read_bytes().splitlines()) < ends:
            if time.monotonic() - begun > _WAITS:
                return
            time.sleep(_POLL_SECONDS)

    def _kill(self, number: int) -> None:
        those: dict[str, Daemon | Script] = {
            f"{name}'s node": daemon
            for name, daemon in {"proxy": self._proxy, **self._leaves}.items()
        }
        those |= {f"{name}'s client": script for name, script in self._scripts.items()}
        name = self.rng.choice(sorted(each for each in those if each not in self._down))
        those[name].kill()
        self.done[name] += 1
        self._down[name] = those[name].start
        self._say(f"{number + 1:4}: killed {name:20} {self._state()}")
        if self.rng.random() >= _STAYS_DOWN:
            self._bring_back([name])

    def _bring_back(self, names: list[str]) -> None:
        for name in names:
            self._down.pop(name)()

    # --- what must hold ----------------------------------------------------------------------

    def _state(self) -> str:
        counts = [len(path.read_text().split("\n")) - 1 for path in (self._asked, self._ended)]
        return f"asked {counts[0]}, ended {counts[1]}; down: {', '.join(self._down) or 'nobody'}"

    def _check(self) -> None:
        noted = Counter(int(line) for line in self._ledger.read_text().split())
        asked = [int(line) for line in self._asked.read_text().split()]
        ends = dict(line.split() for line in self._ended.read_text().splitlines())
        assert sorted(asked) == list(range(self.actions)), "a number was asked for twice, or never"
        twice = sorted(n for n, count in noted.items() if count > 1)
        assert not twice, f"these ran more than once: {twice}"
        for n in asked:
            # A requester that was killed while it waited knows nothing of the end.
            end = ends.get(str(n), "asked by a process that was killed")
            self.ends[end] += 1
            assert end != "finished" or noted[n], f"{n} finished, and is not noted"
            assert end != "failed" or not noted[n], f"{n} failed, and is noted"
        assert noted.keys() <= set(asked)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/trial tasks")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--actions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.monotonic()
    with short_folder() as folder:
        trial = Trial(
            folder,
            kills=options.kills,
            actions=options.actions,
            seed=options.seed,
            say=lambda line: print(line, flush=True),
        )
        with trial:
            trial.run()
    print(f"killed: {dict(sorted(trial.done.items()))}")
    print(f"{options.actions} actions: {dict(sorted(trial.ends.items()))}; none ran twice")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
