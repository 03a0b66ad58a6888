"""The blob store: content under its SHA-1, in kachery's folder layout.

Invariants
    * A blob is under its final name only when it is whole, hashed and (if ``durable``) on disk: under
      that name or, small content that the lock's holder stored, in the journal.
    * What a store call returned survives a crash of the process and of the machine. After a power
      cut, blobs that were in the journal alone may be short or wrong until the folder is opened with
      the lock, which restores them; who reads without it hashes small content, as the client does.
    * One daemon writes to a folder: the lock says who. Others that store there (offline clients) sync
      every file themselves. Readers need no lock (see :mod:`.reader`).
    * A link whose target changed is absent. :meth:`BlobStore.link_problem` says why.

Ways in: small content in memory goes through the journal (see :mod:`.journal`), the rest through a
:class:`~.writer.ContentWriter`.

Non-goals: quota, origins and roles (see :mod:`.state`), partial downloads (see :mod:`.partials`).
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    StorageDamaged,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import JOURNAL_BYTES, MANIFEST_CHUNK, MIB
from kachery_p2p.storage import paths
from kachery_p2p.storage.closing import Closing
from kachery_p2p.storage.disk import (
    Buffer,
    disk_errors,
    is_stray,
    make_folders,
    move,
    pread_up_to,
    remove,
    sync_folder,
    write_file,
)
from kachery_p2p.storage.lock import lock_folder

from .journal import Journal, open_journal
from .links import Link
from .reader import Blob, BlobReader
from .sources import PIECE, check_source, copy_from, ignore, never
from .writer import ContentWriter, Stored

__all__ = ["Blob", "BlobStore"]

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 1 * MIB
"""A file of at most so many bytes is read whole: no pipeline pays for itself."""
_HASH_THREADS: Final = 8


class BlobStore(BlobReader, Closing):
    """One storage folder. All methods block; all may be called from several threads at once."""

    def __init__(
        self,
        root: Path,
        *,
        durable: bool = True,
        on_manifest: Callable[[str, str], None] | None = None,
        journal_bytes: int = JOURNAL_BYTES,
    ) -> None:
        """``durable=False`` skips all syncs, for tests and scratch.

        ``on_manifest(sha1, manifest_sha1)`` is called when content with one was stored.
        ``journal_bytes`` is a multiple of two pages.
        """
        super().__init__(root)
        self.durable = durable
        self.temporary = self.root / paths.TEMPORARY_FOLDER
        self._on_manifest = on_manifest
        self._lock_fd = -1
        self._journal: Journal | None = None
        self._journal_bytes = journal_bytes
        self._pool: ThreadPoolExecutor | None = None

    # --- life ----------------------------------------------------------------------------------

    def open(self, *, create: bool = True, lock: bool = True) -> Self:
        """Make the folder ready; with ``lock``, for this process alone, cleaned of strays, and with
        all that the last process left in its journal.

        Raises:
            StorageInUse: another process holds the lock.
            StorageDamaged: the folder is missing (and ``create`` is off) or cannot be used.
        """
        with disk_errors("the folder", self.root):
            if not create and not self.root.is_dir():
                raise StorageDamaged(path=str(self.root), reason="there is no such folder")
            if create or lock:
                for folder in (self.root / "sha1", self.temporary):
                    for changed in make_folders(folder):
                        sync_folder(changed)
            if lock and self._lock_fd < 0:
                self._lock_fd = lock_folder(self.root)
                try:
                    self.clean()
                    self._journal = open_journal(
                        self.root, self.temporary, durable=self.durable, size=self._journal_bytes
                    )
                except BaseException:
                    self.close()
                    raise
        self._pool = ThreadPoolExecutor(_HASH_THREADS, "kachery-hash")
        return self

    def close(self) -> None:
        """Empty the journal, give up the lock and the threads; a second time does nothing."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

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
            if not self._is_here(sha1, target, len(view)):
                self._write(sha1, target, view)
            remove(self.path(sha1, paths.LINK))
        return Stored(sha1, len(view))

    def _write(self, sha1: str, target: Path, data: memoryview) -> None:
        journal = self._journal
        half = journal.append(sha1, data) if journal is not None else None
        if journal is None or half is None:
            write_file(target, data, self.temporary, self.durable)
            return
        try:
            write_file(target, data, self.temporary, durable=False)
        finally:
            journal.placed(half)

    def store_fd(
        self,
        fd: int,
        cancelled: Callable[[], bool] = never,
        advanced: Callable[[int], None] = ignore,
    ) -> Stored:
        """Store what a descriptor of a regular file (from its beginning) or a pipe has to give.

        The descriptor stays open and is the caller's. ``advanced`` is told how many bytes are done.

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
            copy_from(fd, writer, cancelled, advanced)
            return writer.finish()
        finally:
            writer.abort()

    def begin(self) -> ContentWriter:
        """A writer for content that is streamed in: ``write(data)``..., then ``finish()``.

        Whoever does not come to ``finish()`` calls ``abort()``; doing both is harmless.
        """
        return self._writer(self._place_blob, keep=True)

    def link_fd(
        self,
        fd: int,
        path: Path,
        cancelled: Callable[[], bool] = never,
        advanced: Callable[[int], None] = ignore,
    ) -> Stored:
        """Remember that the content of the open file lies at ``path``, and copy nothing.

        ``advanced`` is told how many bytes are done.

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
            copy_from(fd, writer, cancelled, advanced)
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
            if not self._is_here(sha1, target, size):
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

    def _is_here(self, sha1: str, target: Path, size: int) -> bool:
        """Whether the blob exists. One of another size is damaged: it is about to be replaced."""
        try:
            status = os.stat(target)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return False
        if self.durable and (self._journal is None or sha1 not in self._journal):
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
