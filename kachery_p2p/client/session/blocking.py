"""Blocking work of the client, in threads: the event loop that it runs on is often somebody else's.

Invariant: whoever awaits :func:`run` gets back control, even when cancelled, only after the thread
is done with what it was given; so files can be closed then, and nothing appears on disk later.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, Final, ParamSpec, TypeVar

from kachery_p2p.protocol.errors import BadPath, Cancelled, KacheryError, NotFound, StorageFull
from kachery_p2p.protocol.limits import MIB
from kachery_p2p.storage.disk import FULL, data_runs, pwrite_all, where_possible, write_all
from kachery_p2p.storage.files.sources import clone

from .thread_connection import lease

P = ParamSpec("P")
R = TypeVar("R")
Gone = Callable[[], bool]
Right = Callable[[int, int], bool]
"""Whether an open file was what it should be until it was copied to another."""
Advanced = Callable[[int], None]
"""Is told how many bytes are done."""

_PIECE: Final = 4 * MIB
_THERE: Final = (
    "another file is there, and would be lost; name the file to be made, or say that it may be "
    "replaced (replace=True, or --force)"
)


async def run(work: Callable[[Gone], R]) -> R:
    """Run ``work(gone)`` in a thread. When the caller is cancelled, ``gone()`` becomes true; the
    thread should then raise, soon, and is waited for."""
    gone = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, gone.is_set))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        gone.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


async def beside(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``work`` in a thread; or right here, in a sync call that has no event loop to hold up."""
    if lease() is not None:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def fill(descriptor: int, data: Iterable[memoryview], gone: Gone) -> None:
    """Write ``data`` to an empty file and go back to its beginning."""
    for part in data:
        for at in range(0, len(part), _PIECE):
            if gone():
                raise Cancelled(what="Storing")
            write_all(descriptor, part[at : at + _PIECE])
    os.lseek(descriptor, 0, os.SEEK_SET)


def read_range(path: str, start: int, end: int | None) -> bytes:
    """Bytes [start, end) of a file of the user's. Raises BadPath."""
    try:
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(-1 if end is None else end - start)
    except OSError as error:
        raise path_error(path, error) from error


def copy(
    path: str,
    dest: str,
    name: str,
    gone: Gone,
    advanced: Advanced,
    replace: bool | None = None,
    right: Right | None = None,
) -> str:
    """Copy a file to ``dest``, or into it as ``name`` if it is a folder; where it is then.

    The file system shares the bytes where it can. It is done by rename, so that nobody sees half of
    the file, and what was there before stays if anything fails. A folder is also what ends with a
    slash; it is made if need be. What is that file already, or has its content, is left alone.

    Args:
        replace: whether another file that is there is replaced; it keeps its mode. None: if ``dest``
            names it, and not if ``name`` does, which somebody else may have chosen.
        right: of what must be as it was.

    Raises:
        BadPath: it cannot be written there; it would replace a device or a pipe, or a file that it may
            not replace.
        NotFound: it is not there, or not ``right``, any more, and was not copied.
        StorageFull, Cancelled
    """
    try:
        target, named = _target_of(dest, name)
        # A link stays, and what it points to is replaced, as with any other way to write to it.
        real = os.path.realpath(target)
        there = _status(target, real)
        if there is not None:
            if _is(there, path, right):
                return target
            if not (named if replace is None else replace):
                if _same_content(path, real, gone):
                    return target
                raise BadPath(path=target, reason=_THERE)
        temporary = os.path.join(os.path.dirname(real), f".kachery-{os.urandom(8).hex()}")
        try:
            _copy(path, temporary, gone, advanced, there, right)
            if there is not None or (named if replace is None else replace):
                os.replace(temporary, real)
            else:
                _put(temporary, real)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except FileExistsError as error:
        raise BadPath(path=dest, reason=_THERE) from error
    except OSError as error:
        raise path_error(dest, error) from error
    return target


def _put(temporary: str, real: str) -> None:
    """Give a file its name, if nobody else has taken that meanwhile. Raises FileExistsError."""
    try:
        os.link(temporary, real)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(real):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(temporary, real)


def _target_of(dest: str, name: str) -> tuple[str, bool]:
    """Which file to make, and whether ``dest`` is its name."""
    if os.path.basename(dest) in ("", ".", "..") and not os.path.isdir(dest):
        os.mkdir(os.path.normpath(dest))
    if os.path.isdir(dest):
        return os.path.join(dest, name), False
    return dest, True


def _is(there: os.stat_result, path: str, right: Right | None) -> bool:
    with opened(path, right) as file:
        return os.path.samestat(there, os.fstat(file.fileno()))


def _status(dest: str, target: str) -> os.stat_result | None:
    """That of the file that is there. Raises BadPath: it is none that can be replaced."""
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise BadPath(path=dest, reason="it is there and not a regular file")
    return found


def _same_content(path: str, other: str, gone: Gone) -> bool:
    with open(path, "rb") as one, open(other, "rb") as two:
        if os.fstat(one.fileno()).st_size != os.fstat(two.fileno()).st_size:
            return False
        while data := one.read(_PIECE):
            if gone():
                raise Cancelled(what="Copying a file")
            if data != two.read(_PIECE):
                return False
    return True


def _copy(
    path: str,
    temporary: str,
    gone: Gone,
    advanced: Advanced,
    there: os.stat_result | None,
    right: Right | None,
) -> None:
    with opened(path, right) as source, open(temporary, "x+b") as target:
        if there is not None:
            # Before there is a byte in it: it may be nobody else's business.
            with where_possible():
                os.fchown(target.fileno(), there.st_uid, there.st_gid)
            with where_possible():
                os.fchmod(target.fileno(), stat.S_IMODE(there.st_mode) & 0o777)
        copy_bytes(source.fileno(), target.fileno(), gone, advanced, right)


@contextlib.contextmanager
def opened(path: str, right: Right | None) -> Iterator[BinaryIO]:
    """A file to copy. Raises OSError; NotFound: it has gone, and it is ours to see to that."""
    try:
        file = open(path, "rb")  # noqa: SIM115  # it is closed below
    except FileNotFoundError:
        if right is None:
            raise
        raise changed("the file") from None
    with file:
        yield file


def copy_bytes(
    source: int, target: int, gone: Gone, advanced: Advanced, right: Right | None = None
) -> None:
    """Copy all of an open file to another one, which is empty. The file system shares the bytes where
    it can. Raises OSError, Cancelled; NotFound: it is not ``right``."""
    if not clone(source, target):
        _copy_pieces(source, target, gone, advanced)
    if right is not None and not right(source, target):
        raise changed("the file")


def changed(what: str) -> NotFound:
    """The error of a file that is not what it was."""
    return NotFound(what=what, detail="it changed while it was read")


def _copy_pieces(source: int, target: int, gone: Gone, advanced: Advanced) -> None:
    at = 0
    while data := os.pread(source, _PIECE, at):
        if gone():
            raise Cancelled(what="Copying a file")
        view = memoryview(data)
        for start, stop in data_runs(view):  # what is a hole in the one is one in the other
            pwrite_all(target, view[start:stop], at + start)
        at += len(data)
        advanced(at)
    os.ftruncate(target, at)


def path_error(path: str, error: OSError) -> KacheryError:
    """What the operating system says of a path of the user's, as one of our errors."""
    if error.errno in FULL:
        return StorageFull(what="the copy", path=path)
    return BadPath(path=path, reason=(error.strerror or "?").lower())
