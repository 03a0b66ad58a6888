"""What the benchmarks have in common: rows of figures, turns, and programs run as a user's."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.daemons import Daemon


class Row:
    """One line of the report: what, its figures, the unit, and what is asked of it."""

    def __init__(self, name: str, values: list[float], unit: str, asked: str = "") -> None:
        self.name, self.values, self.unit, self.asked = name, values, unit, asked

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        figures = f"{self.median:9.2f}  ({low:.2f} .. {high:.2f}) {self.unit}"
        return f"{self.name:58} {figures:40} {self.asked}"


def processor_seconds(pid: int) -> float:
    """What a process has taken of the processors since it was started."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(daemon: Daemon, program: str, *arguments: str, stdin: str | None = None) -> Any:
    return json.loads(daemon.python(program, *arguments, stdin=stdin))


def scratch() -> Path:
    """A folder for all that a benchmark writes, on the disk that TMPDIR names. Its path is short, for
    sockets."""
    return Path(tempfile.mkdtemp(prefix="kp"))


def settle() -> None:
    """Let the disk finish what the last run left to do."""
    os.sync()
    time.sleep(0.3)


def take_turns(runs: int, *works: Callable[[], float]) -> list[list[float]]:
    """Run each in turn, ``runs`` times after one warm-up; the figures of each.

    Each turn begins with another one: what a work leaves behind is the next one's to bear.
    """
    figures: list[list[float]] = [[] for _ in works]
    for turn in range(runs + 1):
        for place in range(len(works)):
            index = (turn + place) % len(works)
            settle()
            value = works[index]()
            if turn:
                figures[index].append(value)
    return figures
