"""The tables in which results and actions lie."""

from __future__ import annotations

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    -- used: the number of the last use, size: bytes of the result.
    CREATE TABLE results (
        key BLOB PRIMARY KEY,
        used INTEGER NOT NULL,
        size INTEGER NOT NULL,
        kept REAL NOT NULL,
        result BLOB NOT NULL
    );
    CREATE INDEX results_by_use ON results (used, size);
    CREATE TABLE result_channels (
        key BLOB NOT NULL, channel TEXT NOT NULL, PRIMARY KEY (key, channel)
    ) WITHOUT ROWID;
    CREATE INDEX result_channels_by_channel ON result_channels (channel, key);
    -- role: 0 run here for node, 1 asked of node. ended is null while nothing is known of its end.
    CREATE TABLE actions (
        role INTEGER NOT NULL,
        task BLOB NOT NULL,
        node BLOB NOT NULL,
        function TEXT NOT NULL,
        state TEXT NOT NULL,
        began REAL NOT NULL,
        ended REAL,
        size INTEGER NOT NULL,
        outcome BLOB,
        UNIQUE (role, task)
    );
    CREATE INDEX actions_by_end ON actions (role, ended, began, size);
    """,
    """
    -- Fingerprints of the code by which results of a function were computed here.
    CREATE TABLE codes (
        function TEXT NOT NULL, code TEXT NOT NULL, PRIMARY KEY (function, code)
    ) WITHOUT ROWID;
    """,
)
"""Step ``i`` takes a database from version ``i`` to ``i + 1``. Never edited, only appended to."""
