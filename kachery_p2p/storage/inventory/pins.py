"""The tables of what the user decided about content: pins, each with a name, what was stored for a time
only, and on which channels it is not shared any more.

Pins are the user's word and not in the folder, so they are in the state, durable when a call returns.
Times are Unix times in seconds; None is for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from kachery_p2p.storage.database import Database
from kachery_p2p.storage.paths import check_sha1

SCHEMA: Final = """
    CREATE TABLE pins (
        sha1 BLOB NOT NULL, name TEXT NOT NULL, root BLOB NOT NULL, until REAL,
        PRIMARY KEY (sha1, name, root)
    ) WITHOUT ROWID;
    CREATE INDEX pins_root ON pins (root, name);
    CREATE INDEX pins_until ON pins (until) WHERE until IS NOT NULL;
    CREATE TABLE expiries (sha1 BLOB PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX expiries_until ON expiries (until);
    CREATE TABLE unshared (
        sha1 BLOB NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (sha1, channel)
    ) WITHOUT ROWID;
"""
"""A step of the state's migrations: never edited."""

_PAGE: Final = 500
"""Contents that are asked for in one query."""
KEPT_PINS: Final = f"kept for {'?' * 64} on {'?' * 64}"
"""The names of pins of what is kept for other nodes (:func:`.kept.pin_name`), as GLOB has it."""


class Pin(NamedTuple):
    """``root``: what was pinned; a directory pins all that is in it. ``until``: None is for good."""

    root: str
    name: str
    until: float | None


class PinTables(Database):
    """A part of :class:`~kachery_p2p.storage.state.StateDB`."""

    pin_changes = 0
    """How often something was pinned or unpinned."""

    def pin(
        self, root: str, sha1s: Iterable[str], name: str = "", until: float | None = None
    ) -> None:
        """Pin contents (``root`` among them) under a name, all or none; what was pinned so before is
        replaced."""
        rows = [(_pack(sha1), name, _pack(root), until) for sha1 in sha1s]
        self.pin_changes += 1
        with self.transaction() as db:
            db.execute("DELETE FROM pins WHERE root = ? AND name = ?", (_pack(root), name))
            db.executemany("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?)", rows)

    def unpin(self, root: str, name: str | None = None) -> int:
        """End the pins of what was pinned, or those of one name; how many contents they held. What is
        kept for another node stays so, unless it is named."""
        self.pin_changes += 1
        if name is None:
            sql = "DELETE FROM pins WHERE root = ? AND NOT name GLOB ?"
            return self._change(sql, _pack(root), KEPT_PINS)
        return self._change("DELETE FROM pins WHERE root = ? AND name = ?", _pack(root), name)

    def unpin_content(self, sha1: str) -> None:
        """Nothing pins this content any more: it is deleted by force."""
        self._change("DELETE FROM pins WHERE sha1 = ? OR root = ?", _pack(sha1), _pack(sha1))

    def pins(self, sha1: str) -> list[Pin]:
        """What pins a content."""
        rows = self._rows("SELECT root, name, until FROM pins WHERE sha1 = ?", _pack(sha1))
        return [Pin(root.hex(), name, until) for root, name, until in rows]

    def pinned(self, sha1s: Iterable[str], now: float) -> set[str]:
        """Those of some contents that are pinned now."""
        packed = [_pack(sha1) for sha1 in sha1s]
        marks = ", ".join("?" * len(packed))
        rows = self._rows(
            f"SELECT DISTINCT sha1 FROM pins WHERE sha1 IN ({marks}) "
            "AND (until IS NULL OR until > ?)",
            *packed,
            now,
        )
        return {row[0].hex() for row in rows}

    def all_pinned(self, after: str, limit: int) -> list[str]:
        """Up to ``limit`` contents that are pinned, in order, from the one after ``after`` on."""
        rows = self._rows(
            "SELECT DISTINCT sha1 FROM pins WHERE sha1 > ? ORDER BY sha1 LIMIT ?",
            bytes.fromhex(after),
            limit,
        )
        return [row[0].hex() for row in rows]

    def count_pinned(self, now: float) -> int:
        """How many contents are pinned now."""
        sql = "SELECT count(DISTINCT sha1) FROM pins WHERE until IS NULL OR until > ?"
        return int(self._row(sql, now)[0])

    def end_pins(self, now: float) -> int:
        """Forget the pins whose time is over; how many."""
        if self._row("SELECT 1 FROM pins WHERE until <= ?", now) is None:
            return 0  # a transaction costs a sync
        return self._change("DELETE FROM pins WHERE until <= ?", now)

    # --- stored for a time -----------------------------------------------------------------------

    def keep_until(self, sha1: str, until: float | None) -> None:
        """What was stored goes at this time, or (None) not by itself."""
        if until is None:
            if self.expiry(sha1) is not None:  # most have none, and a transaction costs a sync
                self._change("DELETE FROM expiries WHERE sha1 = ?", _pack(sha1))
            return
        self._change("INSERT OR REPLACE INTO expiries VALUES (?, ?)", _pack(sha1), until)

    def keep_for_good(self, sha1s: Sequence[str]) -> None:
        """None of these goes by itself."""
        held = [(sha1,) for (sha1,) in self._rows_of("sha1 FROM expiries", sha1s)]
        if held:
            with self.transaction() as db:
                db.executemany("DELETE FROM expiries WHERE sha1 = ?", held)

    def expiry(self, sha1: str) -> float | None:
        """When a content goes by itself."""
        row = self._row("SELECT until FROM expiries WHERE sha1 = ?", _pack(sha1))
        return None if row is None else float(row[0])

    def expired(self, now: float, limit: int) -> list[str]:
        """Up to ``limit`` contents whose time is over, and that nothing pins."""
        rows = self._rows(
            "SELECT sha1 FROM expiries WHERE until <= ?1 AND NOT EXISTS (SELECT 1 FROM pins WHERE "
            "pins.sha1 = expiries.sha1 AND (pins.until IS NULL OR pins.until > ?1)) "
            "ORDER BY until LIMIT ?2",
            now,
            limit,
        )
        return [row[0].hex() for row in rows]

    # --- not shared ------------------------------------------------------------------------------

    def unshare(self, sha1s: Iterable[str], channel: str) -> None:
        """These go out on that channel (an id in hex) no more."""
        rows = [(_pack(sha1), channel) for sha1 in sha1s]
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO unshared VALUES (?, ?)", rows)

    def unshared(self, sha1s: Sequence[str], channel: str) -> set[str]:
        """Those of some contents that are not to go out on a channel."""
        rows = self._rows_of("sha1, channel FROM unshared", sha1s)
        return {sha1.hex() for sha1, on in rows if on == channel}

    def share_again(self, sha1s: Sequence[str], channel: str | None) -> None:
        """These were stored anew, for that channel or (None) for all."""
        held = {sha1 for sha1, _ in self._rows_of("sha1, channel FROM unshared", sha1s)}
        if held:
            sql = "DELETE FROM unshared WHERE sha1 = ?1 AND (channel = ?2 OR ?2 IS NULL)"
            with self.transaction() as db:
                db.executemany(sql, [(sha1, channel) for sha1 in held])

    def _rows_of(self, what: str, sha1s: Sequence[str]) -> list[Any]:
        """Columns of a table, of these contents alone."""
        found = []
        for start in range(0, len(sha1s), _PAGE):
            part = [_pack(sha1) for sha1 in sha1s[start : start + _PAGE]]
            marks = ", ".join("?" * len(part))
            found += self._rows(f"SELECT {what} WHERE sha1 IN ({marks})", *part)
        return found


def _pack(sha1: str) -> bytes:
    return bytes.fromhex(check_sha1(sha1))
