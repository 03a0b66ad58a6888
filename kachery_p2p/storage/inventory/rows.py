"""The rows of the index of a storage folder, in its file and in memory: what :mod:`.inventory` is
made of.

Invariants: those of :mod:`.inventory`. Changes wait in memory, ``MAX_UNWRITTEN`` of them at most unless
the disk is full, and are written together. Those that must outlive a kill before that are committed, a
batch in one row of a table of its own, which costs a tenth of what it takes to write each to its place;
the next start goes on with them. Rows that were just read or written are kept too, since nobody else
writes to the file: so a batch of contents costs one query, not one for each row.

Non-goals: what rows say.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    KacheryError,
    ProtocolViolation,
    StorageDamaged,
    StorageFull,
)
from kachery_p2p.protocol.files.eviction import KINDS, MAY_GO, SOURCES, Kind
from kachery_p2p.protocol.limits import MAX_UNWRITTEN
from kachery_p2p.storage import paths
from kachery_p2p.storage.database import Database

from .things import COLUMNS, Thing, from_row, to_row

_log = logging.getLogger(__name__)

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE things (
        sha1 BLOB PRIMARY KEY,
        kind INTEGER NOT NULL,
        source INTEGER NOT NULL,
        size INTEGER NOT NULL,
        held INTEGER NOT NULL,
        aside INTEGER NOT NULL,
        stored REAL NOT NULL,
        used REAL NOT NULL,
        label TEXT NOT NULL,
        channel TEXT NOT NULL,
        node TEXT NOT NULL,
        node_label TEXT NOT NULL,
        path BLOB NOT NULL,
        part_of BLOB NOT NULL,
        arriving INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX things_used ON things (used, sha1);
    CREATE INDEX things_stored ON things (stored, sha1);
    CREATE INDEX things_size ON things (size, sha1);
    CREATE INDEX things_arriving ON things (sha1) WHERE arriving = 1 OR kind = 2;
    CREATE INDEX things_may_go ON things (used, sha1)
        WHERE kind = 2 OR aside > 0 OR (kind = 0 AND source = 2);
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    DROP INDEX things_may_go;
    CREATE INDEX things_may_go ON things (used, sha1)
        WHERE kind = 2 OR aside > 0 OR (kind = 0 AND source >= 2);
    """,
    """
    CREATE TABLE pending (number INTEGER PRIMARY KEY, rows BLOB NOT NULL);
    """,
)
"""Never edited, only appended to. The numbers are places in ``KINDS`` and ``SOURCES``."""

assert (KINDS.index("file"), KINDS.index("partial"), SOURCES[2:]) == (0, 2, MAY_GO)

LOCK_FILE: Final = ".kachery-p2p-files.lock"
_PAGE: Final = 500
"""Rows that are asked for in one query."""
MOST_UNWRITTEN: Final = 5 * MAX_UNWRITTEN
MAX_CLEAN: Final = 2 * MAX_UNWRITTEN
"""Rows that are kept in memory as they are in the file: those of the last few batches."""


class Rows(Database):
    """A part of :class:`~.inventory.Inventory`. Any thread may call."""

    def __init__(self, path: Path) -> None:
        self._dirty: dict[str, Thing] = {}
        self._gone: set[str] = set()
        """Dirty ones that have no row any more."""
        self._clean: dict[str, Thing] = {}
        """Rows that are as in the file."""
        self._noted = False
        """Whether anything of what waits is in ``pending``."""
        self._used = 0
        self.changes = 0
        """How often something came or went."""
        self._counts: Counter[Kind | None] = Counter()
        super().__init__(
            path,
            what="the index of the storage",
            migrations=MIGRATIONS,
            lock_file=LOCK_FILE,
            synchronous="NORMAL",
        )

    def flush(self) -> None:
        """Write what waits. Raises StorageFull, StorageDamaged: it waits on."""
        with self._lock:
            if not self._dirty:
                return
            # In the order in which they lie there, neighbours share a page.
            rows = sorted(to_row(t) for s, t in self._dirty.items() if s not in self._gone)
            gone = [(bytes.fromhex(sha1),) for sha1 in self._gone]
            with self.transaction() as db:
                self._insert(db, f"INSERT OR REPLACE INTO things ({COLUMNS})", rows)
                db.executemany("DELETE FROM things WHERE sha1 = ?", gone)
                if self._noted:
                    db.execute("DELETE FROM pending")
            self._noted = False
            self._keep_clean(self._dirty)
            self._dirty.clear()
            self._gone.clear()

    def _commit(self, sha1s: Iterable[str]) -> None:
        """Commit what waits of these; the lock is held. Raises StorageFull: see :meth:`_full_disk`."""
        waiting = [self._dirty[s] for s in sha1s if s in self._dirty and s not in self._gone]
        if not waiting:
            return
        with self._full_disk():
            packed = codec.pack([to_row(thing) for thing in waiting])
            self._change("INSERT INTO pending (rows) VALUES (?)", packed)
            self._noted = True

    @contextlib.contextmanager
    def _full_disk(self) -> Iterator[None]:
        """While the disk of the state is full, things are stored, and go, all the same: after a kill,
        the next round of tidying finds them. Raises StorageFull: it has been full for long."""
        try:
            yield
        except StorageFull as error:
            if len(self._dirty) > MOST_UNWRITTEN:
                raise
            _log.warning("the index of the storage could not be written: %s", error)

    def _take_up(self) -> list[str]:
        """What the last process had committed, and not written to where it belongs."""
        found: list[str] = []
        for (packed,) in self._rows("SELECT rows FROM pending ORDER BY number"):
            try:
                things = [from_row(tuple(row)) for row in codec.unpack(packed)]
            except (ProtocolViolation, ValueError, TypeError, AssertionError) as error:
                raise StorageDamaged(path=str(self.path), reason=f"pending: {error}") from error
            with self._lock:
                for thing in things:
                    self._put(thing)
                    found.append(thing.sha1)
        self._noted = bool(found)
        return found

    def _thing(self, sha1: str) -> Thing:
        """Its row, or what a new one begins with. The lock is held."""
        if sha1 not in self._dirty and sha1 not in self._clean:
            self._read([sha1])
        thing = self._dirty.get(sha1)
        return self._clean[sha1] if thing is None else thing

    def _read(self, sha1s: Sequence[str]) -> None:
        """Have these rows in memory, so that each need not be asked for by itself. The lock is held."""
        left = [sha1 for sha1 in sha1s if sha1 not in self._dirty and sha1 not in self._clean]
        for start in range(0, len(left), _PAGE):
            part = left[start : start + _PAGE]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT {COLUMNS} FROM things WHERE sha1 IN ({marks})"
            rows = self._rows(sql, *(bytes.fromhex(paths.check_sha1(sha1)) for sha1 in part))
            found = {thing.sha1: thing for thing in map(from_row, rows)}
            self._keep_clean({sha1: found.get(sha1) or Thing(sha1) for sha1 in part})

    def _keep_clean(self, things: dict[str, Thing]) -> None:
        for sha1 in things:
            self._clean.pop(sha1, None)
        self._clean |= things
        for sha1 in list(itertools.islice(self._clean, max(0, len(self._clean) - MAX_CLEAN))):
            del self._clean[sha1]

    def _put(self, thing: Thing) -> None:
        """Replace a row; the lock is held."""
        before = self._thing(thing.sha1)
        if thing == before:
            return
        self.changes += thing.kind != before.kind or thing.bytes != before.bytes
        self._used += thing.bytes - before.bytes
        self._counts[before.kind] -= 1
        self._counts[thing.kind] += 1
        if thing.kind is None and not thing.arriving:
            self._gone.add(thing.sha1)
            thing = Thing(thing.sha1)
        else:
            self._gone.discard(thing.sha1)
        self._dirty[thing.sha1] = thing
        if len(self._dirty) > MAX_UNWRITTEN:
            try:
                self.flush()
            except KacheryError as error:  # a full disk keeps nobody from reading what is here
                _log.warning("the index of the storage could not be written: %s", error)
