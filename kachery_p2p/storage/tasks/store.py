"""What a node remembers of tasks: results (task_results.py), and which actions began where.

An action must not run twice, so both sides keep a journal of them. The node that runs one writes
that it started before it does, and how it ended; the node that asked for it writes whom it asked
before it lets that one begin, and what it heard.

Invariants

* What a method that changes an action returns is on disk.
* An action that started here once never starts again, and one that was asked of a node is asked of
  no other until that is forgotten. How one ended changes once more only if that was ``unknown``.
* An action is forgotten ``ACTION_KEEP_SECONDS`` after its end, one asked for also that long after it
  was asked; earlier, but never within ``ACTION_KEEP_LEAST`` of its end, if there is no more room.

Non-goals: running actions, and deciding which of those that started here still run.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from msgspec import Struct

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import Busy, ProtocolViolation, StorageDamaged
from kachery_p2p.protocol.limits import (
    ACTION_KEEP_LEAST,
    ACTION_KEEP_SECONDS,
    MAX_ACTION_BYTES,
    MAX_ACTIONS,
)
from kachery_p2p.protocol.tasks.task import Payload
from kachery_p2p.storage.group_commit import GroupCommit

from .results import ResultStore

ActionEnd = Literal["finished", "failed", "cancelled", "unknown"]
ActionState = Literal["started", "sent", "finished", "failed", "cancelled", "unknown"]
"""``started`` of an action here, ``sent`` of one asked for: nothing is known of its end."""

_HERE: Final = 0
_SENT: Final = 1
_FORGOTTEN_AT_ONCE: Final = 100
_ROW: Final = "task, node, function, state, began, ended, outcome"


class Action(NamedTuple):
    """An action. ``node``: which asked for it, or was asked. ``began``, ``ended``: seconds."""

    task: bytes
    node: bytes
    function: str
    state: ActionState
    began: float
    ended: float | None
    payload: Payload | None
    reason: str
    traceback: str


class _Outcome(Struct, frozen=True, array_like=True):
    payload: Payload | None
    reason: str
    traceback: str


class _Change:
    """One change that waits for its commit: ``apply`` makes it and says what came of it."""

    def __init__(self, apply: Callable[[sqlite3.Connection], bool]) -> None:
        self.apply = apply
        self.result = False
        self.busy: Busy | None = None


class TaskStore(ResultStore):
    """Results and actions in the database at ``path``. A task is its 16-byte id, a node its 32-byte
    id. ``durable=False`` skips the syncs, for tests. ``clock`` gives seconds, as in ``now``.
    """

    def __init__(
        self, path: Path, *, durable: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        self._durable = durable
        self._clock = clock
        self._changes: GroupCommit[_Change] = GroupCommit(self._apply_all)
        super().__init__(path)
        try:
            self._measure_actions()
        except BaseException:
            self.close()
            raise

    # --- actions that run here -------------------------------------------------------------------

    def action_started(self, task: bytes, requester: bytes, function: str, now: float) -> bool:
        """Note that an action begins, before it does; False if it began before.

        Raises:
            Busy: no further action can be remembered; this one must not begin.
        """
        return self._submit(lambda db: self._begin(db, _HERE, task, requester, function, now))

    def action_ended(
        self,
        task: bytes,
        state: ActionEnd,
        payload: Payload | None,
        reason: str,
        traceback: str,
    ) -> bool:
        """Note how an action that started here ended; False if that is known, or it did not."""
        outcome = _Outcome(payload, reason, traceback)
        return self._submit(lambda db: self._end(db, _HERE, task, state, outcome))

    def action(self, task: bytes) -> Action | None:
        """An action that started here, or None."""
        return self._action(_HERE, task)

    def abandon_started(self, except_for: Set[bytes]) -> list[bytes]:
        """Nobody runs the actions that started here any more, but for some: the others' states
        become ``unknown``. Returns which they are."""
        rows = self._rows("SELECT task FROM actions WHERE role = ? AND ended IS NULL", _HERE)
        lost = [bytes(row[0]) for row in rows if bytes(row[0]) not in except_for]
        outcome = _Outcome(None, "the node or its backend ended while it ran", "")

        def apply(db: sqlite3.Connection) -> bool:
            for task in lost:
                self._end(db, _HERE, task, "unknown", outcome)
            return True

        if lost:
            self._submit(apply)
        return lost

    # --- actions asked of other nodes ------------------------------------------------------------

    def action_sent(self, task: bytes, node: bytes, function: str = "") -> bool:
        """Note whom an action is asked of, before it may begin there.

        Returns:
            False if it was asked of another node, and that was not forgotten: it must not begin.

        Raises:
            Busy: no further action can be remembered; this one must not begin.
        """

        def apply(db: sqlite3.Connection) -> bool:
            row = db.execute(
                "SELECT node FROM actions WHERE role = ? AND task = ?", (_SENT, task)
            ).fetchone()
            if row is not None:
                return bytes(row[0]) == node
            return self._begin(db, _SENT, task, node, function, self._clock())

        return self._submit(apply)

    def sent(self, task: bytes) -> bytes | None:
        """The node that an action was asked of, or None."""
        row = self._row("SELECT node FROM actions WHERE role = ? AND task = ?", _SENT, task)
        return None if row is None else bytes(row[0])

    def outcome(self, task: bytes) -> Action | None:
        """What was heard of the end of an action that was asked for, or None."""
        found = self._action(_SENT, task)
        return None if found is None or found.ended is None else found

    def action_known(
        self,
        task: bytes,
        state: ActionEnd,
        payload: Payload | None,
        reason: str,
        traceback: str,
    ) -> bool:
        """Note what was heard of an action's end; False if that is known, or it was not asked for."""
        outcome = _Outcome(payload, reason, traceback)
        return self._submit(lambda db: self._end(db, _SENT, task, state, outcome))

    def forget_sent(self, task: bytes) -> bool:
        """The node that was asked says that the action never began: another may be asked. False if
        nobody was, or its end is known."""

        def apply(db: sqlite3.Connection) -> bool:
            sql = "SELECT rowid FROM actions WHERE role = ? AND task = ? AND ended IS NULL"
            return self._forget(db, _SENT, sql, (_SENT, task)) > 0

        return self._submit(apply)

    # --- parts -----------------------------------------------------------------------------------

    def _submit(self, apply: Callable[[sqlite3.Connection], bool]) -> bool:
        change = _Change(apply)
        self._changes.submit(change)
        if change.busy is not None:
            raise change.busy
        return change.result

    def _apply_all(self, changes: list[_Change]) -> None:
        with self._lock:
            try:
                with self._synced(), self.transaction() as db:
                    for change in changes:
                        try:
                            change.result = change.apply(db)
                        except Busy as error:  # it changed nothing
                            change.busy = error
            except BaseException:
                # What was counted was not done.
                with contextlib.suppress(StorageDamaged):
                    self._measure_actions()
                raise

    @contextlib.contextmanager
    def _synced(self) -> Iterator[None]:
        """What is committed inside waits for the disk."""
        if not self._durable:
            yield
            return
        with self._errors():
            db = self._open_db()
            db.execute("PRAGMA synchronous = FULL")
        try:
            yield
        finally:
            with self._errors():
                db.execute("PRAGMA synchronous = NORMAL")

    def _measure_actions(self) -> None:
        rows = self._rows("SELECT role, count(*), sum(size) FROM actions GROUP BY role")
        self._usage = {_HERE: (0, 0), _SENT: (0, 0)}
        self._usage.update({role: (count, size) for role, count, size in rows})

    def _count_in(self, role: int, rows: int, size: int) -> None:
        before = self._usage[role]
        self._usage[role] = (before[0] + rows, before[1] + size)

    def _is_full(self, role: int) -> bool:
        rows, size = self._usage[role]
        return rows >= MAX_ACTIONS or size >= MAX_ACTION_BYTES

    def _begin(
        self,
        db: sqlite3.Connection,
        role: int,
        task: bytes,
        node: bytes,
        function: str,
        now: float,
    ) -> bool:
        known = "SELECT 1 FROM actions WHERE role = ? AND task = ?"
        if db.execute(known, (role, task)).fetchone() is not None:
            return False
        self._forget_old(db, role, now)
        if self._is_full(role):
            raise Busy(limit="the actions that it can remember")
        state = "started" if role == _HERE else "sent"
        db.execute(
            "INSERT INTO actions VALUES (?, ?, ?, ?, ?, ?, NULL, 0, NULL)",
            (role, task, node, function, state, now),
        )
        self._count_in(role, 1, 0)
        return True

    def _end(
        self,
        db: sqlite3.Connection,
        role: int,
        task: bytes,
        state: ActionEnd,
        outcome: _Outcome,
    ) -> bool:
        row = db.execute(
            "SELECT rowid, size FROM actions WHERE role = ? AND task = ?"
            " AND (ended IS NULL OR state = 'unknown')",
            (role, task),
        ).fetchone()
        if row is None:
            return False
        packed = codec.encode(outcome)
        db.execute(
            "UPDATE actions SET state = ?, ended = ?, size = ?, outcome = ? WHERE rowid = ?",
            (state, self._clock(), len(packed), packed, row[0]),
        )
        self._count_in(role, 0, len(packed) - row[1])
        return True

    def _forget_old(self, db: sqlite3.Connection, role: int, now: float) -> None:
        oldest = (
            "SELECT rowid FROM actions WHERE role = ? AND ended < ?"
            f" ORDER BY ended LIMIT {_FORGOTTEN_AT_ONCE}"
        )
        self._forget(db, role, oldest, (role, now - ACTION_KEEP_SECONDS))
        if role == _SENT:
            open_ones = (
                "SELECT rowid FROM actions WHERE role = ? AND ended IS NULL AND began < ?"
                f" ORDER BY began LIMIT {_FORGOTTEN_AT_ONCE}"
            )
            self._forget(db, role, open_ones, (role, now - ACTION_KEEP_SECONDS))
        while self._is_full(role):
            if not self._forget(db, role, oldest, (role, now - ACTION_KEEP_LEAST)):
                return

    def _forget(
        self, db: sqlite3.Connection, role: int, which: str, values: tuple[Any, ...]
    ) -> int:
        found = db.execute(f"SELECT rowid, size FROM actions WHERE rowid IN ({which})", values)
        rows = found.fetchall()
        db.executemany("DELETE FROM actions WHERE rowid = ?", [(row[0],) for row in rows])
        self._count_in(role, -len(rows), -sum(row[1] for row in rows))
        return len(rows)

    def _action(self, role: int, task: bytes) -> Action | None:
        row = self._row(f"SELECT {_ROW} FROM actions WHERE role = ? AND task = ?", role, task)
        if row is None:
            return None
        outcome = _Outcome(None, "", "")
        if row[6] is not None:
            try:
                outcome = codec.decode(_Outcome, row[6])
            except ProtocolViolation as error:
                raise StorageDamaged(path=str(self.path), reason=error.fields["reason"]) from error
        task, node, function, state, began, ended, _ = row
        end = (outcome.payload, outcome.reason, outcome.traceback)
        return Action(task, node, function, state, began, ended, *end)
