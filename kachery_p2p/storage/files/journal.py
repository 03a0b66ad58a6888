"""The write-ahead journal that makes small stores durable with one sync.

A small blob is written to the journal first, durably, and then put under its final name without
any sync: that takes a tenth of a millisecond where files and folders of its own take a whole one.
Before a half of the journal is used again its blobs are synced (a *checkpoint*), in a thread of the
journal's; meanwhile the other half takes what comes.

Invariants
    * What :meth:`Journal.append` acknowledged is in the journal, or synced under its final name: a
      half is given up only after every blob in it was synced.
    * A blob that came through the journal is visible only after its record is durable.
    * Threads that come while a sync runs share the next one (*group commit*).
    * After a failed write or sync the journal takes nothing more, and loses nothing it has.

:func:`open_journal` restores what the last process left. Until then, blobs of the last seconds
before a power cut may be short or wrong under their final names.

Non-goals: content above JOURNAL_LARGEST; processes that do not hold the folder's lock.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.limits import (
    JOURNAL_IDLE_SECONDS,
    JOURNAL_LARGEST,
    JOURNAL_SYNC_EACH,
)
from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import (
    FULL,
    READ_ONLY,
    disk_error,
    disk_errors,
    file_holds,
    place_new,
    remove,
    sync_file,
    sync_folder,
    write_file,
)

from .journal_file import HALVES, PAGE, JournalFile, Record, record_size, whole_pages

_log = logging.getLogger(__name__)

_WHAT: Final = "the journal"
_LET_GO_POLL: Final = 0.1
"""Seconds after which one that waits for a half to be emptied looks again."""


@dataclass(slots=True, eq=False)
class Half:
    """One half: what of it is in use. Guarded by the journal's lock."""

    number: int
    used: int = PAGE
    """Bytes, the header's page included."""
    sha1s: set[str] = field(default_factory=set)
    """What is durable in it."""
    pins: int = 0
    """Calls whose blob is not in place yet."""
    sealed: bool = False
    """It takes nothing more until it was checkpointed."""
    touched: float = 0.0


@dataclass(slots=True, eq=False)
class _Batch:
    """Records that share a sync. Its first member to find the file free writes it for all."""

    records: list[Record] = field(default_factory=list)
    size: int = 0
    done: bool = False
    durable: bool = False


class Journal:
    """An open journal. Used from any thread; made by :func:`open_journal`."""

    def __init__(
        self,
        file: JournalFile,
        sync: Callable[[Collection[str]], None],
        rewrite: Callable[[Iterable[Record]], None],
    ) -> None:
        """``file`` holds nothing that counts. ``sync`` makes blobs durable, ``rewrite`` writes
        them anew, durably; both raise OSError."""
        self._file = file
        self._sync = sync
        self._rewrite = rewrite
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)
        """Notified when a batch was written."""
        self._work = threading.Condition(self._lock)
        """Notified when the checkpointing thread may have something to do."""
        self._halves = tuple(Half(number) for number in HALVES)
        self._active = self._halves[0]
        self._batch = _Batch()
        self._writing = False
        self._usable = True
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="kachery-journal", daemon=True)
        self._thread.start()

    def __contains__(self, sha1: str) -> bool:
        """Whether that content is durable in the journal now."""
        with self._lock:
            return any(sha1 in half.sha1s for half in self._halves)

    def append(self, records: Sequence[Record]) -> Half | None:
        """Make contents durable, all or none; what to give to :meth:`placed` when their blobs are in
        place.

        None if they must be made durable in another way: one is too large, or all of them are, both
        halves are full, or the disk refused.
        """
        size = sum(record_size(len(data)) for _, data in records)
        if (
            any(len(data) > JOURNAL_LARGEST for _, data in records)
            or PAGE + whole_pages(size) > self._file.half_bytes
        ):
            return None
        with self._lock:
            half = self._half_with_room(size)
            if half is None:
                return None
            half.pins += 1
            batch = self._batch
            batch.records.extend(records)
            batch.size += size
            try:
                while self._writing and not batch.done:
                    self._turn.wait()
                if not batch.done:
                    self._write(batch, half)
                if batch.durable:
                    if not half.sha1s:
                        self._work.notify()
                    half.sha1s.update(sha1 for sha1, _ in records)
                    half.touched = time.monotonic()
                    return half
            except BaseException:
                self._unpin(half)
                raise
            self._unpin(half)
            return None

    def let_go(self, sha1: str) -> None:
        """Empty the half that has this content, which is about to be deleted: a start after a crash
        must not bring it back. Nothing if none has it.

        Raises:
            OSError: the journal cannot be emptied any more.
        """
        with self._lock:
            while any(sha1 in half.sha1s for half in self._halves):
                if not self._usable or self._closing:
                    raise OSError(errno.EIO, "the journal takes and gives nothing any more")
                active = self._active
                if sha1 in active.sha1s and not self._writing and not self._batch.records:
                    self._switch()
                self._turn.wait(_LET_GO_POLL)

    def placed(self, half: Half) -> None:
        """The blobs of records that were appended together are in place, or never will be."""
        with self._lock:
            self._unpin(half)

    def close(self) -> None:
        """Checkpoint everything and stop the thread; a second time does nothing.

        Calls that are between ``append`` and ``placed`` are waited for.
        """
        with self._lock:
            self._closing = True
            self._work.notify()
        self._thread.join()
        with self._lock:
            while any(half.pins for half in self._halves):
                self._work.wait()
        self._file.close()

    # --- appending: the lock is held -------------------------------------------------------------

    def _half_with_room(self, size: int) -> Half | None:
        """The half that the batch which is being gathered goes to, if it can take ``size`` more."""
        while self._usable and not self._closing:
            half = self._active
            if half.used + whole_pages(self._batch.size + size) <= self._file.half_bytes:
                return half
            if self._batch.records:
                self._turn.wait()
            elif not self._switch():
                return None
        return None

    def _switch(self) -> bool:
        """Seal the active half and go on in the other; False if that one is not free."""
        other = self._halves[1 - self._active.number]
        if other.sealed:
            return False
        self._active.sealed = True
        self._active = other
        self._work.notify()
        return True

    def _write(self, batch: _Batch, half: Half) -> None:
        self._writing = True
        self._batch = _Batch()
        offset = half.used
        half.used += whole_pages(batch.size)
        self._lock.release()
        try:
            if self._usable:
                self._file.write(half.number, offset, batch.records)
                batch.durable = True
        except OSError as error:
            # The kernel reports a failed write once and then calls the pages clean: no later sync
            # of this file would mean anything.
            self._usable = False
            _log.error("the journal takes nothing more; stores are slower now: %s", error)
        finally:
            self._lock.acquire()
            batch.done = True
            self._writing = False
            self._turn.notify_all()

    def _unpin(self, half: Half) -> None:
        half.pins -= 1
        if not half.pins and (half.sealed or self._closing):
            self._work.notify()

    # --- checkpoints: the journal's own thread ---------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while (half := self._due()) is None:
                    if self._closing and not any(h.pins or h.sealed for h in self._halves):
                        return
                    self._work.wait(self._patience())
            if not self._checkpoint(half):
                return

    def _due(self) -> Half | None:
        active = self._active
        if self._closing:
            active.sealed = active.used > PAGE
        elif self._patience() == 0:
            self._switch()
        return next((half for half in self._halves if half.sealed and not half.pins), None)

    def _patience(self) -> float | None:
        """Seconds until the active half has been idle for long enough."""
        other = self._halves[1 - self._active.number]
        if self._closing or not self._active.sha1s or other.sealed:
            return None
        if self._writing or self._batch.records:
            return JOURNAL_IDLE_SECONDS
        return max(0.0, self._active.touched + JOURNAL_IDLE_SECONDS - time.monotonic())

    def _checkpoint(self, half: Half) -> bool:
        try:
            try:
                self._sync(half.sha1s)
            except OSError as error:
                _log.warning("blobs are written again from the journal: %s", error)
                self._rewrite(self._file.records(half.number))
            self._file.renew(half.number)
        except OSError as error:
            with self._lock:
                self._usable = False
                self._turn.notify_all()
            _log.error("the journal keeps what it has for the next start: %s", error)
            return False
        with self._lock:
            half.used = PAGE
            half.sha1s = set()
            half.sealed = False
            self._turn.notify_all()
        return True


def put_small(
    journal: Journal | None,
    root: Path,
    temporary_folder: Path,
    records: Sequence[Record],
    *,
    durable: bool,
    room: Callable[[int], object] = lambda size: None,
) -> None:
    """Put small blobs under their names, durably, over whatever is there; all of them with one sync if
    there is a journal. A link of the same hash goes. ``room`` is called with the bytes of those that
    are new, before any is written.

    Raises:
        StorageFull, StorageDamaged: some of them, or none, are in place.
    """
    new: list[tuple[str, Record]] = []
    at = str(root)
    everywhere = [paths.text_of(root, sha1) for sha1, _ in records]
    try:
        for at, (sha1, data) in zip(everywhere, records, strict=True):
            if not file_holds(at, data):
                new.append((at, (sha1, data)))
            elif durable and (journal is None or sha1 not in journal):
                # Whoever put it there a moment ago may not have come to this yet.
                sync_folder(Path(at).parent)
        appended = [record for _, record in new]
        if new:
            room(sum(len(data) for _, data in appended))
        half = journal.append(appended) if journal is not None and new else None
        alone: set[str] = set()
        try:
            for at, (_, data) in new:
                if half is None:
                    write_file(Path(at), data, temporary_folder, durable, READ_ONLY)
                elif place_new(at, data, temporary_folder, READ_ONLY):
                    alone.add(at)
        finally:
            if journal is not None and half is not None:
                journal.placed(half)
        for at in everywhere:
            if at not in alone:
                remove(f"{at}{paths.LINK}")
    except OSError as error:
        raise disk_error(error, "content being stored", Path(at)) from error


def open_journal(root: Path, temporary_folder: Path, *, durable: bool, size: int) -> Journal | None:
    """Restore what the journal of a folder has, then begin a fresh one of ``size`` bytes.

    Called by whoever holds the folder's lock. None if there is to be none (``durable`` is off) or
    cannot be one, since the disk is full; what could not be restored is then kept for the next time.

    Raises:
        StorageDamaged: the journal cannot be read, or what it has cannot be written.
    """
    path = root / paths.JOURNAL_FILE
    with disk_errors(_WHAT, path):
        try:
            file = _restored(path, root, temporary_folder)
            if file is not None and (not durable or file.size != size):
                file.close()
                file = None
            if not durable:
                if remove(path):
                    sync_folder(root)
                return None
            if file is None:
                file = JournalFile.create(path, temporary_folder, size)
        except OSError as error:
            if error.errno not in FULL:
                raise
            _log.error("no space for the journal in %s: stores are slower, if they work", root)
            return None
        return Journal(
            file,
            lambda sha1s: sync_blobs(root, sha1s, file),
            lambda records: _rewrite(root, temporary_folder, records),
        )


def _restored(path: Path, root: Path, temporary_folder: Path) -> JournalFile | None:
    """The journal that was left there, emptied after its blobs were made durable."""
    try:
        file = JournalFile(path)
    except FileNotFoundError:
        return None
    try:
        records = itertools.chain.from_iterable(file.records(half) for half in HALVES)
        restored = restore_blobs(root, temporary_folder, records, file)
        if restored:
            _log.warning("%d blobs of the last run were restored from the journal", restored)
        for half in HALVES:
            file.renew(half)
    except BaseException:
        file.close()
        raise
    return file


def restore_blobs(
    root: Path, temporary_folder: Path, records: Iterable[Record], file: JournalFile
) -> int:
    """Make the blobs of ``records`` durable, writing those that are not as they should be; how many
    these were. Raises OSError."""
    restored = 0
    sha1s = set()
    for sha1, data in records:
        path = paths.path_of(root, sha1)
        if not file_holds(path, data):
            write_file(path, data, temporary_folder, durable=False, mode=READ_ONLY)
            restored += 1
        sha1s.add(sha1)
    sync_blobs(root, sha1s, file)
    return restored


def _rewrite(root: Path, temporary_folder: Path, records: Iterable[Record]) -> None:
    # Even those that look right: what the cache shows may be what the disk refused.
    for sha1, data in records:
        path = paths.path_of(root, sha1)
        write_file(path, data, temporary_folder, durable=True, mode=READ_ONLY)


def sync_blobs(root: Path, sha1s: Collection[str], file: JournalFile) -> None:
    """Make blobs and the folders above them durable; those that have gone are left out.

    Raises:
        OSError: some of them may not be durable, and may never be.
    """
    if len(sha1s) > JOURNAL_SYNC_EACH and file.sync_file_system_of(root / "sha1"):
        return
    folders: set[Path] = set()
    for sha1 in sha1s:
        path = paths.path_of(root, sha1)
        try:
            sync_file(path)
        except FileNotFoundError:
            continue
        folders.update(path.parents[:4])
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            sync_folder(folder)
