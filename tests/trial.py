"""What the trials share: real daemons, each with a client process, that are killed and come back."""

from __future__ import annotations

import abc
import argparse
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Self

from tests.daemons import Daemon, free_port, short_folder

POLL_SECONDS: Final = 0.02
_STAYS_DOWN: Final = 0.3
"""Share of the killed that come back only after the next kill."""


class Script:
    """A client process of a daemon, which may be killed and started again."""

    def __init__(self, daemon: Daemon, label: str, code: str, *arguments: str) -> None:
        self.label = label
        self._daemon = daemon
        self._command = [sys.executable, "-c", code, *arguments]
        self.said = daemon.home / "client.txt"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.said.open("ab") as out:
            self._process = subprocess.Popen(
                self._command, env=self._daemon.env, cwd=self._daemon.home, stdout=out, stderr=out
            )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @property
    def status(self) -> int | None:
        """None while it runs."""
        assert self._process is not None
        return self._process.poll()


class Trial(abc.ABC):
    """A proxy and ``leaves``, the first of which owns the channel ``lab``, and their scripts.

    Args:
        folder: theirs.
        leaves: labels of the other daemons.
        kills: how often somebody is killed.
        seed: of everything that is random.
        options: of every daemon, as those of ``daemon start``.
        say: gets a line for each thing that happens.
    """

    def __init__(
        self,
        folder: Path,
        leaves: Iterable[str],
        *,
        kills: int,
        seed: int,
        options: dict[str, str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.kills = kills
        self.rng = random.Random(seed)
        self.done: Counter[str] = Counter()
        """What was killed or cut, and how often."""
        self.daemons = {
            "proxy": Daemon(folder, "proxy", listen=f"127.0.0.1:{free_port()}", proxy=True),
            **{name: Daemon(folder, name) for name in leaves},
        }
        for daemon in self.daemons.values():
            daemon.options |= options or {}
        self.scripts: dict[str, Script] = {}
        self.say = say
        self.down: dict[str, Callable[[], object]] = {}
        """Who was killed and is to be started again, and how."""

    def __enter__(self) -> Self:
        try:
            for daemon in self.daemons.values():
                daemon.start()
            self.set_up()
            for script in self.scripts.values():
                script.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for script in self.scripts.values():
            if script._process is not None:
                script.kill()
        for name in reversed(self.daemons):
            self.daemons[name].close()

    @abc.abstractmethod
    def set_up(self) -> None:
        """Make the channel and the scripts; the daemons run."""

    @abc.abstractmethod
    def run(self) -> None:
        """All the kills, then the end of it. Raises AssertionError for what must not be."""

    @abc.abstractmethod
    def state(self) -> str:
        """How far it is, in a few words."""

    def meet(self, owner: str, bootstrap: str) -> None:
        """Put all daemons on the channel ``lab``."""
        others = [name for name in self.daemons if name not in ("proxy", owner)]
        cli = self.daemons[owner].cli
        cli("channel", "create", "lab", "--bootstrap", bootstrap)
        for name in others:
            cli("channel", "add-node", "lab", self.daemons[name].node_id, "--label", name)
        text = cli("channel", "export", "lab").stdout
        self.daemons["proxy"].cli("channel", "join", "-", "--roles", "none", stdin=text)
        for name in others:
            self.daemons[name].cli("channel", "join", "-", stdin=text)

    def kill(self, number: int, those: dict[str, Daemon] | dict[str, Script], what: str) -> str:
        """Kill one of those that are not down; who. ``what``: a ``node`` or a ``client``."""
        name = self.rng.choice(sorted(n for n in those if f"{n}'s {what}" not in self.down))
        those[name].kill()
        self.down[f"{name}'s {what}"] = those[name].start
        self.note(number, f"killed {name}'s {what}", f"{what} of {self.kind(name)}")
        if self.rng.random() >= _STAYS_DOWN:
            self.bring_back([f"{name}'s {what}"])
        return name

    def kind(self, name: str) -> str:
        """What those who do the same are called together."""
        return name

    def bring_back(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.down.pop(name)()

    def note(self, number: int, what: str, kind: str) -> None:
        """Something was done."""
        self.done[kind] += 1
        down = f"; down: {', '.join(self.down)}" if self.down else ""
        self.say(f"{number + 1:4}: {what:24} {self.state()}{down}")

    def wait(self, over: Callable[[], bool], seconds: float) -> float:
        """Wait until it is over; how many seconds it took."""
        begun = time.monotonic()
        while not over():
            assert time.monotonic() - begun < seconds, f"not over: {self.state()}"
            time.sleep(POLL_SECONDS)
        return time.monotonic() - begun


def from_command_line(
    make: Callable[..., Trial],
    told: Callable[[Trial], Iterable[str]],
    flags: Iterable[str] = (),
    **numbers: int,
) -> int:
    """Run a trial as the command line says and print how it went; 0, or an AssertionError.

    Args:
        make: the trial, from its folder and options.
        told: what is printed of one that is over.
        flags, numbers: its options; a number has a default.
    """
    parser = argparse.ArgumentParser(prog="scripts/trial")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name in flags:
        parser.add_argument(f"--{name}", action="store_true")
    begun = time.monotonic()
    with short_folder() as folder:
        options = vars(parser.parse_args())
        with make(folder, say=lambda line: print(line, flush=True), **options) as trial:
            trial.run()
    print(f"killed or cut: {dict(sorted(trial.done.items()))}")
    print(*told(trial), sep="\n")
    print(f"{time.monotonic() - begun:.0f} s")
    return 0
