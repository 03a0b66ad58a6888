"""One SQLite file of one process: opening, migrations, transactions, typed errors.

Invariants: one process has it open, for it takes a lock file beside the database; any thread may
call, since each connection lies behind a lock, and a read waits for no commit; a schema of an older
version is migrated in one transaction, one of a newer version is refused and left as it is; only the
user can read the files, since keys lie in them.

Non-goals: what is in the tables.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from kachery_p2p.protocol.errors import StorageDamaged, StorageFull

from .closing import Closing
from .disk import disk_error
from .lock import lock_folder, unlock_folder

_WAIT_SECONDS: Final = 10.0

_LOCKING: Final = (sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY)
"""What SQLite says where the locks of a file system do not work."""

_BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_VALUES: Final = 900
"""Values of one statement: older versions of SQLite take 999."""

Synchronous = Literal["OFF", "NORMAL", "FULL"]
"""What a commit waits for. OFF: nothing. NORMAL: nothing, but after a crash of the machine the
file is whole, as of some moment before. FULL: that the commit is on disk."""


class Database(Closing):
    """The database at ``path``. ``what`` is what errors call it.

    Step ``i`` of ``migrations`` takes a database from version ``i`` to ``i + 1``.

    Every method raises StorageFull or StorageDamaged if the database cannot do it, and making one
    StorageInUse if another process has it open.
    """

    def __init__(
        self,
        path: Path,
        *,
        what: str,
        migrations: Sequence[str],
        lock_file: str,
        synchronous: Synchronous,
    ) -> None:
        self.path = path
        self._what = what
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._read_lock = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        """For who reads while a change is on its way to the disk; it sees what was before."""
        self._lock_fd = -1
        try:
            with self._errors():
                self._lock_fd = lock_folder(path.parent, lock_file, 0o600)
                # SQLite gives its other files the same mode.
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                db = self._db = self._connect()
                db.execute("PRAGMA journal_mode = WAL")
                db.execute(f"PRAGMA synchronous = {synchronous}")
                # What a statement of many rows would undo: a few pages, which are no file's worth.
                db.execute("PRAGMA temp_store = MEMORY")
            self._migrate(migrations)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        with self._lock, self._read_lock:
            for connection in (self._reader, self._db):
                if connection is not None:
                    connection.close()
            self._reader = self._db = None
            if self._lock_fd >= 0:
                unlock_folder(self._lock_fd)
                self._lock_fd = -1

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All changes made inside reach the disk together, or none. They nest."""
        with self._lock, self._errors():
            db = self._open_db()
            nested = bool(db.in_transaction)
            if nested:
                yield db
                return
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                # A full disk may have rolled it back already.
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        # No isolation level: transactions begin and end in transaction() and nowhere else.
        return sqlite3.connect(
            self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )

    @staticmethod
    def _insert(db: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]]) -> None:
        """``into`` (``INSERT OR IGNORE INTO t``): rows of the same length, many with one statement.

        For each statement the interpreter's lock is given up. While the event loop has something to do,
        having it again takes ten times as long as a row.
        """
        if not rows:
            return
        width = len(rows[0])
        one = f"({', '.join('?' * width)})"
        step = max(1, _VALUES // width)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            values = [value for row in some for value in row]
            db.execute(f"{into} VALUES {', '.join([one] * len(some))}", values)

    def _change(self, sql: str, *values: Any) -> int:
        with self.transaction() as db:
            return db.execute(sql, values).rowcount

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._errors():
            if self._lock.acquire(blocking=False):
                try:
                    return self._open_db().execute(sql, values).fetchall()
                finally:
                    self._lock.release()
            # Somebody's commit waits for the disk, which is nothing to wait for.
            with self._read_lock:
                return self._open_reader().execute(sql, values).fetchall()

    def _row(self, sql: str, *values: Any) -> Any:
        rows = self._rows(sql, *values)
        return rows[0] if rows else None

    def _open_db(self) -> sqlite3.Connection:
        if self._db is None:
            raise StorageDamaged(path=str(self.path), reason="the database was closed")
        return self._db

    def _open_reader(self) -> sqlite3.Connection:
        """The connection of who reads beside a change, and holds its lock."""
        self._open_db()
        if self._reader is None:
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        return self._reader

    def _migrate(self, migrations: Sequence[str]) -> None:
        with self.transaction() as db:
            version = int(db.execute("PRAGMA user_version").fetchone()[0])
            if version > len(migrations):
                reason = "it was written by a newer version of kachery_p2p; upgrade this one"
                raise StorageDamaged(path=str(self.path), reason=reason)
            for step in migrations[version:]:
                for statement in _statements(step):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(migrations)}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self._what, self.path) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise StorageFull(what=self._what, path=str(self.path)) from error
            reason = str(error)
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code in _BROKEN:
                reason += (
                    "; stop the node, then put the file back from a backup, or move it away to begin "
                    f"without the {self._what} that it held"
                )
            if code in _LOCKING:
                reason += (
                    "; SQLite needs a file system with locks, as Lustre, BeeGFS and NFS may not be: "
                    "choose a folder on a disk of this computer ('daemon start --state-dir DIR')"
                )
            raise StorageDamaged(path=str(self.path), reason=reason) from error


def _statements(script: str) -> Sequence[str]:
    # executescript() would commit the transaction that is open.
    return [part for part in script.split(";") if part.strip()]
