"""The tables in which feeds lie."""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE feeds (
        feed BLOB PRIMARY KEY, seed BLOB, name TEXT UNIQUE, created REAL NOT NULL
    );
    -- A number is never used again, and there is room for it in runs.place.
    CREATE TABLE logs (
        log INTEGER PRIMARY KEY AUTOINCREMENT CHECK (log < 8388608),
        feed BLOB NOT NULL REFERENCES feeds,
        subfeed BLOB NOT NULL,
        name TEXT,
        base INTEGER NOT NULL DEFAULT 0,
        peaks BLOB NOT NULL DEFAULT x'',
        size INTEGER NOT NULL DEFAULT 0,
        head BLOB,
        rest BLOB NOT NULL DEFAULT x'',
        known INTEGER NOT NULL DEFAULT 0,
        submissions INTEGER NOT NULL DEFAULT 0,
        UNIQUE (feed, subfeed)
    );
    CREATE TABLE channels (
        log INTEGER NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (log, channel)
    ) WITHOUT ROWID;
    CREATE TABLE rules (log INTEGER PRIMARY KEY, rules TEXT NOT NULL);
    CREATE TABLE forks (log INTEGER PRIMARY KEY, fork BLOB NOT NULL);
    -- place = log << 40 | number of the first message: one b-tree, a log's messages side by side.
    CREATE TABLE runs (
        place INTEGER PRIMARY KEY,
        count INTEGER NOT NULL,
        timestamp INTEGER NOT NULL,
        author BLOB,
        texts BLOB NOT NULL
    );
    -- root is the node above the tile, so that nobody hashes all of it for that.
    CREATE TABLE tiles (
        log INTEGER NOT NULL,
        level INTEGER NOT NULL,
        number INTEGER NOT NULL,
        root BLOB NOT NULL,
        hashes BLOB NOT NULL,
        PRIMARY KEY (log, level, number)
    ) WITHOUT ROWID;
    CREATE TABLE submissions (
        log INTEGER NOT NULL,
        slot INTEGER NOT NULL,
        author BLOB NOT NULL,
        submission BLOB NOT NULL,
        first INTEGER NOT NULL,
        count INTEGER NOT NULL,
        PRIMARY KEY (log, slot)
    ) WITHOUT ROWID;
    CREATE UNIQUE INDEX submissions_by_id ON submissions (log, author, submission);
    """,
    """
    CREATE TABLE decisions (log INTEGER PRIMARY KEY, decision BLOB NOT NULL);
    """,
)
"""Step ``i`` takes a database from version ``i`` to ``i + 1``. Never edited, only appended to."""

PER_LOG: Final = ("channels", "rules", "forks", "decisions", "tiles", "submissions")
"""Tables whose rows name their log; runs do so in their place, logs is the one they name."""
