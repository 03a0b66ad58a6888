"""The few file system calls that the storage is made of, with typed errors.

Invariants: a call either did all it was asked or raised; whatever the operating system answers
arrives as :class:`StorageFull` (no space, quota) or :class:`StorageDamaged` (everything else), with
the path in it. Folders are made durable together with the entry that names them.

Non-goals: anything that knows what a blob is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import (
    KacheryError,
    StorageDamaged,
    StorageFull,
    StorageReadOnly,
)
from kachery_p2p.protocol.limits import STRAY_SECONDS

from .lock import try_lock

Buffer = bytes | bytearray | memoryview

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
READ_ONLY: Final = 0o444
"""The mode of stored content, less what the umask takes: nothing writes to it by accident."""
HOLE: Final = 64 * 1024
"""Bytes of zeros, aligned, that are left out when a file is written."""
_ZEROS: Final = bytes(HOLE)
_DESCRIPTORS: Final = " ('ulimit -n' shows and raises how many)"
_ADVICE: Final = {
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.EFBIG: " for this file system, or for 'ulimit -f'",
    errno.EXDEV: " (a folder inside the storage lies on another file system, or leads there: move "
    "all of the storage there, and have a link to it here)",
}
_REFUSED: Final = (errno.EACCES, errno.EPERM)
CANNOT: Final = (*_REFUSED, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems say, those of FUSE and of Windows' servers above all, of modes, owners, hard links
and whatever else they do not have."""
_COMPARED: Final = 1 << 20
"""Bytes that are read at a time to be compared."""
_serial = itertools.count()


def disk_error(error: OSError, what: str, path: Path) -> KacheryError:
    """What ``error``, met while ``what`` was written to or read from ``path``, is called here."""
    if error.errno in FULL:
        return StorageFull(what=what, path=str(path))
    if error.errno == errno.EROFS or (error.errno in _REFUSED and _is_read_only(path)):
        return StorageReadOnly(path=str(path), reason=(error.strerror or "?").lower())
    reason = f"{what}: {error.strerror or error}{_ADVICE.get(error.errno or 0, '')}"
    return StorageDamaged(path=str(path), reason=reason)


def _is_read_only(path: Path) -> bool:
    """Whether what is there can be read, and what is not there cannot be made."""
    if os.path.exists(path):
        return os.access(path, os.R_OK) and not os.access(path, os.W_OK)
    folder = next((each for each in path.parents if os.path.exists(each)), path)
    return os.access(folder, os.R_OK | os.X_OK) and not os.access(folder, os.W_OK)


@contextlib.contextmanager
def disk_errors(what: str, path: Path) -> Iterator[None]:
    """Turn every OSError inside into :class:`StorageFull` or :class:`StorageDamaged`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, what, path) from error


def write_all(fd: int, data: Buffer) -> None:
    """Write all of ``data`` at the file's position."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def pwrite_all(fd: int, data: Buffer, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data).cast("B")
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


def pread_up_to(fd: int, length: int, offset: int) -> bytes:
    """``length`` bytes at ``offset``, fewer only where the file ends."""
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    pieces = [data]
    have = len(data)
    while have < length and (data := os.pread(fd, length - have, offset + have)):
        pieces.append(data)
        have += len(data)
    return b"".join(pieces)


def pread_into(fd: int, view: memoryview, offset: int) -> int:
    """Fill a buffer from ``offset`` on; how many bytes there are, fewer only where the file ends."""
    have = 0
    while have < len(view) and (more := os.preadv(fd, [view[have:]], offset + have)):
        have += more
    return have


def data_runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """The ranges of what is to be written that are not whole pages of zeros, which a file may have as
    holes. Costs next to nothing where there are no zeros."""
    start: int | None = None
    for at in range(0, len(view), HOLE):
        page = view[at : at + HOLE]
        if page[0] or page[-1] or page[len(page) // 2] or bytes(page) != _ZEROS[: len(page)]:
            start = at if start is None else start
        elif start is not None:
            yield start, at
            start = None
    if start is not None:
        yield start, len(view)


def is_hole(fd: int, start: int, stop: int) -> bool:
    """Whether nothing was ever written to a range of a file, so that it reads as zeros."""
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= stop
    except OSError as error:
        return error.errno == errno.ENXIO  # there is nothing from there to the end
    except AttributeError:  # not known on this system
        return False


def temporary_path(folder: Path) -> Path:
    """A name in ``folder`` that no other process or thread uses; see :func:`remove_stray`."""
    return folder / f"{os.getpid()}-{next(_serial)}-{os.urandom(4).hex()}"


def remove_stray(path: Path) -> bool:
    """Unlink a temporary file that was left by a process that is gone, whose lock nobody holds; whether
    it was one."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        locked = try_lock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Without locks its age must tell: no write takes so long.
        if not locked and time.time() - os.fstat(fd).st_mtime <= STRAY_SECONDS:
            return False
        # While it is ours: whoever has just made it and not locked it yet sees that it has gone.
        return remove(path)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def create(path: Path, mode: int = 0o666) -> int:
    """A new file, open for reading and writing; FileExistsError if the name is taken.

    ``mode`` counts from the next time that it is opened. It is locked while it is open, however its
    process ends: that is how strays are told. Its folder is made if somebody has tidied it away.
    """
    while True:
        try:
            fd = os.open(path, _NEW_FILE, mode)
        except FileNotFoundError:
            # No more than that: a disk that is not mounted any more is not to be made anew.
            with contextlib.suppress(FileExistsError):
                os.mkdir(path.parent)
            fd = os.open(path, _NEW_FILE, mode)
        try:
            # Whoever looks for strays may have been quicker. Then it is about to go, and its name is
            # free as soon as the lock is: they hold it for no more than that.
            try_lock(fd, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                return fd
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


@contextlib.contextmanager
def where_possible() -> Iterator[None]:
    """In here is done what some file systems cannot do, and what is right without it, too."""
    try:
        yield
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable, where the file system does not see to that by itself and
    refuses to be asked."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with where_possible():
            os.fsync(fd)
    finally:
        os.close(fd)


def sync_data(fd: int) -> None:
    """Make the bytes of an open file durable, and its size, but not its times."""
    getattr(os, "fdatasync", os.fsync)(fd)


def sync_file(path: Path) -> None:
    """Make a file durable that was written through another descriptor."""
    # O_NONBLOCK: whatever was put in the file's place must not hang the thread.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file_system(fd: int) -> bool:
    """Make the whole file system of an open file durable; False if that cannot be done here.

    Raises:
        OSError: something that was written since ``fd`` was opened is lost.
    """
    syncfs = _syncfs()
    if syncfs is None:
        return False
    number = syncfs(fd)
    if number:
        raise OSError(number, os.strerror(number))
    return True


@functools.cache
def _syncfs() -> Callable[[int], int] | None:
    """syncfs(2) as a function that returns the error's number."""
    system = os.uname()
    version = tuple(int(part) for part in re.findall(r"\d+", system.release)[:2])
    if system.sysname != "Linux" or version < (5, 8):
        # Older kernels keep to themselves that a write failed.
        return None
    import ctypes  # costs milliseconds, and few processes come here

    function = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if function is None:
        return None
    return lambda fd: ctypes.get_errno() if function(fd) else 0


def make_folders(folder: Path) -> list[Path]:
    """Create ``folder`` and what is missing above it; the folders that got new entries."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        return []
    except FileNotFoundError:
        changed = make_folders(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        return [folder.parent, *changed]
    return [folder.parent]


def _make_folders(folder: str) -> bool:
    """As ``os.makedirs``, which looks at each folder above first: for tens of thousands a second.
    Whether it was not there."""
    try:
        os.mkdir(folder)
    except FileExistsError:
        return False
    except FileNotFoundError:
        _make_folders(os.path.dirname(folder))
        try:
            os.mkdir(folder)
        except FileExistsError:  # somebody else was quicker
            return False
    return True


def move(source: Path, target: Path, durable: bool) -> None:
    """Rename within the file system, over whatever is there, making the folder if need be."""
    changed = [target.parent]
    try:
        os.replace(source, target)
    except FileNotFoundError:
        changed += make_folders(target.parent)
        os.replace(source, target)
    if durable:
        # All at the end: a journal writes them out together with the first.
        for folder in changed:
            sync_folder(folder)


def remove(path: str | Path) -> bool:
    """Unlink; False if there was nothing."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def file_holds(path: str | Path, data: Buffer) -> bool:
    """Whether there is a file at ``path`` with exactly these bytes; one that cannot be read has not."""
    view = memoryview(data).cast("B")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_size != len(view):
            return False
        pieces = (
            (view[at : at + _COMPARED], pread_up_to(fd, min(_COMPARED, len(view) - at), at))
            for at in range(0, len(view), _COMPARED)
        )
        return all(ours == theirs for ours, theirs in pieces)
    except OSError:
        return False
    finally:
        os.close(fd)


def make_read_only(fd: int) -> None:
    """Let nobody open a file for writing any more; this descriptor may still write."""
    with where_possible():
        os.fchmod(fd, os.fstat(fd).st_mode & READ_ONLY)


def write_file(
    path: Path, data: Buffer, temporary_folder: Path, durable: bool, mode: int = 0o666
) -> None:
    """Put a whole file in place at once: it is there as given, or as it was before."""
    temporary = temporary_path(temporary_folder)
    fd = create(temporary, mode)
    try:
        try:
            write_all(fd, data)
            if durable:
                os.fsync(fd)
            move(temporary, path, durable)
        finally:
            os.close(fd)
    except BaseException:
        remove(temporary)
        raise


def place_new(path: str, data: Buffer, temporary_folder: Path, mode: int = 0o666) -> bool:
    """As :func:`write_file`, not durably, and quicker where there is nothing yet: a file that has no
    name until it is whole needs no other one before. Whether its folder was made for it, so that
    nothing else is there."""
    folder = os.path.dirname(path)
    # First, since it mostly is not there; for tens of thousands a second each call counts.
    is_new = _make_folders(folder)
    if not _place_unnamed(folder, path, data, mode):
        write_file(Path(path), data, temporary_folder, durable=False, mode=mode)
    return is_new


def _place_unnamed(folder: str, path: str, data: Buffer, mode: int) -> bool:
    """Whether that could be done: the system knows such files, and nothing is there."""
    unnamed = getattr(os, "O_TMPFILE", 0)
    if not unnamed:
        return False
    try:
        fd = os.open(folder, os.O_WRONLY | os.O_CLOEXEC | unnamed, mode)
    except OSError as error:
        if error.errno in FULL:
            raise
        return False
    try:
        write_all(fd, data)
        # The folder's descriptor is of no use, but for this Python makes the call that follows links.
        os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        return False
    finally:
        os.close(fd)
    return True
