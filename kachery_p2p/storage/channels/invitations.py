"""The tables of invitations that this node made, and of admissions that count next to a document.

Invariants: an invitation is used once by each node, and so often as it says; whether there is a use
left, and taking it, is one transaction. Of an invitation only the public half is here: who reads the
database cannot use it.

Non-goals: what an admission says (records are opaque), who may invite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from kachery_p2p.storage.database import Database

Use = Literal["taken", "repeated", "used up", "revoked", "over", "unknown"]


@dataclass(frozen=True, slots=True)
class InvitationRow:
    """``id``: 32 bytes. ``uses``: how many there may be; ``nodes``: who used it, 64 hex digits each.

    Times are Unix time in seconds.
    """

    id: bytes
    channel_id: str
    label: str
    roles: frozenset[str]
    uses: int
    created_at: float
    expires_at: float
    revoked: bool
    nodes: tuple[str, ...]
    document_version: int = 0
    """Of the channel's document when it was made."""


class InvitationUse(NamedTuple):
    """``joined``: the node became a member. ``roles``: those that the invitation gives."""

    invitation: bytes
    node: str
    joined: bool
    roles: frozenset[str]


class Arrival(NamedTuple):
    """By which invitation a member came that another node, ``admitter``, let in."""

    invitation: bytes
    admitter: str


class InvitationTables(Database):
    """A part of :class:`~.state.StateDB`."""

    def put_invitation(self, row: InvitationRow) -> None:
        """Add one that was not there; ``nodes`` is not kept."""
        self._change(
            "INSERT INTO invitations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.id,
            row.channel_id,
            row.label,
            json.dumps(sorted(row.roles)),
            row.uses,
            row.created_at,
            row.expires_at,
            int(row.revoked),
            row.document_version,
        )

    def invitation(self, id: bytes) -> InvitationRow | None:
        """One of them, or None."""
        row = self._row("SELECT * FROM invitations WHERE id = ?", id)
        return None if row is None else self._invitation(row)

    def invitations(self, channel_id: str) -> list[InvitationRow]:
        """Those to a channel, in the order in which they were made."""
        rows = self._rows(
            "SELECT * FROM invitations WHERE channel_id = ? ORDER BY created_at, id", channel_id
        )
        return [self._invitation(row) for row in rows]

    def _invitation(self, row: Any) -> InvitationRow:
        id, channel_id, label, roles, uses, created_at, expires_at, revoked, version = row
        nodes = self._rows(
            "SELECT node FROM invitation_uses WHERE invitation = ? ORDER BY used_at, node", id
        )
        return InvitationRow(
            id,
            channel_id,
            label,
            frozenset(json.loads(roles)),
            uses,
            created_at,
            expires_at,
            bool(revoked),
            tuple(node for (node,) in nodes),
            version,
        )

    def use_invitation(self, id: bytes, node: str, now: float) -> Use:
        """Take one use of an invitation for a node; if it is not "taken", nothing was changed.

        "repeated": that node had used it before.
        """
        with self.transaction():
            row = self.invitation(id)
            if row is None:
                return "unknown"
            if node in row.nodes:
                return "repeated"
            if row.revoked:
                return "revoked"
            if now >= row.expires_at:
                return "over"
            if len(row.nodes) >= row.uses:
                return "used up"
            self._change("INSERT INTO invitation_uses VALUES (?, ?, ?, 0)", id, node, now)
            return "taken"

    def confirm_use(self, id: bytes, node: str) -> None:
        """The node became a member by it: if it loses that again, it was removed."""
        self._change(
            "UPDATE invitation_uses SET joined = 1 WHERE invitation = ? AND node = ?", id, node
        )

    def uses(self, channel_id: str) -> list[InvitationUse]:
        """Who used the invitations to a channel that are not revoked."""
        rows = self._rows(
            "SELECT invitation, node, joined, roles FROM invitation_uses "
            "JOIN invitations ON id = invitation WHERE channel_id = ? AND NOT revoked "
            "ORDER BY invitation, node",
            channel_id,
        )
        return [
            InvitationUse(id, node, bool(joined), frozenset(json.loads(roles)))
            for id, node, joined, roles in rows
        ]

    def invitations_before(self, channel_id: str, version: int) -> list[bytes]:
        """Those not revoked that were made under an earlier version of the channel's document."""
        rows = self._rows(
            "SELECT id FROM invitations "
            "WHERE channel_id = ? AND NOT revoked AND document_version < ? ORDER BY id",
            channel_id,
            version,
        )
        return [row[0] for row in rows]

    def return_use(self, id: bytes, node: str) -> None:
        """What came of a use was nothing: it may be used again."""
        self._change("DELETE FROM invitation_uses WHERE invitation = ? AND node = ?", id, node)

    def revoke_invitation(self, id: bytes) -> bool:
        """From now on it is worth nothing; whether it was worth something before."""
        return (
            self._change("UPDATE invitations SET revoked = 1 WHERE id = ? AND revoked = 0", id) > 0
        )

    def delete_invitations(self, channel_id: str) -> None:
        """Forget all of a channel."""
        inside = "SELECT id FROM invitations WHERE channel_id = ?"
        with self.transaction():
            self._change(f"DELETE FROM invitation_uses WHERE invitation IN ({inside})", channel_id)
            self._change("DELETE FROM invitations WHERE channel_id = ?", channel_id)
            self._change("DELETE FROM arrivals WHERE channel_id = ?", channel_id)

    def forget_invitation(self, id: bytes) -> None:
        """Forget one, and who used it."""
        with self.transaction():
            self._change("DELETE FROM invitation_uses WHERE invitation = ?", id)
            self._change("DELETE FROM invitations WHERE id = ?", id)

    # --- members that others let in --------------------------------------------------------------

    def note_arrivals(self, channel_id: str, arrivals: Mapping[str, Arrival]) -> None:
        """These nodes, by id, are taken into the document of a channel that this node owns."""
        rows = [
            (channel_id, node, each.invitation, each.admitter) for node, each in arrivals.items()
        ]
        with self.transaction() as db:
            db.executemany("INSERT OR REPLACE INTO arrivals VALUES (?, ?, ?, ?)", rows)

    def arrival(self, channel_id: str, node: str) -> Arrival | None:
        """How a node came to a channel, if another than this one let it in."""
        row = self._row(
            "SELECT invitation, admitter FROM arrivals WHERE channel_id = ? AND node = ?",
            channel_id,
            node,
        )
        return None if row is None else Arrival(*row)

    def let_in_by(self, channel_id: str, admitter: str) -> list[str]:
        """The nodes that another node let in."""
        rows = self._rows(
            "SELECT node FROM arrivals WHERE channel_id = ? AND admitter = ? ORDER BY node",
            channel_id,
            admitter,
        )
        return [node for (node,) in rows]

    def forget_arrival(self, channel_id: str, node: str) -> None:
        """That node is no member any more."""
        self._change("DELETE FROM arrivals WHERE channel_id = ? AND node = ?", channel_id, node)

    def arrivals_by(self, channel_id: str, invitation: bytes) -> list[str]:
        """The nodes that came by an invitation of another node."""
        rows = self._rows(
            "SELECT node FROM arrivals WHERE channel_id = ? AND invitation = ? ORDER BY node",
            channel_id,
            invitation,
        )
        return [node for (node,) in rows]

    # --- admissions ------------------------------------------------------------------------------

    def keep_admissions(self, channel_id: str, records: Mapping[str, bytes]) -> None:
        """These, by node id, and no others are the admissions of a channel."""
        if self.admissions(channel_id) == dict(records):
            return
        with self.transaction() as db:
            db.execute("DELETE FROM admissions WHERE channel_id = ?", (channel_id,))
            rows = [(channel_id, node, record) for node, record in records.items()]
            db.executemany("INSERT INTO admissions VALUES (?, ?, ?)", rows)

    def admissions(self, channel_id: str) -> dict[str, bytes]:
        """The records of a channel, by node id."""
        rows = self._rows("SELECT node, record FROM admissions WHERE channel_id = ?", channel_id)
        return {node: bytes(record) for node, record in rows}
