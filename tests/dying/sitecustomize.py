"""Lets a node die by SIGKILL right before a chosen step of what it does on the disk: for
:mod:`tests.step_trial`, which puts this folder on the node's ``PYTHONPATH``.

A step is a sync, a rename, a link, a deletion, or the beginning or end of a database's commit. They
are counted while there is a file at ``$TRIAL_DIES_AT``, which says before which step the node dies;
how many there were is written beside it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
from typing import Any

_EVENTS = frozenset({"os.rename", "os.link", "os.remove", "os.truncate"})


class _Steps:
    def __init__(self, path: str) -> None:
        self._path = path
        self._count = 0
        self._lock = threading.Lock()

    def one(self) -> None:
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._count = 0
            return
        last = int(os.read(fd, 20))
        os.close(fd)
        with self._lock:
            self._count += 1
            fd = os.open(f"{self._path}.count", os.O_WRONLY | os.O_CREAT, 0o600)
            os.pwrite(fd, b"%20d" % self._count, 0)
            os.close(fd)
            if self._count >= last:
                os.kill(os.getpid(), signal.SIGKILL)


def _install(steps: _Steps) -> None:
    def heard(event: str, arguments: Any) -> None:
        if event in _EVENTS:
            steps.one()

    sys.addaudithook(heard)
    for name in ("fsync", "fdatasync"):
        original = getattr(os, name)

        def synced(fd: int, original: Any = original) -> None:
            steps.one()
            original(fd)

        setattr(os, name, synced)

    class Connection(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, *values)
            steps.one()
            cursor = super().execute(sql)
            steps.one()
            return cursor

    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return connect(*arguments, factory=Connection, **options)

    sqlite3.connect = connected  # type: ignore[assignment]


if "kachery_p2p.node" in sys.orig_argv and "TRIAL_DIES_AT" in os.environ:
    _install(_Steps(os.environ["TRIAL_DIES_AT"]))
