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
    * Whoever stores is told the names of what will appear before any of it does (``arriving``), and
      nothing appears if that raises. So what a blob is bound to can be on disk before the blob is.
    * What was stored is what is there, even if something else, or the same gone bad, was there before.
    * Nobody can open a blob for writing by accident: its mode has no write permission.

Ways in: small content in memory goes through the journal (see :mod:`.journal`), the rest through a
:class:`~.writer.ContentWriter`.

Non-goals: limits (see :mod:`.arrivals`), origins and roles (see :mod:`.state`), partial downloads
(see :mod:`.partials`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from kachery_p2p.protocol.errors import (
    BadInput,
    BadPath,
    StorageDamaged,
    StorageReadOnly,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import JOURNAL_BYTES, MANIFEST_CHUNK, MIB
from kachery_p2p.storage import paths
from kachery_p2p.storage.closing import Closing
from kachery_p2p.storage.disk import (
    Buffer,
    disk_errors,
    make_folders,
    make_read_only,
    move,
    pread_up_to,
    remove,
    remove_stray,
    sync_folder,
    write_file,
)
from kachery_p2p.storage.lock import lock_folder, unlock_folder

from .arrivals import Arrivals, Ledger, Uncounted
from .journal import Journal, open_journal, put_small
from .journal_file import Record
from .links import Link
from .reader import Blob, BlobReader
from .sources import PIECE, check_same_file, check_source, copy_from, ignore, never, settle
from .stamps import put_stamp
from .writer import ContentWriter, Stored

__all__ = ["Blob", "BlobStore"]

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 1 * MIB
"""A file of at most so many bytes is read whole: no pipeline pays for itself."""
_HASH_THREADS: Final = 8

Arriving = Callable[[Sequence[str]], None]
"""Called with the hashes of what is about to appear; what it raises keeps that from appearing."""


def nothing(sha1s: Sequence[str]) -> None:
    """The ``arriving`` of what is bound to nothing."""


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
        self.arrivals = Arrivals()
        """What is about to appear, and downloads in progress: not to be tidied away."""
        self.ledger: Ledger = Uncounted()
        """Who counts its bytes, and sees to room for more."""
        self._on_manifest = on_manifest
        self.read_only = False
        """Whether this user may only read the folder: then nothing is stored, and no lock is held."""
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
        self.read_only = False
        try:
            self._make_ready(create=create, lock=lock)
        except StorageReadOnly:
            if not (self.root / "sha1").is_dir():
                raise
            # What lies there can be loaded and provided all the same.
            self.read_only = True
        self._pool = ThreadPoolExecutor(_HASH_THREADS, "kachery-hash")
        return self

    def _make_ready(self, *, create: bool, lock: bool) -> None:
        with disk_errors("the folder", self.root):
            if not create and not self.root.is_dir():
                raise StorageDamaged(path=str(self.root), reason="there is no such folder")
            if create or lock:
                for folder in (self.root / "sha1", self.temporary):
                    for changed in make_folders(folder):
                        sync_folder(changed)
            if lock and self._lock_fd < 0:
                self._lock_fd = lock_folder(self.root)
                self.unnoticed = True
                try:
                    self.clean()
                    self._journal = open_journal(
                        self.root, self.temporary, durable=self.durable, size=self._journal_bytes
                    )
                except BaseException:
                    self.close()
                    raise

    def close(self) -> None:
        """Empty the journal, give up the lock and the threads; a second time does nothing."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._lock_fd >= 0:
            unlock_folder(self._lock_fd)
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
                if not path.is_dir():
                    removed += remove_stray(path)
        return removed

    def is_locked_here(self) -> bool:
        """Whether the folder that is there now is the one whose lock this process holds."""
        try:
            return self._lock_fd >= 0 and os.path.samestat(
                os.fstat(self._lock_fd), os.stat(self.root / paths.LOCK_FILE)
            )
        except OSError:
            return False

    def in_journal(self, sha1: str) -> bool:
        """Whether a start after a power cut would bring that content back."""
        journal = self._journal
        return journal is not None and sha1 in journal

    def out_of_journal(self, sha1: str) -> None:
        """No start brings that content back once it is deleted. Raises OSError: it would."""
        if self._journal is not None:
            self._journal.let_go(sha1)

    # --- storing -------------------------------------------------------------------------------

    def store_bytes(self, data: Buffer, arriving: Arriving = nothing) -> Stored:
        """Store content that is in memory.

        Raises:
            What ``arriving`` raises.
            StorageFull, StorageDamaged: nothing was stored.
        """
        view = memoryview(data).cast("B")
        if len(view) > MANIFEST_CHUNK:
            return self.store_parts([view], arriving)
        sha1 = hashlib.sha1(view).hexdigest()
        with self.arrivals.of(sha1):
            arriving([sha1])
            self._put([(sha1, view)])
        return Stored(sha1, len(view))

    def store_parts(self, parts: Sequence[memoryview], arriving: Arriving = nothing) -> Stored:
        """As :meth:`store_bytes`, of content that lies in several places in memory."""
        if sum(map(len, parts)) <= MANIFEST_CHUNK:
            return self.store_bytes(parts[0] if len(parts) == 1 else b"".join(parts), arriving)
        writer = self.begin(arriving)
        try:
            for part in parts:
                for at in range(0, len(part), PIECE):
                    writer.feed(part[at : at + PIECE])
            return writer.finish()
        finally:
            writer.abort()

    def store_batch(self, contents: Sequence[Buffer], arriving: Arriving = nothing) -> list[str]:
        """Store many small contents with one commit; their hashes. Raises as :meth:`store_bytes`; of
        what was asked for, anything may be stored then."""
        records = [(hashlib.sha1(data).hexdigest(), memoryview(data)) for data in contents]
        sha1s = [sha1 for sha1, _ in records]
        with self.arrivals.of(*sha1s):
            arriving(sha1s)
            self._put(records)
        return sha1s

    def _put(self, records: Sequence[Record]) -> None:
        claim = self.ledger.claim("content being stored")
        try:
            put_small(
                self._journal,
                self.root,
                self.temporary,
                records,
                durable=self.durable,
                room=claim.grow,
            )
        except BaseException:
            claim.settle(*(sha1 for sha1, _ in records))
            raise
        claim.settle_small({sha1: len(data) for sha1, data in records})

    def store_fd(
        self,
        fd: int,
        cancelled: Callable[[], bool] = never,
        advanced: Callable[[int], None] = ignore,
        arriving: Arriving = nothing,
    ) -> Stored:
        """Store what a descriptor of a regular file (from its beginning) or a pipe has to give.

        The descriptor stays open and is the caller's. ``advanced`` is told how many bytes are done.

        Raises:
            BadInput: it cannot be read.
            Cancelled: ``cancelled()`` became true; nothing was stored.
            StorageFull, StorageDamaged: nothing was stored.
            What ``arriving`` raises.
        """
        status = check_source(fd)
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _AT_ONCE and not cancelled():
            try:
                data = pread_up_to(fd, status.st_size, 0)
            except OSError as error:
                raise BadInput(what="the file to be stored", reason=str(error)) from error
            return self.store_bytes(data, arriving)
        writer = self.begin(arriving)
        try:
            copy_from(fd, writer, cancelled, advanced)
            return writer.finish()
        finally:
            writer.abort()

    def begin(self, arriving: Arriving = nothing) -> ContentWriter:
        """A writer for content that is streamed in: ``write(data)``..., then ``finish()``, in which
        ``arriving`` is called.

        Whoever does not come to ``finish()`` calls ``abort()``; doing both is harmless.
        """

        def place(writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None) -> Stored:
            with self._announced(sha1, manifest, arriving):
                self._place_blob(writer, sha1, size, manifest)
                return self._remember(sha1, size, manifest)

        return self._writer(place, keep=True)

    @contextlib.contextmanager
    def _announced(
        self, sha1: str, manifest: Manifest | None, arriving: Arriving
    ) -> Iterator[None]:
        names = [sha1] if manifest is None else [sha1, manifest.name]
        with self.arrivals.of(*names):
            arriving(names)
            yield

    def link_fd(
        self,
        fd: int,
        path: Path,
        cancelled: Callable[[], bool] = never,
        advanced: Callable[[int], None] = ignore,
        arriving: Arriving = nothing,
    ) -> Stored:
        """Remember that the content of the open file lies at ``path``, and copy nothing.

        ``advanced`` is told how many bytes are done.

        Raises:
            BadPath: ``path`` is not absolute, is not the file that ``fd`` is, or the file changed
                while it was hashed.
            Cancelled, StorageFull, StorageDamaged: nothing was linked.
        """
        check_source(fd)
        settle(fd)
        before = check_source(fd)
        check_same_file(before, path)

        def place(writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None) -> Stored:
            after = os.fstat(fd)
            if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
                raise BadPath(path=str(path), reason="the file changed while it was read")
            check_same_file(after, path)
            with self._announced(sha1, manifest, arriving):
                link = Link(path, size, after.st_mtime)
                self._place_link(writer, sha1, link, before, manifest)
                return self._remember(sha1, size, manifest)

        writer = self._writer(place, keep=False)
        try:
            copy_from(fd, writer, cancelled, advanced)
            return writer.finish()
        finally:
            writer.abort()

    def quarantine(self, sha1: str, found: Blob | None = None) -> Path | None:
        """Take damaged content out of use; where a blob's bytes were put, None for a link.

        ``found``: what it was that was damaged. What came in its place since, as it was stored or
        fetched again meanwhile, stays: comparing takes long.
        """
        path = self.path(sha1)
        try:
            with disk_errors("damaged content", path):
                if found is not None and not self.is_there(found):
                    return None
                for suffix in (paths.CHECKED, paths.TREE, paths.LINK):
                    remove(self.path(sha1, suffix))
                number = 1
                while (aside := self.path(sha1, f"{paths.CORRUPT}{number}")).exists():
                    number += 1
                try:
                    move(path, aside, self.durable)
                except FileNotFoundError:
                    return None
        finally:
            self.ledger.changed(sha1)
        _log.warning("sha1://%s did not match its hash and was put aside as %s", sha1, aside)
        return aside

    # --- placing what a writer has finished ------------------------------------------------------

    def hashing_only(
        self, place: Callable[[ContentWriter, str, int, Manifest | None], Stored]
    ) -> ContentWriter:
        """A writer that keeps no bytes, for checking and for trees of what is here, which can always be
        made: without them it could not be served."""
        return self._writer(place, keep=False, counted=False)

    def _writer(
        self,
        place: Callable[[ContentWriter, str, int, Manifest | None], Stored],
        *,
        keep: bool,
        counted: bool = True,
    ) -> ContentWriter:
        if self._pool is None:
            raise StorageDamaged(path=str(self.root), reason="the store is not open")
        claim = self.ledger.claim("content being stored") if counted else None
        return ContentWriter(self.temporary, self._pool, place, keep=keep, claim=claim)

    def _place_blob(
        self, writer: ContentWriter, sha1: str, size: int, manifest: Manifest | None
    ) -> None:
        target = self.path(sha1)
        with disk_errors("content being stored", target):
            if manifest is not None:
                writer.tree.place(self.path(sha1, paths.TREE), self.durable)
            # A large one goes over whatever is there: to find out whether that is good takes longer.
            if size > MANIFEST_CHUNK or not self.is_good(sha1):
                make_read_only(writer.fd)
                if self.durable:
                    os.fsync(writer.fd)
                move(writer.path, target, self.durable)
                if manifest is not None:
                    put_stamp(self.root, sha1, os.fstat(writer.fd))
            elif self.durable:
                # Whoever put it there a moment ago may not have come to this yet.
                sync_folder(target.parent)
            remove(self.path(sha1, paths.LINK))

    def _place_link(
        self,
        writer: ContentWriter,
        sha1: str,
        link: Link,
        status: os.stat_result,
        manifest: Manifest | None,
    ) -> None:
        target = self.path(sha1, paths.LINK)
        with disk_errors("a link", target):
            if self.path(sha1).exists() and not self.is_good(sha1):
                # It would be read in place of the link.
                self.quarantine(sha1)
            if manifest is not None:
                writer.tree.place(self.path(sha1, paths.TREE), self.durable)
            name = None if manifest is None else manifest.name
            write_file(target, link.to_json(name), self.temporary, self.durable)
            if manifest is not None:
                put_stamp(self.root, sha1, status)

    def _remember(self, sha1: str, size: int, manifest: Manifest | None) -> Stored:
        if manifest is None:
            return Stored(sha1, size)
        name = manifest.name
        self._put([(name, manifest.to_json())])
        if self._on_manifest is not None:
            self._on_manifest(sha1, name)
        return Stored(sha1, size, name)
