"""Signed results of tasks that this node keeps: those that it computed, and those that it was given.

Invariants: at most ``MAX_TASK_RESULTS`` are kept, in ``MAX_TASK_RESULT_BYTES``, and those whose last
use is longest ago are forgotten first. Nothing here waits for the disk: after a crash of the machine
results of the last moments may be gone, and can be computed again.

Non-goals: whether a result is genuine, whether the file that it lies in is still there.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import ProtocolViolation, StorageDamaged, StorageFull
from kachery_p2p.protocol.limits import MAX_TASK_RESULT_BYTES, MAX_TASK_RESULTS
from kachery_p2p.protocol.tasks.result import TaskResult
from kachery_p2p.storage.database import Database
from kachery_p2p.storage.paths import TASKS_LOCK_FILE

from .schema import MIGRATIONS

_TOUCHES: Final = 1_000
"""Uses that are noted in memory before they are written."""
_PAGE: Final = 1_000


class ResultStore(Database):
    """The table of results in the database at ``path``. A key is the 32-byte key of a task."""

    def __init__(self, path: Path) -> None:
        self._touched: dict[bytes, int] = {}
        super().__init__(
            path,
            what="tasks",
            migrations=MIGRATIONS,
            lock_file=TASKS_LOCK_FILE,
            synchronous="NORMAL",
        )
        try:
            (last,) = self._row("SELECT coalesce(max(used), 0) FROM results")
            self._next_use = int(last) + 1
            self._measure_results()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        with self._lock:
            # What was used last is worth less than that the file is closed.
            with contextlib.suppress(StorageDamaged, StorageFull):
                if self._db is not None and self._touched:
                    with self.transaction() as db:
                        self._write_touched(db)
            super().close()

    def keep_result(self, result: TaskResult, channel: str | None, now: float) -> list[bytes]:
        """Keep a result instead of the one that its task had.

        Args:
            result: a genuine one.
            channel: whose members it may be given to; None for nobody but this node's own user.
                The channels of the result before stay if it was the same payload.
            now: seconds.

        Returns:
            The keys of results that were forgotten for it.
        """
        packed = codec.encode(result)
        with self._changing_results() as db:
            before = self._load(result.key)
            if before is not None and before.payload != result.payload:
                db.execute("DELETE FROM result_channels WHERE key = ?", (result.key,))
            self._drop(db, result.key)
            row = (result.key, self._use(), len(packed), now, packed)
            db.execute("INSERT INTO results VALUES (?, ?, ?, ?, ?)", row)
            if channel is not None:
                values = (result.key, channel)
                db.execute("INSERT OR IGNORE INTO result_channels VALUES (?, ?)", values)
            self._count += 1
            self._bytes += len(packed)
            return self._make_room(db)

    def result(self, key: bytes) -> tuple[TaskResult, frozenset[str]] | None:
        """A result and the channels whose members it may be given to, or None. It counts as used."""
        with self._lock:
            found = self._load(key)
            if found is None:
                return None
            channels = self._rows("SELECT channel FROM result_channels WHERE key = ?", key)
            self._touched[bytes(key)] = self._use()
            if len(self._touched) >= _TOUCHES:
                with self.transaction() as db:
                    self._write_touched(db)
            return found, frozenset(row[0] for row in channels)

    def may_give(self, key: bytes, channel: str) -> bool:
        """Whether a result is here that may be given to a channel's members. It does not count as
        used."""
        sql = "SELECT 1 FROM result_channels WHERE key = ? AND channel = ?"
        return self._row(sql, key, channel) is not None

    def note_code(self, function: str, code: str) -> None:
        """Results of a function were computed here by the code of this fingerprint."""
        self._change("INSERT OR IGNORE INTO codes VALUES (?, ?)", function, code)

    def codes(self, function: str) -> frozenset[str]:
        """The fingerprints of all code by which results of a function were computed here."""
        rows = self._rows("SELECT code FROM codes WHERE function = ?", function)
        return frozenset(row[0] for row in rows)

    def forget_result(self, key: bytes) -> bool:
        """Forget a result; whether there was one."""
        with self._changing_results() as db:
            db.execute("DELETE FROM result_channels WHERE key = ?", (key,))
            return self._drop(db, key)

    def results(self, channel: str | None = None) -> Iterator[bytes]:
        """The keys of all results, or of those that may be given to a channel's members, sorted.

        What is kept or forgotten meanwhile may be among them or not.
        """
        table, condition = "results", ""
        if channel is not None:
            table, condition = "result_channels", "AND channel = ?"
        sql = f"SELECT key FROM {table} WHERE key > ? {condition} ORDER BY key LIMIT {_PAGE}"
        values = () if channel is None else (channel,)
        page: list[bytes] = [b""]
        while page:
            page = [bytes(row[0]) for row in self._rows(sql, page[-1], *values)]
            yield from page

    def forget_results_of(self, channel: str) -> None:
        """No result may be given to that channel's members any more: this node left it."""
        self._change("DELETE FROM result_channels WHERE channel = ?", channel)

    # --- parts -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing_results(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                with self.transaction() as db:
                    yield db
            except BaseException:
                # What was counted was not done.
                with contextlib.suppress(StorageDamaged):
                    self._measure_results()
                raise

    def _measure_results(self) -> None:
        row = self._row("SELECT count(*), coalesce(sum(size), 0) FROM results")
        self._count, self._bytes = int(row[0]), int(row[1])

    def _load(self, key: bytes) -> TaskResult | None:
        row = self._row("SELECT result FROM results WHERE key = ?", key)
        if row is None:
            return None
        try:
            return codec.decode(TaskResult, row[0])
        except ProtocolViolation as error:
            raise StorageDamaged(path=str(self.path), reason=error.fields["reason"]) from error

    def _drop(self, db: sqlite3.Connection, key: bytes) -> bool:
        size = db.execute("SELECT size FROM results WHERE key = ?", (key,)).fetchone()
        if size is None:
            return False
        db.execute("DELETE FROM results WHERE key = ?", (key,))
        self._touched.pop(key, None)
        self._count -= 1
        self._bytes -= size[0]
        return True

    def _make_room(self, db: sqlite3.Connection) -> list[bytes]:
        forgotten: list[bytes] = []
        if self._count > MAX_TASK_RESULTS or self._bytes > MAX_TASK_RESULT_BYTES:
            self._write_touched(db)
        while self._count > MAX_TASK_RESULTS or self._bytes > MAX_TASK_RESULT_BYTES:
            (key,) = db.execute("SELECT key FROM results ORDER BY used LIMIT 1").fetchone()
            db.execute("DELETE FROM result_channels WHERE key = ?", (key,))
            self._drop(db, key)
            forgotten.append(bytes(key))
        return forgotten

    def _write_touched(self, db: sqlite3.Connection) -> None:
        rows = [(used, key) for key, used in self._touched.items()]
        db.executemany("UPDATE results SET used = ? WHERE key = ?", rows)
        self._touched.clear()

    def _use(self) -> int:
        self._next_use += 1
        return self._next_use - 1
