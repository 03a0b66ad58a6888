"""What lies in the origins of a node: one row for each content, in an SQLite file of its own.

So a look-up costs no request, a start reads nothing anew, and memory does not grow with what lies
there. It is brought in line by listings, a page after the other; one that is broken off goes on from
where it was. If it is lost, it is made anew by the next listing.

Invariants: what a listing did not find goes when its page is written, and not before; what was archived
while a listing ran stays. What turned out to be damaged is not offered until it is another object.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.storage import paths
from kachery_p2p.storage.database import Database
from kachery_p2p.storage.disk import remove

from .objects import MANIFEST, Found

_log = logging.getLogger(__name__)

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE origins (
        id INTEGER PRIMARY KEY,
        url TEXT NOT NULL UNIQUE,
        round INTEGER NOT NULL,
        cursor TEXT,
        listed REAL,
        mark TEXT NOT NULL,
        objects INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    );
    CREATE TABLE objects (
        sha1 BLOB NOT NULL,
        origin INTEGER NOT NULL,
        size INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        tree INTEGER NOT NULL,
        manifest INTEGER NOT NULL,
        verified INTEGER NOT NULL,
        round INTEGER NOT NULL,
        damaged TEXT NOT NULL,
        label TEXT NOT NULL,
        PRIMARY KEY (sha1, origin)
    ) WITHOUT ROWID;
    CREATE TABLE lines (
        origin INTEGER NOT NULL,
        sha1 BLOB NOT NULL,
        suffix TEXT NOT NULL,
        size INTEGER NOT NULL,
        stamp INTEGER NOT NULL,
        PRIMARY KEY (origin, sha1, suffix)
    ) WITHOUT ROWID;
    CREATE INDEX objects_verified ON objects (sha1) WHERE verified = 1;
    CREATE INDEX objects_damaged ON objects (origin, sha1) WHERE damaged != '';
    """,
)
"""Never edited, only appended to."""

_FILE: Final = "origins.sqlite"
LOCK_FILE: Final = ".kachery-p2p-origins.lock"
_PAGE: Final = 1_000
_LAST: Final = b"\xff" * 21


class Object(NamedTuple):
    """A content in an origin. ``tree``: bytes of the hash tree beside it, 0 without; ``manifest``: its
    name is there; ``verified``: this node put it there, and read it back."""

    origin: int
    size: int
    tree: int
    manifest: bool
    verified: bool


class Change(NamedTuple):
    """What a page of a listing changed: contents that were not known, and that are gone."""

    fresh: list[str]
    gone: list[str]


class OriginIndex(Database):
    """Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self._known = False
        super().__init__(
            folder / _FILE,
            what="the index of the origins",
            migrations=MIGRATIONS,
            lock_file=LOCK_FILE,
            synchronous="NORMAL",
        )
        self._look()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The index in a folder of the node's; one that is damaged is made anew."""
        try:
            return cls(folder)
        except StorageDamaged as error:
            _log.error("the index of the origins is made anew: %s", error)
            for suffix in ("", "-wal", "-shm"):
                remove(folder / f"{_FILE}{suffix}")
            return cls(folder)

    @property
    def known(self) -> bool:
        """Whether there is any origin: if not, nobody need look."""
        return self._known

    def _look(self) -> None:
        self._known = self._row("SELECT 1 FROM origins LIMIT 1") is not None

    # --- origins ---------------------------------------------------------------------------------

    def origin(self, url: str) -> int:
        """The number of an origin, which is known from now on."""
        self._change("INSERT OR IGNORE INTO origins VALUES (NULL, ?, 0, NULL, NULL, '', 0, 0)", url)
        self._known = True
        return int(self._row("SELECT id FROM origins WHERE url = ?", url)[0])

    def forget_others(self, urls: Collection[str]) -> list[str]:
        """Forget all origins but these; the contents that were in others, a page of them. Call it again
        until there are none."""
        for number, url in self._rows("SELECT id, url FROM origins"):
            if url in urls:
                continue
            rows = self._rows("SELECT sha1 FROM objects WHERE origin = ? LIMIT ?", number, _PAGE)
            with self.transaction() as db:
                db.executemany(
                    "DELETE FROM objects WHERE sha1 = ? AND origin = ?",
                    [(sha1, number) for (sha1,) in rows],
                )
                if len(rows) < _PAGE:
                    db.execute("DELETE FROM origins WHERE id = ?", (number,))
            self._look()
            return [sha1.hex() for (sha1,) in rows] or self.forget_others(urls)
        return []

    def listed_at(self, origin: int) -> float | None:
        """When its last listing came to an end, in Unix time."""
        row = self._row("SELECT listed FROM origins WHERE id = ?", origin)
        return None if row is None else row[0]

    def counts(self, origin: int) -> tuple[int, int, int]:
        """Contents and their bytes as of the last listing, and how many are damaged."""
        row = self._row("SELECT objects, bytes FROM origins WHERE id = ?", origin) or (0, 0)
        damaged = self._row(
            "SELECT count(*) FROM objects WHERE origin = ? AND damaged != ''", origin
        )
        return row[0], row[1], damaged[0]

    # --- listing ---------------------------------------------------------------------------------

    def begin(self, origin: int) -> tuple[int, str]:
        """Begin a listing, or go on with one that was broken off: its number, and the prefix after
        which it goes on (empty: from the first)."""
        number, cursor = self._row("SELECT round, cursor FROM origins WHERE id = ?", origin)
        if cursor is None:
            number, cursor = number + 1, ""
            sql = "UPDATE origins SET round = ?, cursor = '' WHERE id = ?"
            self._change(sql, number, origin)
        return number, cursor

    def put_page(self, origin: int, number: int, prefix: str, found: Iterable[Found]) -> Change:
        """All that lies there under a prefix of an even number of digits."""
        first = bytes.fromhex(prefix)
        with self._lock:
            rows = self._rows(
                "SELECT sha1, stamp, damaged, verified, label, round FROM objects "
                "WHERE origin = ? AND sha1 >= ? AND sha1 < ?",
                origin, first, first + _LAST,
            )  # fmt: skip
            before = {row[0]: row[1:] for row in rows}
            now = _together(found)
            fresh, values = [], []
            for sha1, (size, stamp, tree, manifest) in now.items():
                known = before.get(sha1)
                if known is not None and known[4] >= number:
                    continue  # it was put there since this listing began, which may know it half
                same = known is not None and known[0] == stamp
                damaged, verified = (known[1], known[2]) if known is not None and same else ("", 0)
                if known is None or (known[1] and not damaged):
                    fresh.append(sha1.hex())
                label = "" if known is None else known[3]
                values.append(
                    (sha1, origin, size, stamp, tree, manifest, verified, number, damaged, label)
                )
            gone = [sha1 for sha1, row in before.items() if sha1 not in now and row[4] < number]
            with self.transaction() as db:
                db.executemany(f"INSERT OR REPLACE INTO objects VALUES ({_marks(10)})", values)
                db.executemany(
                    "DELETE FROM objects WHERE sha1 = ? AND origin = ?",
                    [(sha1, origin) for sha1 in gone],
                )
                db.execute("UPDATE origins SET cursor = ? WHERE id = ?", (prefix, origin))
        return Change(fresh, [sha1.hex() for sha1 in gone])

    def end(self, origin: int, now: float) -> None:
        """A listing came to its end."""
        count, size = self._row(
            "SELECT count(*), coalesce(sum(size), 0) FROM objects WHERE origin = ?", origin
        )
        self._change(
            "UPDATE origins SET cursor = NULL, listed = ?, objects = ?, bytes = ? WHERE id = ?",
            now, count, size, origin,
        )  # fmt: skip

    # --- index files -----------------------------------------------------------------------------

    def mark(self, origin: int) -> str:
        """What the index file was like of which the last listing was made."""
        return str(self._row("SELECT mark FROM origins WHERE id = ?", origin)[0])

    def set_mark(self, origin: int, mark: str) -> None:
        self._change("UPDATE origins SET mark = ? WHERE id = ?", mark, origin)

    def stage(self, origin: int, found: Iterable[Found]) -> None:
        """Keep what an index file says, in whatever order, for :meth:`staged`."""
        self.unstage(origin)
        lines = iter(found)
        while some := list(itertools.islice(lines, _PAGE)):
            rows = [(origin, bytes.fromhex(f.sha1), f.suffix, f.size, f.stamp) for f in some]
            with self.transaction() as db:
                db.executemany(f"INSERT OR REPLACE INTO lines VALUES ({_marks(5)})", rows)

    def staged(self, origin: int, prefix: str) -> list[Found]:
        """Of that, what lies under a prefix."""
        first = bytes.fromhex(prefix)
        rows = self._rows(
            "SELECT sha1, suffix, size, stamp FROM lines WHERE origin = ? AND sha1 >= ? AND sha1 < ?",
            origin, first, first + _LAST,
        )  # fmt: skip
        return [Found(sha1.hex(), suffix, size, stamp) for sha1, suffix, size, stamp in rows]

    def unstage(self, origin: int) -> None:
        self._change("DELETE FROM lines WHERE origin = ?", origin)

    # --- objects ---------------------------------------------------------------------------------

    def add(self, origin: int, found: Found, *, tree: int, manifest: bool, label: str = "") -> None:
        """This node has put a content there, and read it back."""
        number = self._row("SELECT round FROM origins WHERE id = ?", origin)[0]
        self._change(
            f"INSERT OR REPLACE INTO objects VALUES ({_marks(10)})",
            bytes.fromhex(found.sha1), origin, found.size, found.stamp, tree, manifest, True, number,
            "", label,
        )  # fmt: skip

    def find(self, sha1: str) -> list[Object]:
        """Where a content lies that is not known to be damaged."""
        rows = self._rows(
            "SELECT origin, size, tree, manifest, verified FROM objects "
            "WHERE sha1 = ? AND damaged = ''",
            bytes.fromhex(sha1),
        )
        return [Object(o, size, tree, bool(named), bool(v)) for o, size, tree, named, v in rows]

    def has(self, sha1: str) -> bool:
        """Whether a content lies in any origin, undamaged."""
        if not self._known:
            return False
        sql = "SELECT 1 FROM objects WHERE sha1 = ? AND damaged = '' LIMIT 1"
        return self._row(sql, bytes.fromhex(sha1)) is not None

    def is_damaged(self, sha1: str, origin: int, why: str) -> None:
        """It is not what its name says: it is not offered any more, until it is another object."""
        sql = "UPDATE objects SET damaged = ?, verified = 0 WHERE sha1 = ? AND origin = ?"
        self._change(sql, why, bytes.fromhex(sha1), origin)

    def forget_tree(self, sha1: str, origin: int) -> None:
        """The hash tree beside it does not fit what it should: it is not used any more."""
        sql = "UPDATE objects SET tree = 0 WHERE sha1 = ? AND origin = ?"
        self._change(sql, bytes.fromhex(sha1), origin)

    def remove(self, sha1: str, origin: int) -> None:
        """It is not there any more."""
        sql = "DELETE FROM objects WHERE sha1 = ? AND origin = ?"
        self._change(sql, bytes.fromhex(sha1), origin)

    def archived(self, sha1s: Iterable[str], origins: Collection[int]) -> set[str]:
        """Those of these contents that this node has put into one of these archives and verified."""
        if not origins or not self._known:
            return set()
        names = [bytes.fromhex(sha1) for sha1 in sha1s]
        found: set[str] = set()
        for at in range(0, len(names), _PAGE // 2):
            some = names[at : at + _PAGE // 2]
            rows = self._rows(
                f"SELECT sha1 FROM objects WHERE sha1 IN ({_marks(len(some))}) AND verified = 1 "
                f"AND damaged = '' AND origin IN ({_marks(len(origins))})",
                *some, *origins,
            )  # fmt: skip
            found.update(sha1.hex() for (sha1,) in rows)
        return found

    def verified(self, origin: int, after: str) -> list[str]:
        """What this node has put there, in the order of the hashes, a page of it."""
        sql = (
            "SELECT sha1 FROM objects WHERE origin = ? AND verified = 1 AND sha1 > ? "
            "ORDER BY sha1 LIMIT ?"
        )
        return [row[0].hex() for row in self._rows(sql, origin, bytes.fromhex(after), _PAGE)]

    def all_verified(self, after: str, limit: int) -> list[tuple[str, int, str, int]]:
        """What this node has put into archives, in the order of the hashes, a page of it: hash, size,
        label, and the number of the archive."""
        rows = self._rows(
            "SELECT sha1, max(size), max(label), min(origin) FROM objects "
            "WHERE verified = 1 AND sha1 > ? GROUP BY sha1 ORDER BY sha1 LIMIT ?",
            bytes.fromhex(after),
            limit,
        )
        return [(sha1.hex(), size, label, origin) for sha1, size, label, origin in rows]

    def sum_verified(self) -> tuple[int, int]:
        """How many contents this node has put into archives, and their bytes."""
        row = self._row(
            "SELECT count(*), coalesce(sum(size), 0) FROM "
            "(SELECT max(size) AS size FROM objects WHERE verified = 1 GROUP BY sha1)"
        )
        return row[0], row[1]

    def scan(self) -> Iterator[str]:
        """All contents that are there and not known to be damaged, in order, a page at a time."""
        last = b""
        while rows := self._rows(
            "SELECT DISTINCT sha1 FROM objects WHERE sha1 > ? AND damaged = '' "
            "ORDER BY sha1 LIMIT ?",
            last, _PAGE,
        ):  # fmt: skip
            for (sha1,) in rows:
                yield sha1.hex()
            last = rows[-1][0]


def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _together(found: Iterable[Found]) -> dict[bytes, tuple[int, int, int, bool]]:
    """Contents, with what lies beside them: size, stamp, bytes of the tree, whether a manifest's
    name."""
    contents: dict[str, Found] = {}
    beside: dict[tuple[str, str], int] = {}
    for each in found:
        if each.suffix:
            beside[each.sha1, each.suffix] = each.size
        else:
            contents[each.sha1] = each
    return {
        bytes.fromhex(sha1): (
            each.size,
            each.stamp,
            beside.get((sha1, paths.TREE), 0),
            (sha1, MANIFEST) in beside,
        )
        for sha1, each in contents.items()
    }
