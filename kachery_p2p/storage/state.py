"""What a node remembers besides content: one SQLite file.

Mutables, the origins and manifests of blobs (:mod:`.files.origins`), channels, announcement logs,
invitations and admissions (:mod:`.channels.invitations`), share links (:mod:`.channels.passes`),
what is pinned (:mod:`.inventory.pins`) and kept for others (:mod:`.inventory.kept`), which content
users' files had (:mod:`.known_files`), and a few single values. A method that
changes something returns when the change is on disk.

Invariants: those of :class:`.database.Database`. That one process has it open matters here, since
two nodes with one key and one announcement log would undo one another's work.

Non-goals: content, feeds' entries, task journals.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from kachery_p2p.storage.channels.agreed import SCHEMA as AGREED
from kachery_p2p.storage.channels.agreed import AgreedTables
from kachery_p2p.storage.channels.invitations import InvitationTables
from kachery_p2p.storage.channels.passes import PassTables
from kachery_p2p.storage.files.origins import OriginTables
from kachery_p2p.storage.inventory.kept import SCHEMA as KEPT
from kachery_p2p.storage.inventory.kept import KeptTables
from kachery_p2p.storage.inventory.pins import SCHEMA as PINS
from kachery_p2p.storage.inventory.pins import PinTables

from .known_files import KnownFileTables
from .paths import STATE_LOCK_FILE

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE mutables (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE origins (
        sha1 BLOB NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (sha1, channel)
    ) WITHOUT ROWID;
    CREATE TABLE manifests (sha1 BLOB PRIMARY KEY, manifest BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE channels (
        channel_id TEXT PRIMARY KEY,
        document BLOB NOT NULL,
        wanted_roles TEXT NOT NULL,
        owner_seed BLOB,
        secret BLOB,
        joined_at REAL NOT NULL
    );
    CREATE TABLE announcements (
        channel_id TEXT NOT NULL,
        seq INTEGER NOT NULL,
        op INTEGER NOT NULL,
        key BLOB NOT NULL,
        sha1 BLOB NOT NULL,
        PRIMARY KEY (channel_id, seq)
    ) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    CREATE TABLE admissions (
        channel_id TEXT NOT NULL, node TEXT NOT NULL, record BLOB NOT NULL,
        PRIMARY KEY (channel_id, node)
    ) WITHOUT ROWID;
    CREATE TABLE invitations (
        id BLOB PRIMARY KEY,
        channel_id TEXT NOT NULL,
        label TEXT NOT NULL,
        roles TEXT NOT NULL,
        uses INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        revoked INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE invitation_uses (
        invitation BLOB NOT NULL, node TEXT NOT NULL, used_at REAL NOT NULL,
        PRIMARY KEY (invitation, node)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE download_channels (
        sha1 BLOB NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (sha1, channel)
    ) WITHOUT ROWID;
    CREATE TABLE gone (sha1 BLOB PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
    CREATE INDEX gone_since ON gone (since);
    ALTER TABLE invitations ADD COLUMN document_version INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE invitation_uses ADD COLUMN joined INTEGER NOT NULL DEFAULT 1;
    CREATE TABLE arrivals (
        channel_id TEXT NOT NULL, node TEXT NOT NULL, invitation BLOB NOT NULL,
        admitter TEXT NOT NULL, PRIMARY KEY (channel_id, node)
    ) WITHOUT ROWID;
    """,
    PINS,
    """
    CREATE TABLE known_files (
        user INTEGER NOT NULL, place BLOB NOT NULL, state BLOB NOT NULL, sha1 BLOB NOT NULL,
        manifest BLOB, asked INTEGER NOT NULL, PRIMARY KEY (user, place)
    ) WITHOUT ROWID;
    CREATE INDEX known_files_asked ON known_files (asked);
    """,
    """
    CREATE TABLE passes (
        id BLOB PRIMARY KEY,
        channel_id TEXT NOT NULL,
        uri TEXT NOT NULL,
        uses INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        revoked INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE pass_uses (
        pass BLOB NOT NULL, visitor BLOB NOT NULL, PRIMARY KEY (pass, visitor)
    ) WITHOUT ROWID;
    """,
    KEPT,
    AGREED,
)
"""Step ``i`` takes a database from version ``i`` to ``i + 1``. Never edited, only appended to."""


@dataclass(frozen=True, slots=True)
class ChannelRow:
    """A channel this node is on. ``owner_seed`` is there only if the owner's key lies here."""

    channel_id: str
    document: bytes
    wanted_roles: frozenset[str]
    owner_seed: bytes | None
    secret: bytes | None
    joined_at: float


class Announcement(NamedTuple):
    """One entry of this node's own announcement log on a channel. (The column ``sha1`` is of older
    versions.)"""

    seq: int
    op: int
    key: bytes


class StateDB(
    InvitationTables,
    AgreedTables,
    PassTables,
    OriginTables,
    PinTables,
    KeptTables,
    KnownFileTables,
):
    """The database at ``path``. ``durable=False`` skips the syncs, for tests."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        super().__init__(
            path,
            what="the node's state",
            migrations=MIGRATIONS,
            lock_file=STATE_LOCK_FILE,
            synchronous="FULL" if durable else "OFF",
        )

    # --- mutables: canonical JSON to JSON --------------------------------------------------------

    def get(self, key: str) -> str | None:
        """The value, or None."""
        row = self._row("SELECT value FROM mutables WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set(self, key: str, value: str, *, update: bool = True) -> bool:
        """Set a value; without ``update`` only if there is none. Whether it was written."""
        verb = "REPLACE" if update else "IGNORE"
        return self._change(f"INSERT OR {verb} INTO mutables VALUES (?, ?)", key, value) > 0

    def delete(self, key: str) -> bool:
        """Forget a value; whether there was one."""
        return self._change("DELETE FROM mutables WHERE key = ?", key) > 0

    # --- channels --------------------------------------------------------------------------------

    def put_channel(
        self,
        channel_id: str,
        *,
        document: bytes,
        wanted_roles: Iterable[str],
        owner_seed: bytes | None,
        secret: bytes | None,
        joined_at: float,
    ) -> None:
        """Add a channel, or change it; then ``joined_at`` (seconds) stays as it was."""
        self._change(
            "INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (channel_id) DO UPDATE SET "
            "document = excluded.document, wanted_roles = excluded.wanted_roles, "
            "owner_seed = excluded.owner_seed, secret = excluded.secret",
            channel_id,
            document,
            json.dumps(sorted(wanted_roles)),
            owner_seed,
            secret,
            joined_at,
        )

    def channel(self, channel_id: str) -> ChannelRow | None:
        """One channel, or None."""
        row = self._row("SELECT * FROM channels WHERE channel_id = ?", channel_id)
        return None if row is None else _channel(row)

    def channels(self) -> list[ChannelRow]:
        """All channels, in the order they were joined."""
        return [_channel(r) for r in self._rows("SELECT * FROM channels ORDER BY joined_at, rowid")]

    def delete_channel(self, channel_id: str) -> bool:
        """Forget a channel, its announcements, invitations, admissions and share links; whether it was
        there.

        The epoch of its log is kept, and goes up: others know the entries that are forgotten here, and
        there must never be other ones under their numbers.
        """
        with self.transaction():
            self.set_epoch(channel_id, self.epoch(channel_id) + 1)
            self.clear_announcements(channel_id)
            self.delete_invitations(channel_id)
            self.keep_admissions(channel_id, {})
            self.delete_passes(channel_id)
            self.forget_agreed(channel_id)
            return self._change("DELETE FROM channels WHERE channel_id = ?", channel_id) > 0

    # --- announcements ---------------------------------------------------------------------------

    def append_announcements(
        self, channel_id: str, entries: Iterable[tuple[int, int, bytes]]
    ) -> None:
        """Append (seq, op, key) entries in one transaction.

        Raises:
            StorageDamaged: a number is taken, so two writers are at work; nothing was appended.
        """
        rows = [(channel_id, *entry, b"") for entry in entries]
        with self.transaction() as db:
            self._insert(db, "INSERT INTO announcements", rows)

    def announcements(
        self, channel_id: str, from_seq: int = 0, limit: int | None = None
    ) -> list[Announcement]:
        """Entries from ``from_seq`` on, in order, at most ``limit``."""
        rows = self._rows(
            "SELECT seq, op, key FROM announcements WHERE channel_id = ? AND seq >= ? "
            "ORDER BY seq LIMIT ?",
            channel_id,
            from_seq,
            -1 if limit is None else limit,
        )
        return [Announcement(*row) for row in rows]

    def epoch(self, channel_id: str) -> int:
        """The epoch of a channel's log; 0 at first."""
        return int(self.get_meta(f"epoch:{channel_id}") or 0)

    def set_epoch(self, channel_id: str, epoch: int) -> None:
        """Begin another epoch; the caller clears the log with it, in one transaction."""
        self.set_meta(f"epoch:{channel_id}", str(epoch))

    def last_seq(self, channel_id: str) -> int:
        """The highest sequence number of a channel's log; 0 if it is empty."""
        row = self._row("SELECT max(seq) FROM announcements WHERE channel_id = ?", channel_id)
        return 0 if row is None or row[0] is None else int(row[0])

    def clear_announcements(self, channel_id: str) -> None:
        """Empty a channel's log. The numbers begin at 1 again: the caller begins a new epoch."""
        self._change("DELETE FROM announcements WHERE channel_id = ?", channel_id)

    # --- single values ---------------------------------------------------------------------------

    def get_meta(self, key: str) -> str | None:
        """A value of the node itself, or None."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str | None) -> None:
        """Set such a value; None forgets it."""
        if value is None:
            self._change("DELETE FROM meta WHERE key = ?", key)
        else:
            self._change("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)


def _channel(row: Any) -> ChannelRow:
    channel_id, document, roles, owner_seed, secret, joined_at = row
    return ChannelRow(
        channel_id, document, frozenset(json.loads(roles)), owner_seed, secret, joined_at
    )
