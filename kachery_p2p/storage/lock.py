"""The lock that keeps two daemons off one storage folder, or one state folder.

It is held by an open file, so the kernel gives it up with the process, however that ends. The file
itself stays and holds the process id, for the message only.

Some file systems of clusters have no locks (Lustre and BeeGFS, as they are often mounted). There the
file says which process of which computer has the folder: a process that is gone has it no longer, and
of another computer nothing can be known, so that its word counts until it is taken back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import StorageInUse

from .paths import LOCK_FILE

_NO_LOCKS: Final = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""What a file system answers that has no locks."""
_MOST_OWNER: Final = 300


def lock_folder(root: Path, name: str = LOCK_FILE, mode: int = 0o644) -> int:
    """The descriptor that holds the lock of ``root``, a file in it, until :func:`unlock_folder`.

    Raises:
        StorageInUse: another one holds it.
        OSError: the lock file cannot be made.
    """
    fd = os.open(root / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    owner = b"%d\n" % os.getpid()
    try:
        if not try_lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB):
            _refuse_owner(fd, root, name)
            owner += os.fsencode(socket.gethostname())
        os.ftruncate(fd, 0)
        os.pwrite(fd, owner, 0)
    except BlockingIOError:
        pid = _owner(fd)[0]
        os.close(fd)
        raise StorageInUse(pid=pid or "unknown", path=str(root)) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def unlock_folder(fd: int) -> None:
    """Give the lock up, and the word that counts where there are no locks."""
    try:
        # Where there are locks the file stays as it is: on a full disk it could not be written again.
        if _owner(fd)[1]:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def try_lock(fd: int, how: int) -> bool:
    """``flock``; False: the file system has no locks.

    Raises:
        BlockingIOError: another one holds it.
        OSError: it cannot be asked.
    """
    try:
        fcntl.flock(fd, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def process_exists(pid: int) -> bool:
    """Whether a process of this number runs on this computer."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _owner(fd: int) -> tuple[str, str]:
    """Process and computer that a lock file names, as far as it does."""
    lines = os.pread(fd, _MOST_OWNER, 0).decode("utf-8", "replace").splitlines()
    pid, host = [*lines, "", ""][:2]
    return pid.strip(), host.strip()


def _refuse_owner(fd: int, root: Path, name: str) -> None:
    pid, host = _owner(fd)
    if not pid.isdigit() or int(pid) == os.getpid():
        return
    if host != socket.gethostname():
        told = f"{pid} on computer {host}; if it has ended there, remove {name} in that folder"
        raise StorageInUse(pid=told, path=str(root))
    if process_exists(int(pid)):
        raise StorageInUse(pid=pid, path=str(root))
