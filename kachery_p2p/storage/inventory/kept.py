"""The tables of keepers: what is kept here for other nodes, and what others keep for this one.

A kept file is pinned under a name that says for whom (:func:`pin_name`), with all that belongs to it,
in the same transaction that says that it is kept. Contents that came only to be kept are remembered,
and go when nothing pins them any more.

Channels and nodes are ids in hex; a content is a SHA-1 of 20 bytes, or a feed's id of 32. Times are
Unix times in seconds; None is for good.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from kachery_p2p.storage.database import Database

SCHEMA: Final = """
    CREATE TABLE kept (
        channel TEXT NOT NULL, node TEXT NOT NULL, content BLOB NOT NULL, label TEXT NOT NULL,
        size INTEGER NOT NULL, count INTEGER NOT NULL, since REAL NOT NULL, until REAL,
        whole INTEGER NOT NULL, orphaned REAL, PRIMARY KEY (channel, node, content)
    ) WITHOUT ROWID;
    CREATE TABLE kept_logs (
        channel TEXT NOT NULL, node TEXT NOT NULL, feed BLOB NOT NULL, subfeed BLOB NOT NULL,
        PRIMARY KEY (channel, node, feed, subfeed)
    ) WITHOUT ROWID;
    CREATE TABLE kept_only (sha1 BLOB PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE pushed (
        content BLOB NOT NULL, channel TEXT NOT NULL, keeper TEXT NOT NULL, label TEXT NOT NULL,
        size INTEGER NOT NULL, count INTEGER NOT NULL, since REAL NOT NULL, until REAL,
        PRIMARY KEY (content, channel, keeper)
    ) WITHOUT ROWID;
"""
"""A step of the state's migrations: never edited."""

_PIN_NAME: Final = re.compile(r"kept for ([0-9a-f]{64}) on ([0-9a-f]{64})")


class Kept(NamedTuple):
    """A thing that is kept for a node. ``size``: bytes; ``number``: of contents, or of a feed's logs;
    ``whole``: False while it comes; ``orphaned``: since when the node is no member of the channel any
    more."""

    channel: str
    node: str
    content: bytes
    label: str
    size: int
    number: int
    since: float
    until: float | None
    whole: bool
    orphaned: float | None = None

    @property
    def key(self) -> tuple[str, str, bytes]:
        return self.channel, self.node, self.content


class Pushed(NamedTuple):
    """A thing that a keeper has said it keeps for this node. ``number``: as of :class:`Kept`; 0 as long
    as it was only asked to."""

    content: bytes
    channel: str
    keeper: str
    label: str
    size: int
    number: int
    since: float
    until: float | None


def pin_name(channel: str, node: str) -> str:
    """The name of the pins of what is kept for a node."""
    return f"kept for {node} on {channel}"


def kept_for(name: str) -> str | None:
    """The node for which a pin of that name keeps something; None if it is a user's pin."""
    found = _PIN_NAME.fullmatch(name)
    return found[1] if found else None


class KeptTables(Database):
    """A part of :class:`~kachery_p2p.storage.state.StateDB`. What changes something returns when that
    is on disk."""

    pin_changes: int

    # --- kept here -------------------------------------------------------------------------------

    def keep(self, kept: Kept, pinned: Iterable[str], fresh: Iterable[str] = ()) -> None:
        """Write down that a file is kept, or is to be, with its pins: of these contents and no others.
        ``fresh``: those that come only for this."""
        name = pin_name(kept.channel, kept.node)
        rows = [(bytes.fromhex(sha1), name, kept.content, kept.until) for sha1 in pinned]
        self.pin_changes += 1
        with self.transaction() as db:
            self.count_in(kept)
            db.execute("DELETE FROM pins WHERE root = ? AND name = ?", (kept.content, name))
            db.executemany("INSERT OR REPLACE INTO pins VALUES (?, ?, ?, ?)", rows)
            self.only_kept(fresh)

    def count_in(self, kept: Kept) -> None:
        """It counts from now on as this says; its pins stay as they are."""
        self._change(
            "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            *kept[:8],
            int(kept.whole),
            kept.orphaned,
        )

    def only_kept(self, fresh: Iterable[str]) -> None:
        """These contents, or feeds, come only to be kept."""
        rows = [(bytes.fromhex(each),) for each in fresh]
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO kept_only VALUES (?)", rows)

    def keep_logs(self, kept: Kept, subfeeds: Iterable[bytes], fresh: bool = False) -> None:
        """As :meth:`keep`, of a feed, with those of its logs that are kept from now on."""
        rows = [(kept.channel, kept.node, kept.content, subfeed) for subfeed in subfeeds]
        with self.transaction() as db:
            self.count_in(kept)
            db.executemany("INSERT OR IGNORE INTO kept_logs VALUES (?, ?, ?, ?)", rows)
            self.only_kept([kept.content.hex()] if fresh else ())

    def let_go(self, kept: Kept) -> None:
        """It is kept no longer; its pins end."""
        name = pin_name(kept.channel, kept.node)
        self.pin_changes += 1
        with self.transaction() as db:
            db.execute("DELETE FROM kept WHERE channel = ? AND node = ? AND content = ?", kept.key)
            db.execute(
                "DELETE FROM kept_logs WHERE channel = ? AND node = ? AND feed = ?", kept.key
            )
            db.execute("DELETE FROM pins WHERE root = ? AND name = ?", (kept.content, name))

    def is_kept(self, channel: str, node: str, content: bytes) -> Kept | None:
        """One thing, or None."""
        sql = "SELECT * FROM kept WHERE channel = ? AND node = ? AND content = ?"
        row = self._row(sql, channel, node, content)
        return None if row is None else _kept(row)

    def all_kept(self) -> list[Kept]:
        """Everything that is kept, or is to be."""
        return [_kept(row) for row in self._rows("SELECT * FROM kept")]

    def kept_feeds(self) -> list[Kept]:
        """The feeds among them."""
        return [_kept(row) for row in self._rows("SELECT * FROM kept WHERE length(content) = 32")]

    def kept_for(self, channel: str, node: str, after: bytes, limit: int) -> list[Kept]:
        """Up to ``limit`` things kept for a node on a channel, in the order of their contents."""
        sql = (
            "SELECT * FROM kept WHERE channel = ? AND node = ? AND content > ? "
            "ORDER BY content LIMIT ?"
        )
        return [_kept(row) for row in self._rows(sql, channel, node, after, limit)]

    def kept_sums(self, channel: str, node: str) -> tuple[int, int]:
        """How many bytes are kept on a channel, and how many things for that node there."""
        sql = "SELECT coalesce(sum(size), 0), coalesce(sum(node = ?2), 0) FROM kept WHERE channel = ?1"
        used, things = self._row(sql, channel, node)
        return int(used), int(things)

    def kept_logs(
        self, key: tuple[str, str, bytes] | None = None
    ) -> list[tuple[str, bytes, bytes]]:
        """(channel, feed, subfeed) of all logs that are kept, or of one thing's."""
        where = "" if key is None else "WHERE channel = ? AND node = ? AND feed = ?"
        sql = f"SELECT DISTINCT channel, feed, subfeed FROM kept_logs {where}"
        return [tuple(row) for row in self._rows(sql, *(key or ()))]

    def count_pins(self, kept: Kept) -> int:
        """How many contents are pinned for it: fewer than it had, if somebody deleted some by force."""
        sql = "SELECT count(*) FROM pins WHERE root = ? AND name = ?"
        return int(self._row(sql, kept.content, pin_name(kept.channel, kept.node))[0])

    def unneeded(self, limit: int, now: float) -> list[str]:
        """Up to ``limit`` contents that came only to be kept, and that nothing pins now."""
        rows = self._rows(
            "SELECT sha1 FROM kept_only WHERE length(sha1) = 20 AND NOT EXISTS "
            "(SELECT 1 FROM pins WHERE pins.sha1 = kept_only.sha1 "
            "AND (pins.until IS NULL OR pins.until > ?)) LIMIT ?",
            now,
            limit,
        )
        return [row[0].hex() for row in rows]

    def unneeded_feeds(self) -> list[bytes]:
        """Feeds that came only to be kept, and are so no longer."""
        rows = self._rows(
            "SELECT sha1 FROM kept_only WHERE length(sha1) = 32 AND NOT EXISTS "
            "(SELECT 1 FROM kept WHERE content = kept_only.sha1)"
        )
        return [row[0] for row in rows]

    def not_only_kept(self, contents: Iterable[str]) -> None:
        """These are gone, or belong to the node's own user by now."""
        rows = [(bytes.fromhex(sha1),) for sha1 in contents]
        with self.transaction() as db:
            db.executemany("DELETE FROM kept_only WHERE sha1 = ?", rows)

    # --- kept elsewhere --------------------------------------------------------------------------

    def push(self, pushed: Pushed) -> None:
        """A keeper has said that it keeps this."""
        self._change("INSERT OR REPLACE INTO pushed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *pushed)

    def asking(self, asked: Pushed) -> None:
        """A keeper is about to be asked to keep this; nothing new if it keeps it already."""
        row = asked._replace(number=0)
        self._change("INSERT OR IGNORE INTO pushed VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)

    def was_asked(self, content: bytes, channel: str, keeper: str) -> bool:
        """Whether this node has ever asked a keeper to keep that, and not to keep it no longer."""
        sql = "SELECT 1 FROM pushed WHERE content = ? AND channel = ? AND keeper = ?"
        return self._row(sql, content, channel, keeper) is not None

    def forget_push(self, content: bytes, channel: str, keeper: str) -> None:
        """It does so no longer."""
        sql = "DELETE FROM pushed WHERE content = ? AND channel = ? AND keeper = ?"
        self._change(sql, content, channel, keeper)

    def pushed(self, content: bytes | None = None) -> list[Pushed]:
        """All that keepers keep for this node, or who keeps one thing."""
        if content is None:
            sql = "SELECT * FROM pushed WHERE count > 0 ORDER BY since"
            return [Pushed(*row) for row in self._rows(sql)]
        sql = "SELECT * FROM pushed WHERE content = ? AND count > 0 ORDER BY since"
        return [Pushed(*row) for row in self._rows(sql, content)]


def _kept(row: tuple[object, ...]) -> Kept:
    *plain, whole, orphaned = row
    return Kept(*plain, bool(whole), orphaned)  # type: ignore[call-arg,arg-type]  # as the schema says
