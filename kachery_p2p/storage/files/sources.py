"""Reading a user's file descriptor into a :class:`.writer.ContentWriter`.

Only regular files and pipes are read: a device has no end and a folder no bytes. A regular file is
read from its beginning to the size it has when reading begins, so a log that is being appended to
gives a snapshot. Where the file system can clone (btrfs, xfs, NFS 4.2), the copy costs nothing and
the clone is hashed; elsewhere two buffers take turns, one being read into while the other is hashed
and written. (``copy_file_range`` without a clone moves the bytes as often as this does.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import BadInput, BadPath, Cancelled
from kachery_p2p.protocol.limits import MIB
from kachery_p2p.storage.direct import aligned_buffer
from kachery_p2p.storage.disk import disk_errors
from kachery_p2p.storage.file_stamps import is_racy

from .writer import ContentWriter

PIECE: Final = 4 * MIB
"""Bytes of one buffer."""

_FICLONE: Final = 0x40049409
_POLL_MS: Final = 100


def never() -> bool:
    """The ``cancelled`` of a call that nobody can cancel."""
    return False


def ignore(done: int) -> None:
    """The ``advanced`` of a call that nobody watches."""


def check_source(fd: int) -> os.stat_result:
    """The status of a descriptor that can be read from. Raises :class:`BadInput` otherwise."""
    try:
        status = os.fstat(fd)
        readable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
    except OSError as error:
        raise _unreadable(error.strerror) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise _unreadable("it is neither a regular file nor a pipe")
    if not readable:
        raise _unreadable("it is not open for reading")
    return status


def settle(fd: int) -> None:
    """What is written to a file from here on shows in its times, also if it is written through memory
    that was mapped before (as by numpy's memmap): that is noticed with the first write to a page, and
    then not again until the page is on the disk."""
    if is_racy(os.fstat(fd)):
        with contextlib.suppress(OSError):  # a file system without; or the disk is full
            os.fsync(fd)


def check_same_file(status: os.stat_result, path: Path) -> None:
    """Whether what is open can be linked, and lies at that path. Raises :class:`BadPath` otherwise."""
    if not path.is_absolute() or not stat.S_ISREG(status.st_mode):
        raise BadPath(path=str(path), reason="only a regular file's absolute path can be linked")
    try:
        there = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadPath(path=str(path), reason=str(error)) from error
    if not os.path.samestat(status, there):
        raise BadPath(path=str(path), reason="it is not the file that was opened")


def copy_from(
    fd: int,
    writer: ContentWriter,
    cancelled: Callable[[], bool],
    advanced: Callable[[int], None] = ignore,
) -> None:
    """Feed all of ``fd`` to ``writer``. The position of a regular file is neither used nor moved.

    ``advanced`` is told after every piece how many bytes are done.

    Raises:
        BadInput: ``fd`` cannot be read.
        Cancelled: ``cancelled()`` was true between two pieces.
        StorageFull, StorageDamaged: the writer's.
    """
    status = check_source(fd)
    if not stat.S_ISREG(status.st_mode):
        _feed(lambda view, at: _read_pipe(fd, view, cancelled), None, writer, cancelled, advanced)
        return
    # Files such as those in /proc have bytes but no size.
    size = status.st_size or None
    if size is not None:
        writer.expect(size)  # rather than to find out at the end that there is no room
    if size is not None and writer.fd >= 0 and size >= PIECE and clone(fd, writer.fd):
        with disk_errors("content being stored", writer.path):
            size = os.fstat(writer.fd).st_size
            source = writer.fd

            def read_clone(view: memoryview, at: int) -> int:
                return os.preadv(source, [view], at)

            _feed(read_clone, size, writer, cancelled, advanced, written=True)
        return
    _feed(lambda view, at: _read_file(fd, view, at), size, writer, cancelled, advanced)


def _feed(
    read: Callable[[memoryview, int], int],
    size: int | None,
    writer: ContentWriter,
    cancelled: Callable[[], bool],
    advanced: Callable[[int], None],
    written: bool = False,
) -> None:
    length = PIECE if size is None else min(PIECE, size)
    buffers = [aligned_buffer(length), aligned_buffer(length)]
    at = 0
    while size is None or at < size:
        if cancelled():
            raise Cancelled(what="Storing a file")
        view = buffers[0] if size is None else buffers[0][: size - at]
        filled = 0
        while filled < len(view):
            count = read(view[filled:], at + filled)
            if not count:
                break
            filled += count
        if filled:
            writer.feed(view[:filled], written=written, aligned=True)
        at += filled
        advanced(at)
        if filled < len(view):
            break
        buffers.reverse()


def _read_file(fd: int, view: memoryview, offset: int) -> int:
    try:
        return os.preadv(fd, [view], offset)
    except OSError as error:
        raise _unreadable(error.strerror) from error


def _read_pipe(fd: int, view: memoryview, cancelled: Callable[[], bool]) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        while not poll.poll(_POLL_MS):
            if cancelled():
                raise Cancelled(what="Storing a file")
        return os.readv(fd, [view])
    except OSError as error:
        raise _unreadable(error.strerror) from error


def clone(source: int, target: int) -> bool:
    """Let one open file share the bytes of another; False if that cannot be done here."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        # Another file system, or one that cannot; what else may be wrong, the copy will say.
        return False
    return True


def _unreadable(reason: str | None) -> BadInput:
    return BadInput(what="the file to be stored", reason=f"it cannot be read: {reason}")
