"""The blob store: content under its SHA-1, in kachery's folder layout.

Invariants
    * A blob is under its final name only when it is whole, hashed and (if ``durable``) on disk.
    * What a store call returned survives a crash of the process and of the machine.
    * One daemon writes to a folder: the lock says who. Readers need no lock, since files appear and
      change by rename alone.
    * A link whose target changed is absent. :meth:`BlobStore.link_problem` says why.

Non-goals: quota, origins and roles (see :mod:`.state`), partial downloads (see :mod:`.partials`).
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    CorruptContent,
    NotFound,
    StorageDamaged,
)
from kachery_p2p.protocol.limits import MANIFEST_CHUNK, MIB
from kachery_p2p.protocol.manifest import Manifest

from . import paths
from .disk import (
    Buffer,
    disk_error,
    disk_errors,
    is_stray,
    make_folders,
    move,
    pread_up_to,
    remove,
    sync_folder,
    write_file,
)
from .links import Link
from .lock import lock_folder
from .sources import PIECE, check_source, copy_from, never
from .treefile import OWN_STORAGE
from .writer import ContentWriter, Stored

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 1 * MIB
"""A file of at most so many bytes is read whole: no pipeline pays for itself."""
_HASH_THREADS: Final = 8
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""O_NONBLOCK: a link whose target was swapped for a pipe must not hang the thread."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is here. ``path`` is that of the bytes: for a link, of the user's file."""

    sha1: str
    path: Path
    size: int
    link: Link | None = None

    @property
    def linked(self) -> bool:
        """Whether the bytes are in a file that the store does not own."""
        return self.link is not None


class BlobStore:
    """One storage folder. All methods block; all may be called from several threads at once."""

    def __init__(
        self,
        root: Path,
        *,
        durable: bool = True,
        on_manifest: Callable[[str, str], None] | None = None,
    ) -> None:
        """``on_manifest(sha1, manifest_sha1)`` is called when content with one was stored."""
        self.root = root.absolute()
        self.durable = durable
        self.temporary = self.root / paths.TEMPORARY_FOLDER
        self._on_manifest = on_manifest
        self._lock_fd = -1
        self._pool: ThreadPoolExecutor | None = None

    # --- life ----------------------------------------------------------------------------------

    def open(self, *, create: bool = True, lock: bool = True) -> Self:
        """Make the folder ready; with ``lock``, for this process alone and cleaned of strays.

        Raises:
            StorageInUse: another process holds the lock.
            StorageDamaged: the folder is missing (and ``create`` is off) or cannot be used.
        """
        with disk_errors("the folder", self.root):
            if create:
                for folder in (self.root / "sha1", self.temporary):
                    for changed in make_folders(folder):
                        sync_folder(changed)
            elif not self.root.is_dir():
                raise StorageDamaged(path=str(self.root), reason="there is no such folder")
            if lock and self._lock_fd < 0:
                self._lock_fd = lock_folder(self.root)
                self.clean()
        self._pool = ThreadPoolExecutor(_HASH_THREADS, "kachery-hash")
        return self

    def close(self) -> None:
        """Give up the lock and the threads; a second time does nothing."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def clean(self) -> int:
        """Remove temporary files of processes that are gone; how many. Nothing else is touched."""
        removed = 0
        with disk_errors("temporary files", self.temporary):
            try:
                names = os.listdir(self.temporary)
            except FileNotFoundError:
                return 0
            for name in names:
                path = self.temporary / name
                if not path.is_dir() and is_stray(path):
                    removed += remove(path)
        return removed

    # --- reading -------------------------------------------------------------------------------

    def path(self, sha1: str, suffix: str = "") -> Path:
        """Where a blob, or what belongs to it, lies in this store (see :mod:`.paths`)."""
        return paths.path_of(self.root, sha1, suffix)

    def find(self, sha1: str) -> Blob | None:
        """The blob, or the good link, of that hash; None if it is not here."""
        path = self.path(sha1)
        with disk_errors("a blob", path):
            try:
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                pass
            else:
                if stat.S_ISREG(status.st_mode):
                    return Blob(sha1, path, status.st_size)
            link = Link.read(self.path(sha1, paths.LINK))
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
            fd = os.open(blob.path, _OPEN)
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

    def scan(self) -> Iterator[paths.Entry]:
        """Every blob and link; see :func:`.paths.scan`."""
        return paths.scan(self.root)

    # --- storing -------------------------------------------------------------------------------

    def store_bytes(self, data: Buffer) -> Stored:
        """Store content that is in memory.

        Raises:
            StorageFull, StorageDamaged: nothing was stored.
        """
        view = memoryview(data).cast("B")
        if len(view) > MANIFEST_CHUNK:
            writer = self.begin()
            try:
                for at in range(0, len(view), PIECE):
                    writer.feed(view[at : at + PIECE])
                return writer.finish()
            finally:
                writer.abort()
        sha1 = hashlib.sha1(view).hexdigest()
        target = self.path(sha1)
        with disk_errors("content being stored", target):
            if not self._is_here(target, len(view)):
                write_file(target, view, self.temporary, self.durable)
            remove(self.path(sha1, paths.LINK))
        return Stored(sha1, len(view))

    def store_fd(self, fd: int, cancelled: Callable[[], bool] = never) -> Stored:
        """Store what a descriptor of a regular file (from its beginning) or a pipe has to give.

        The descriptor stays open and is the caller's.

        Raises:
            BadInput: it cannot be read.
            Cancelled: ``cancelled()`` became true; nothing was stored.
            StorageFull, StorageDamaged: nothing was stored.
        """
        status = check_source(fd)
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _AT_ONCE and not cancelled():
            try:
                return self.store_bytes(pread_up_to(fd, status.st_size, 0))
            except OSError as error:
                raise BadInput(what="the file to be stored", reason=str(error)) from error
        writer = self.begin()
        try:
            copy_from(fd, writer, cancelled)
            return writer.finish()
        finally:
            writer.abort()

    def begin(self) -> ContentWriter:
        """A writer for content that is streamed in: ``write(data)``..., then ``finish()``.

        Whoever does not come to ``finish()`` calls ``abort()``; doing both is harmless.
        """
        return self._writer(self._place_blob, keep=True)

    def link_fd(self, fd: int, path: Path, cancelled: Callable[[], bool] = never) -> Stored:
        """Remember that the content of the open file lies at ``path``, and copy nothing.

        Raises:
            BadPath: ``path`` is not absolute, is not the file that ``fd`` is, or the file changed
                while it was hashed.
            Cancelled, StorageFull, StorageDamaged: nothing was linked.
        """
        before = check_source(fd)
        self._check_same_file(before, path)

        def place(writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None) -> Stored:
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
                raise BadPath(path=str(path), reason="the file changed while it was read")
            self._check_same_file(after, path)
            return self._place_link(writer, sha1, Link(path, size, after.st_mtime), manifest)

        writer = self._writer(place, keep=False)
        try:
            copy_from(fd, writer, cancelled)
            return writer.finish()
        finally:
            writer.abort()

    def quarantine(self, sha1: str) -> Path | None:
        """Take damaged content out of use; where a blob's bytes were put, None for a link."""
        path = self.path(sha1)
        with disk_errors("damaged content", path):
            remove(self.path(sha1, paths.TREE))
            remove(self.path(sha1, paths.LINK))
            number = 1
            while (aside := self.path(sha1, f"{paths.CORRUPT}{number}")).exists():
                number += 1
            try:
                move(path, aside, self.durable)
            except FileNotFoundError:
                return None
        _log.warning("sha1://%s did not match its hash and was put aside as %s", sha1, aside)
        return aside

    # --- placing what a writer has finished ------------------------------------------------------

    def hashing_only(
        self, place: Callable[[ContentWriter, str, int, Manifest | None], Stored]
    ) -> ContentWriter:
        """A writer that keeps no bytes, for checking and for trees."""
        return self._writer(place, keep=False)

    def _writer(
        self,
        place: Callable[[ContentWriter, str, int, Manifest | None], Stored],
        *,
        keep: bool,
    ) -> ContentWriter:
        if self._pool is None:
            raise StorageDamaged(path=str(self.root), reason="the store is not open")
        return ContentWriter(self.temporary, self._pool, place, keep=keep)

    def _place_blob(
        self, writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None
    ) -> Stored:
        target = self.path(sha1)
        with disk_errors("content being stored", target):
            if manifest is not None:
                writer.tree.place(self.path(sha1, paths.TREE), self.durable)
            if not self._is_here(target, size):
                if self.durable:
                    os.fsync(writer.fd)
                move(writer.path, target, self.durable)
            remove(self.path(sha1, paths.LINK))
        return self._remember(sha1, size, manifest)

    def _place_link(
        self, writer: ContentWriter, sha1: str, link: Link, manifest: Manifest | None
    ) -> Stored:
        target = self.path(sha1, paths.LINK)
        with disk_errors("a link", target):
            if manifest is not None:
                writer.tree.place(self.path(sha1, paths.TREE), self.durable)
            write_file(target, link.to_json(), self.temporary, self.durable)
        return self._remember(sha1, link.size, manifest)

    def _remember(self, sha1: str, size: int, manifest: Manifest | None) -> Stored:
        if manifest is None:
            return Stored(sha1, size)
        name = self.store_bytes(manifest.to_json()).sha1
        if self._on_manifest is not None:
            self._on_manifest(sha1, name)
        return Stored(sha1, size, name)

    def _is_here(self, target: Path, size: int) -> bool:
        """Whether the blob exists. One of another size is damaged: it is about to be replaced."""
        try:
            status = os.stat(target)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if self.durable:
            # Whoever put it there a moment ago may not have come to this yet.
            sync_folder(target.parent)
        return True

    def _check_same_file(self, status: os.stat_result, path: Path) -> None:
        if not path.is_absolute() or not stat.S_ISREG(status.st_mode):
            raise BadPath(
                path=str(path), reason="only a regular file's absolute path can be linked"
            )
        try:
            str(path).encode()
            there = os.stat(path)
        except (OSError, ValueError) as error:
            raise BadPath(path=str(path), reason=str(error)) from error
        if not os.path.samestat(status, there):
            raise BadPath(path=str(path), reason="it is not the file that was opened")


def _gone(blob: Blob, detail: str) -> NotFound:
    return NotFound(what=f"sha1://{blob.sha1}", detail=detail)
