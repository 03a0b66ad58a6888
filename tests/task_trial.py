"""Actions under fire: each notes its number in a file, while everybody is killed at random.

Real daemons (a proxy, two with a backend, the requester's), each with a client process. Every one of
these may be killed with SIGKILL at any moment, and is started again.

    ./scripts/trial tasks --kills 100 --actions 500 [--seed S]

What must hold: no number is noted twice; every request ends as finished, failed or unknown (that of
a requester that was killed is unknown to it); what finished is noted, what failed is not, and what is
noted has finished or is unknown.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.trial import POLL_SECONDS, Script, Trial, from_command_line

END_SECONDS: Final = 90.0
"""After the last kill, every request must have ended within so long."""
_KILL_WITHIN: Final = 0.1
"""Seconds to the next kill, at most, once enough requests have ended that the kills spread evenly."""
_WAITS: Final = 2.0
"""Seconds after which the next kill comes although they have not."""

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


class TaskTrial(Trial):
    """See the module. ``actions``: how many are asked for; the rest as :class:`~tests.trial.Trial`."""

    def __init__(self, folder: Path, *, actions: int, **options: Any) -> None:
        super().__init__(folder, ("requester", "a", "c"), **options)
        self.actions = actions
        self.ends: Counter[str] = Counter()
        """How requests ended."""
        self._ledger, self._asked, self._ended = (
            folder / name for name in ("ledger", "asked", "ended")
        )
        for path in (self._ledger, self._asked, self._ended):
            path.touch()

    def set_up(self) -> None:
        self.meet("requester", self.daemons["proxy"].url)
        for name in ("a", "c"):
            path = self.daemons[name].home / "backend.py"
            path.write_text(BACKEND)
            # As a script, so that its processes find the function.
            run = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
            self.scripts[name] = Script(self.daemons[name], name, run)
        files = [str(path) for path in (self._ledger, self.actions, self._asked, self._ended)]
        self.scripts["requester"] = Script(
            self.daemons["requester"], "requester", REQUESTER, *files
        )

    # --- trouble -----------------------------------------------------------------------------

    def run(self) -> None:
        for number in range(self.kills):
            self._wait_for(self.actions * number // (self.kills + 1))
            time.sleep(self.rng.uniform(0, _KILL_WITHIN))
            back = list(self.down)
            if self.rng.random() < len(self.daemons) / (len(self.daemons) + len(self.scripts)):
                self.kill(number, self.daemons, "node")
            else:
                self.kill(number, self.scripts, "client")
            self.bring_back(back)
        self.bring_back(self.down)
        requester = self.scripts["requester"]
        self.wait(lambda: requester.status is not None, END_SECONDS)
        assert requester.status == 0, requester.said.read_text()[-3000:]
        self._check()

    def _wait_for(self, ends: int) -> None:
        begun = time.monotonic()
        while len(self._ended.read_bytes().splitlines()) < ends:
            if time.monotonic() - begun > _WAITS:
                return
            time.sleep(POLL_SECONDS)

    # --- what must hold ----------------------------------------------------------------------

    def state(self) -> str:
        asked, ended = (path.read_bytes().count(b"\n") for path in (self._asked, self._ended))
        return f"asked {asked}, ended {ended}"

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


def _told(trial: TaskTrial) -> list[str]:
    return [f"{trial.actions} actions: {dict(sorted(trial.ends.items()))}; none ran twice"]


if __name__ == "__main__":
    sys.exit(from_command_line(TaskTrial, _told, kills=100, actions=500, seed=1))
