"""The lock that keeps two daemons off one storage folder, or one state folder.

It is held by an open file, so the kernel gives it up with the process, however that ends. The file
itself stays and holds the process id, for the message only.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kachery_p2p.protocol.errors import StorageInUse

from .paths import LOCK_FILE


def lock_folder(root: Path, name: str = LOCK_FILE, mode: int = 0o644) -> int:
    """The descriptor that holds the lock of ``root``, a file in it, until it is closed.

    Raises:
        StorageInUse: another one holds it.
        OSError: the lock file cannot be made.
    """
    fd = os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BlockingIOError:
        owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise StorageInUse(pid=owner or "unknown", path=str(root)) from None
    except BaseException:
        os.close(fd)
        raise
    return fd
