"""The tables of what blobs are bound to, of the manifests that describe them, and of where the bytes
of downloads in progress came from.

Invariants: a blob without origins is free for all channels, so an origin is written before its blob
appears, and forgotten only when the blob has been gone for long. :data:`NOBODY` as an origin means that
this node's own user may have it and nobody else.

Non-goals: whether content is there (see :mod:`.blobs`), when it is to be bound (see :mod:`.bindings`).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from kachery_p2p.storage.database import Database, Synchronous
from kachery_p2p.storage.group_commit import GroupCommit
from kachery_p2p.storage.paths import check_sha1

NOBODY: Final = ""
"""Instead of a channel's id: content that may go out on none."""

FREE: Final = "00"
"""Instead of a channel's id: bytes that the node's own user has elsewhere (an origin). They may go out
on all channels."""

_Row = tuple[str, bytes, str]
"""Table, hash, channel."""
_PAGE: Final = 500
"""Blobs that are asked for in one query."""
_TABLES: Final = ("origins", "manifests", "download_channels")


class OriginTables(Database):
    """A part of :class:`~.state.StateDB`. Channels are ids in hex."""

    def __init__(self, path: Path, *, synchronous: Synchronous, **more: Any) -> None:
        self._new_rows: GroupCommit[list[_Row]] = GroupCommit(self._add_rows)
        super().__init__(path, synchronous=synchronous, **more)

    # --- what blobs are bound to -----------------------------------------------------------------

    def add_origin(self, sha1: str, channel: str) -> None:
        """Bind a blob to a channel. Call it *before* the blob appears: none means free for all."""
        self.add_origins([sha1], channel)

    def add_origins(self, sha1s: Iterable[str], channel: str) -> None:
        """The same for several blobs, all or none."""
        self._new_rows.submit([("origins", _pack(sha1), channel) for sha1 in sha1s])

    def _add_rows(self, items: list[list[_Row]]) -> None:
        rows: dict[str, list[tuple[bytes, str]]] = {}
        for table, sha1, channel in itertools.chain.from_iterable(items):
            rows.setdefault(table, []).append((sha1, channel))
        with self.transaction() as db:
            for table, some in rows.items():
                self._insert(db, f"INSERT OR IGNORE INTO {table}", some)

    def origins(self, sha1: str) -> frozenset[str]:
        """The channels that a blob is bound to; empty if it was stored here for any channel."""
        rows = self._rows("SELECT channel FROM origins WHERE sha1 = ?", _pack(sha1))
        return frozenset(row[0] for row in rows)

    def origins_of(self, sha1s: Sequence[str]) -> dict[str, frozenset[str]]:
        """:meth:`origins` of those of many that are bound at all."""
        found: dict[str, set[str]] = {}
        for start in range(0, len(sha1s), _PAGE):
            part = [_pack(sha1) for sha1 in sha1s[start : start + _PAGE]]
            marks = ", ".join("?" * len(part))
            sql = f"SELECT sha1, channel FROM origins WHERE sha1 IN ({marks})"
            for sha1, channel in self._rows(sql, *part):
                found.setdefault(sha1.hex(), set()).add(channel)
        return {sha1: frozenset(channels) for sha1, channels in found.items()}

    def clear_origins(self, sha1: str) -> None:
        """The blob was stored here by the node's own user: it is free."""
        with self._lock:
            # Most blobs have none, and a transaction costs a sync.
            if self.origins(sha1):
                self._change("DELETE FROM origins WHERE sha1 = ?", _pack(sha1))

    # --- downloads in progress -------------------------------------------------------------------

    def add_download_channel(self, sha1: str, channel: str) -> None:
        """Bytes of a download are about to come from a channel. Call it *before* they are kept."""
        self._new_rows.submit([("download_channels", _pack(sha1), channel)])

    def drop_download_channel(self, sha1: str, channel: str) -> None:
        """None came from there after all."""
        self._change(
            "DELETE FROM download_channels WHERE sha1 = ? AND channel = ?", _pack(sha1), channel
        )

    def download_channels(self, sha1: str) -> frozenset[str]:
        """Where the bytes came from that a download has so far, or had when it was complete."""
        rows = self._rows("SELECT channel FROM download_channels WHERE sha1 = ?", _pack(sha1))
        return frozenset(row[0] for row in rows)

    def forget_download(self, sha1: str) -> None:
        """Nothing of it is kept."""
        with self._lock:
            if self.download_channels(sha1):
                self.forget_downloads([sha1])

    def forget_downloads(self, sha1s: Iterable[str]) -> None:
        """These are over."""
        rows = [(_pack(sha1),) for sha1 in sha1s]
        with self.transaction() as db:
            db.executemany("DELETE FROM download_channels WHERE sha1 = ?", rows)

    def downloads(self, after: str, limit: int) -> list[str]:
        """As :meth:`described`, of downloads only."""
        sql = "SELECT DISTINCT sha1 FROM download_channels WHERE sha1 > ? ORDER BY sha1 LIMIT ?"
        return [row[0].hex() for row in self._rows(sql, bytes.fromhex(after), limit)]

    # --- manifests -------------------------------------------------------------------------------

    def set_manifest(self, sha1: str, manifest_sha1: str) -> None:
        """Remember which manifest describes a blob; fits BlobStore's ``on_manifest``."""
        self._change(
            "INSERT OR REPLACE INTO manifests VALUES (?, ?)", _pack(sha1), _pack(manifest_sha1)
        )

    def manifest(self, sha1: str) -> str | None:
        """The hash of the blob's manifest, or None."""
        row = self._row("SELECT manifest FROM manifests WHERE sha1 = ?", _pack(sha1))
        return None if row is None else row[0].hex()

    # --- tidying ---------------------------------------------------------------------------------

    def described(self, after: str, limit: int) -> list[str]:
        """Up to ``limit`` hashes of which anything is remembered here, in order, from the one after
        ``after`` (empty: from the first)."""
        parts = " UNION ".join(
            f"SELECT * FROM (SELECT DISTINCT sha1 FROM {table} WHERE sha1 > ?1 "
            "ORDER BY sha1 LIMIT ?2)"
            for table in _TABLES
        )
        sql = f"{parts} ORDER BY sha1 LIMIT ?2"
        return [row[0].hex() for row in self._rows(sql, bytes.fromhex(after), limit)]

    def note_gone(self, gone: Iterable[str], here: Collection[str], now: float) -> None:
        """Content that is remembered here, and is not there now, or is there again.

        ``now``: Unix time in seconds.
        """
        missing = [(_pack(sha1), now) for sha1 in gone]
        known = self._gone(here)
        if not missing and not known:
            return
        with self.transaction() as db:
            db.executemany("INSERT OR IGNORE INTO gone VALUES (?, ?)", missing)
            db.executemany("DELETE FROM gone WHERE sha1 = ?", [(sha1,) for sha1 in known])

    def _gone(self, among: Collection[str]) -> list[bytes]:
        marks = ", ".join("?" * len(among))
        rows = self._rows(
            f"SELECT sha1 FROM gone WHERE sha1 IN ({marks})", *(_pack(sha1) for sha1 in among)
        )
        return [row[0] for row in rows]

    def long_gone(self, before: float, limit: int) -> list[str]:
        """Up to ``limit`` hashes whose content has been gone since before a time."""
        sql = "SELECT sha1 FROM gone WHERE since < ? ORDER BY since LIMIT ?"
        return [row[0].hex() for row in self._rows(sql, before, limit)]

    def forget_content(self, sha1s: Iterable[str]) -> None:
        """Forget all that is remembered here of content that is gone."""
        packed = [(_pack(sha1),) for sha1 in sha1s]
        with self.transaction() as db:
            for table in (*_TABLES, "gone"):
                db.executemany(f"DELETE FROM {table} WHERE sha1 = ?", packed)


def _pack(sha1: str) -> bytes:
    return bytes.fromhex(check_sha1(sha1))
