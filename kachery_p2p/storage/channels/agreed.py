"""The table of what an owner's node knows of its channels' histories, one row for each channel.

Non-goals: what is in it (documents and digests are opaque), and what it is good for, see
:mod:`kachery_p2p.node.channels.histories`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kachery_p2p.storage.database import Database

SCHEMA: Final = """
    CREATE TABLE agreed (
        channel_id TEXT PRIMARY KEY, document BLOB NOT NULL, made BLOB NOT NULL
    ) WITHOUT ROWID;
    """

_DIGEST_BYTES: Final = 32


class AgreedTables(Database):
    """A part of :class:`~kachery_p2p.storage.state.StateDB`."""

    def put_agreed(self, channel_id: str, document: bytes, made: Sequence[bytes]) -> None:
        """From now on others have this document too, and these were made here (32 bytes each)."""
        self._change(
            "INSERT OR REPLACE INTO agreed VALUES (?, ?, ?)", channel_id, document, b"".join(made)
        )

    def agreed(self, channel_id: str) -> tuple[bytes, list[bytes]] | None:
        """The document, and the digests, or None."""
        row = self._row("SELECT document, made FROM agreed WHERE channel_id = ?", channel_id)
        if row is None:
            return None
        made = bytes(row[1])
        size = _DIGEST_BYTES
        return bytes(row[0]), [made[at : at + size] for at in range(0, len(made), size)]

    def forget_agreed(self, channel_id: str) -> None:
        """The channel was left."""
        self._change("DELETE FROM agreed WHERE channel_id = ?", channel_id)
