"""Which content users' files had when they were last stored, so that an unchanged one is not read
again.

A file is known by user, device and inode; what is remembered counts as long as its size, mtime and
ctime are what they were. Users are kept apart, since it is the client who says what it stored: nobody
can make another user's file out to be something else.

Invariants: what a file may have been changed to without its times showing it is not remembered
(:func:`.file_stamps.is_racy`); at most ``MAX_KNOWN_FILES`` are. It is no loss if something is
forgotten: then the file is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kachery_p2p.protocol.limits import MAX_KNOWN_FILES

from .database import Database
from .file_stamps import STAMP_PLACE, KnownFile

_DAY: Final = 86_400.0
_FORGOTTEN: Final = MAX_KNOWN_FILES // 10
"""So many are forgotten at once."""
_PAGE: Final = 500
"""Files that are asked for in one query."""


class KnownFileTables(Database):
    """A part of :class:`~.state.StateDB`."""

    _known_count: int | None = None

    def known_files(self, user: int, stamps: Sequence[bytes], now: float) -> list[KnownFile | None]:
        """What files of a user were stored as, in order; None for one that is not known, or has
        changed.

        ``now``: Unix time; what is asked for is kept longer.
        """
        day = int(now / _DAY)
        found: dict[bytes, KnownFile] = {}
        old: list[tuple[int, int, bytes]] = []
        for start in range(0, len(stamps), _PAGE):
            part = stamps[start : start + _PAGE]
            marks = ", ".join("?" * len(part))
            rows = self._rows(
                "SELECT place, state, sha1, manifest, asked FROM known_files "
                f"WHERE user = ? AND place IN ({marks})",
                user,
                *(stamp[:STAMP_PLACE] for stamp in part),
            )
            for place, state, sha1, manifest, asked in rows:
                known = KnownFile(sha1.hex(), None if manifest is None else manifest.hex())
                found[place + state] = known
                if asked != day:
                    old.append((day, user, place))
        if old:
            with self.transaction() as db:
                db.executemany("UPDATE known_files SET asked = ? WHERE user = ? AND place = ?", old)
        return [found.get(stamp) for stamp in stamps]

    def remember_files(
        self, user: int, files: Sequence[tuple[bytes, KnownFile]], now: float
    ) -> None:
        """Remember what files of a user, by their stamps, were stored as. ``now``: Unix time."""
        day = int(now / _DAY)
        rows = [
            (user, stamp[:STAMP_PLACE], stamp[STAMP_PLACE:], *_packed(known), day)
            for stamp, known in files
        ]
        with self.transaction() as db:
            if self._known_count is None:
                (self._known_count,) = db.execute("SELECT count(*) FROM known_files").fetchone()
            self._insert(db, "INSERT OR REPLACE INTO known_files", rows)
            self._known_count += len(rows)  # too many, where some were there: then it is counted
            if self._known_count > MAX_KNOWN_FILES:
                (self._known_count,) = db.execute("SELECT count(*) FROM known_files").fetchone()
            if self._known_count > MAX_KNOWN_FILES:
                db.execute(
                    "DELETE FROM known_files WHERE (user, place) IN "
                    "(SELECT user, place FROM known_files ORDER BY asked LIMIT ?)",
                    (self._known_count - MAX_KNOWN_FILES + _FORGOTTEN,),
                )
                (self._known_count,) = db.execute("SELECT count(*) FROM known_files").fetchone()


def _packed(known: KnownFile) -> tuple[bytes, bytes | None]:
    manifest = None if known.manifest is None else bytes.fromhex(known.manifest)
    return bytes.fromhex(known.sha1), manifest
