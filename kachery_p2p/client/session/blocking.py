"""Blocking work of the client, in threads: the event loop that it runs on is often somebody else's.

Invariant: whoever awaits :func:`run` gets back control, even when cancelled, only after the thread
is done with what it was given; so files can be closed then, and nothing appears on disk later.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from kachery_p2p.protocol.errors import BadPath, Cancelled, KacheryError, StorageFull
from kachery_p2p.protocol.limits import MIB
from kachery_p2p.storage.disk import FULL, write_all
from kachery_p2p.storage.files.sources import clone

R = TypeVar("R")
Gone = Callable[[], bool]
Advanced = Callable[[int], None]
"""Is told how many bytes are done."""

_PIECE: Final = 4 * MIB


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
        raise _path_error(path, error) from error


def copy(path: str, dest: str, name: str, gone: Gone, advanced: Advanced) -> str:
    """Copy a file to ``dest``, or into it as ``name`` if it is a folder; where it is then.

    The file system shares the bytes where it can. It is done by rename, so that nobody sees half of
    the file, and what was there before stays if anything fails.

    Raises:
        BadPath: it cannot be written there; a device or a pipe would be replaced.
        StorageFull, Cancelled
    """
    if os.path.isdir(dest):
        dest = os.path.join(dest, name)
    # A link stays, and what it points to is replaced, as with any other way to write to it.
    target = os.path.realpath(dest)
    try:
        _check_target(dest, target)
        temporary = os.path.join(os.path.dirname(target), f".kachery-{os.urandom(8).hex()}")
        try:
            _copy(path, temporary, gone, advanced)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except OSError as error:
        raise _path_error(dest, error) from error
    return dest


def _check_target(dest: str, target: str) -> None:
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise BadPath(path=dest, reason="it is there and not a regular file")


def _copy(path: str, temporary: str, gone: Gone, advanced: Advanced) -> None:
    with open(path, "rb") as source, open(temporary, "xb") as target:
        if clone(source.fileno(), target.fileno()):
            return
        while data := source.read(_PIECE):
            if gone():
                raise Cancelled(what="Copying a file")
            target.write(data)
            advanced(target.tell())


def _path_error(path: str, error: OSError) -> KacheryError:
    if error.errno in FULL:
        return StorageFull(what="the copy", path=path)
    return BadPath(path=path, reason=(error.strerror or "?").lower())
