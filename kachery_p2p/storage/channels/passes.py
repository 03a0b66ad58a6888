"""The tables of visitor passes that this node made: one for each share link.

Invariants: a visitor has one use of a pass at most; whether there is one left, and taking it, is one
transaction. The pass's key is not here: who reads the database cannot open the link.

Non-goals: what a pass says, who may make one, revocations of other nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from kachery_p2p.storage.database import Database

_SELECT: Final = (
    "SELECT id, channel_id, uri, uses, created_at, expires_at, revoked, "
    "(SELECT count(*) FROM pass_uses WHERE pass = id) FROM passes"
)


@dataclass(frozen=True, slots=True)
class PassRow:
    """``id``: 32 bytes. ``uses``: how many there may be, 0 for any number, which are not counted then;
    ``used``: how many there were. Times are Unix time in seconds."""

    id: bytes
    channel_id: str
    uri: str
    uses: int
    created_at: float
    expires_at: float
    revoked: bool = False
    used: int = 0


class PassTables(Database):
    """A part of :class:`~.state.StateDB`."""

    def put_pass(self, row: PassRow, *, most: int, now: float) -> bool:
        """Add one, and forget those that are over; False if ``most`` are left, and nothing changed."""
        with self.transaction():
            self._change(
                "DELETE FROM pass_uses WHERE pass IN (SELECT id FROM passes WHERE expires_at <= ?)",
                now,
            )
            self._change("DELETE FROM passes WHERE expires_at <= ?", now)
            count = self._row("SELECT count(*) FROM passes WHERE channel_id = ?", row.channel_id)[0]
            if count >= most:
                return False
            self._change(
                "INSERT INTO passes VALUES (?, ?, ?, ?, ?, ?, 0)",
                row.id,
                row.channel_id,
                row.uri,
                row.uses,
                row.created_at,
                row.expires_at,
            )
            return True

    def passes(self) -> list[PassRow]:
        """All of them, in the order in which they were made."""
        return [_pass(row) for row in self._rows(f"{_SELECT} ORDER BY created_at, id")]

    def visitor_pass(self, id: bytes) -> PassRow | None:
        """One of them, or None."""
        row = self._row(f"{_SELECT} WHERE id = ?", id)
        return None if row is None else _pass(row)

    def use_pass(self, id: bytes, visitor: bytes) -> bool:
        """Take a use for a visitor, who may have it already; whether it has one now."""
        with self.transaction():
            if self._row("SELECT 1 FROM pass_uses WHERE pass = ? AND visitor = ?", id, visitor):
                return True
            row = self.visitor_pass(id)
            if row is None or row.used >= row.uses:
                return False
            self._change("INSERT INTO pass_uses VALUES (?, ?)", id, visitor)
            return True

    def revoke_pass(self, id: bytes) -> None:
        """From now on it is worth nothing."""
        self._change("UPDATE passes SET revoked = 1 WHERE id = ?", id)

    def delete_passes(self, channel_id: str) -> None:
        """Forget all of a channel."""
        inside = "SELECT id FROM passes WHERE channel_id = ?"
        with self.transaction():
            self._change(f"DELETE FROM pass_uses WHERE pass IN ({inside})", channel_id)
            self._change("DELETE FROM passes WHERE channel_id = ?", channel_id)


def _pass(row: Any) -> PassRow:
    id, channel_id, uri, uses, created_at, expires_at, revoked, used = row
    return PassRow(id, channel_id, uri, uses, created_at, expires_at, bool(revoked), used)
