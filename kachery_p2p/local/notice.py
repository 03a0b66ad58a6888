"""The notice that a running node leaves in its state folder: where its socket is, on which computer.

The environment says where a node's socket should be; a login session, cron, a batch job and another
computer with the same home folder have different ones. The state folder they share.

Invariants: the node holds the notice's file locked for as long as it runs, so that the kernel takes the
notice back with the process. Where the file system has no locks, or another computer's do not reach
here, it is its process number, or how lately it was touched, that tells.

Non-goals: keeping two nodes off one folder (that is the storage's own lock).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from kachery_p2p.protocol.limits import MAX_NOTICE, NOTICE_LATE_SECONDS
from kachery_p2p.storage.lock import process_exists, try_lock

NAME: Final = "node.json"


@dataclass(frozen=True)
class Notice:
    """What a node that runs says of itself: paths, its computer's name, its process there."""

    socket: str
    storage_dir: str
    host: str
    pid: int
    processes: int = 0
    """Which numbers of processes ``pid`` is one of: a container has its own. 0: not known."""

    @property
    def is_here(self) -> bool:
        """Whether ``pid`` is the node's here, too: on this computer, and in this container."""
        return self.host == host_name() and self.processes in (0, process_numbers())


def host_name() -> str:
    """The name of this computer, or container."""
    return socket.gethostname()


def process_numbers() -> int:
    """The identity of the system's (or container's) list of processes; 0: not known."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # no Linux, or no /proc
        return 0


class NoticeFile:
    """A node's own notice, made when its API listens."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / NAME
        self._fd = -1

    def write(self, notice: Notice) -> None:
        """Leave it, or another one in its place. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try_lock(self._fd, fcntl.LOCK_EX)  # whoever reads holds it for a moment only
        data = json.dumps(asdict(notice)).encode()
        os.pwrite(self._fd, data.ljust(MAX_NOTICE), 0)

    def touch(self) -> None:
        """The node still runs, for those on other computers. Raises OSError."""
        if self._fd >= 0:
            os.utime(self._fd)

    def remove(self) -> None:
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the folder has gone, or is read-only by now
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def read_notice(state_dir: Path) -> Notice | None:
    """The notice of the node that runs with this state folder, if one does."""
    try:
        fd = os.open(state_dir / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        notice = _parsed(os.pread(fd, MAX_NOTICE, 0))
        return notice if notice is not None and _is_of_a_running_node(fd, notice) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def _parsed(data: bytes) -> Notice | None:
    try:
        value: dict[str, Any] = json.loads(data)
        return Notice(
            str(value["socket"]),
            str(value["storage_dir"]),
            str(value["host"]),
            int(value["pid"]),
            int(value.get("processes", 0)),
        )
    except (ValueError, KeyError, TypeError):
        return None


def _is_of_a_running_node(fd: int, notice: Notice) -> bool:
    try:
        locked = not try_lock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    if notice.is_here:
        return locked and process_exists(notice.pid)
    return time.time() - os.fstat(fd).st_mtime < NOTICE_LATE_SECONDS
