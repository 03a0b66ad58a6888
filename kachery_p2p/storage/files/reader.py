"""Reading a storage folder: blobs and links as they lie there.

No lock and no preparation is needed, since files appear and change by rename alone. What is read is
not verified; a blob can be short or wrong if the disk damaged it, or (small ones) between a power
cut and the next start of the daemon, which restores them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import BadInput, CorruptContent, NotFound
from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import disk_error, disk_errors, pread_up_to

from .arrivals import Arrivals
from .links import Link
from .treefile import OWN_STORAGE

_log = logging.getLogger(__name__)

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a link whose target was swapped for a pipe must not hang the thread."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is here. ``path`` is that of the bytes: for a link, of the user's file. ``fd``: an
    open descriptor of them, if somebody keeps one (:meth:`.blobs.BlobStore.held`). ``inode``: of the
    file that was found, unless it is a link's."""

    sha1: str
    path: Path
    size: int
    link: Link | None = None
    fd: int | None = None
    inode: int | None = None

    @property
    def linked(self) -> bool:
        """Whether the bytes are in a file that the store does not own."""
        return self.link is not None


class BlobReader:
    """A storage folder to read from. All methods block; any thread may call them."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.readers = Arrivals()
        """What is being read at length: not to go for lack of room."""
        self.unnoticed = False
        """Whether reading a file does not count as a use for the file system: who reads for others,
        or to compare, counts the uses itself."""

    def path(self, sha1: str, suffix: str = "") -> Path:
        """Where a blob, or what belongs to it, lies in this store (see :mod:`.paths`)."""
        return paths.path_of(self.root, sha1, suffix)

    def find(self, sha1: str) -> Blob | None:
        """The blob, or the good link, of that hash; None if it is not here."""
        at = paths.text_of(self.root, sha1)
        try:
            try:
                status = os.stat(at)
            except (FileNotFoundError, NotADirectoryError):
                pass
            else:
                if stat.S_ISREG(status.st_mode):
                    return Blob(sha1, Path(at), status.st_size, inode=status.st_ino)
            try:
                os.stat(f"{at}{paths.LINK}")
            except FileNotFoundError:
                return None
            link = Link.read(self.path(sha1, paths.LINK))
        except OSError as error:
            raise disk_error(error, "a blob", Path(at)) from error
        if link is None:
            return None
        problem = link.problem()
        if problem is not None:
            _log.warning("sha1://%s is not here: %s", sha1, problem)
            return None
        return Blob(sha1, link.path, link.size, link)

    def link_problem(self, sha1: str) -> str | None:
        """Why the link of that hash is stale; None if it is good or there is none."""
        path = self.path(sha1, paths.LINK)
        with disk_errors("a link", path):
            link = Link.read(path)
            if link is None:
                return "the link file is damaged" if path.exists() else None
        return link.problem()

    def open_fd(self, blob: Blob) -> int:
        """A descriptor for reading; the caller closes it.

        Raises:
            NotFound: the blob was removed, or the linked file changed, since it was found.
        """
        try:
            fd = self._open(blob.path) if blob.fd is None else os.dup(blob.fd)
        except OSError as error:
            if blob.linked or error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise _gone(blob, error.strerror or str(error)) from error
            raise disk_error(error, "a blob", blob.path) from error
        if blob.link is not None:
            problem = blob.link.mismatch(os.fstat(fd))
            if problem is not None:
                os.close(fd)
                raise _gone(blob, problem)
        return fd

    def _open(self, path: Path) -> int:
        if not self.unnoticed:
            return os.open(path, _OPEN)
        try:
            return os.open(path, _OPEN | getattr(os, "O_NOATIME", 0))
        except PermissionError:  # somebody else's file
            return os.open(path, _OPEN)

    def read(self, blob: Blob, offset: int, length: int) -> bytes:
        """Bytes [offset, offset + length), fewer only where the blob ends. They are not verified.

        Raises:
            NotFound: as :meth:`open_fd`.
            CorruptContent: the file is shorter than the blob.
        """
        if offset < 0 or length < 0:
            raise BadInput(what="range", reason=f"offset {offset}, length {length}")
        length = max(0, min(length, blob.size - offset))
        fd = self.open_fd(blob)
        try:
            with disk_errors("a blob", blob.path):
                data = pread_up_to(fd, length, offset)
        finally:
            os.close(fd)
        if len(data) < length:
            raise CorruptContent(what=f"sha1://{blob.sha1}", source=OWN_STORAGE)
        return data

    def is_there(self, blob: Blob) -> bool:
        """Whether what lies there is what was found, and nothing that came in its place since."""
        if blob.link is not None:
            return Link.read(self.path(blob.sha1, paths.LINK)) == blob.link
        try:
            return blob.inode in (None, os.stat(self.path(blob.sha1)).st_ino)
        except FileNotFoundError:
            return False

    def is_good(self, sha1: str) -> bool:
        """Whether the blob of that hash is there, and is what its name says; reads all of it."""
        try:
            with open(self.path(sha1), "rb", opener=_without_waiting) as file:
                return hashlib.file_digest(file, "sha1").hexdigest() == sha1
        except OSError:  # a folder, or what the disk does not give back: to be replaced
            return False

    @contextlib.contextmanager
    def held(self, blob: Blob) -> Iterator[Blob]:
        """In here it can be read to its end, whatever becomes of its name. Raises NotFound."""
        with self.readers.of(blob.sha1):
            fd = self.open_fd(blob)
            try:
                yield replace(blob, fd=fd)
            finally:
                os.close(fd)

    def scan(self) -> Iterator[paths.Entry]:
        """Every blob and link; see :func:`.paths.scan`."""
        return paths.scan(self.root)


def _gone(blob: Blob, detail: str) -> NotFound:
    return NotFound(what=f"sha1://{blob.sha1}", detail=detail)


def _without_waiting(path: str, flags: int) -> int:
    # Whatever was put in the blob's place, such as a pipe, must not hang the thread.
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
