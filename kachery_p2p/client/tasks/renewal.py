"""When a worker process makes place for a new one: after so many runs, or when it has grown too large.

Functions leak, and so do the libraries that they use. What a process took it gives back at its end, so
a leak costs no more than a bound says. A process is renewed between runs, never during one.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Final

from kachery_p2p.protocol.errors import BadInput

_CGROUP_LIMIT: Final = "/sys/fs/cgroup/memory.max"


@dataclass(frozen=True)
class Renewal:
    """``most_runs``: of one process; None: any number. ``most_bytes``: of memory that it may hold
    between two runs; None: its share of this computer's, if every slot had one as large."""

    most_runs: int | None = None
    most_bytes: int | None = None

    def check(self) -> None:
        """Raises BadInput."""
        for name, value in (
            ("max_tasks_per_worker", self.most_runs),
            ("max_memory_per_worker", self.most_bytes),
        ):
            if value is not None and value < 1:
                raise BadInput(what=name, reason=f"{value} is less than 1; None sets no bound")

    def is_due(self, runs: int, held: int, slots: int) -> bool:
        """Whether a process that has run so much, and holds so many bytes now, is to be renewed."""
        if self.most_runs is not None and runs >= self.most_runs:
            return True
        return held > (all_memory() // slots if self.most_bytes is None else self.most_bytes)


def held_memory() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def all_memory() -> int:
    """Bytes of memory that this process and its siblings may have together: the computer's, or what a
    container or a job of a scheduler allows."""
    most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError), open(_CGROUP_LIMIT) as file:
        most = min(most, int(file.read()))  # "max" is no number
    return most
