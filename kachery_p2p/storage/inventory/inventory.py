"""The index of a storage folder: one row for each content that is there, in an SQLite file of its own.

The folder is what counts. The index is kept right by what makes content appear and go, is compared with
the folder whenever that is tidied (:mod:`kachery_p2p.storage.sweeper`), and is made anew from it
when it is lost; then what was fetched cannot be told from what was stored, and counts as stored.

Invariants
    * Before content appears its row is committed, marked as arriving. So after a process was killed at
      any point, what has to be looked at is known, and ``used`` is right without reading the folder.
      (A power cut may cost the last commits: the next round of tidying finds what is missing.)
    * ``used``, and how many there are, are kept in memory, and right whenever the lock is free.
    * Last uses and sizes wait in memory, ``MAX_UNWRITTEN`` of them at most, and are written together
      (:mod:`.rows`).

Non-goals: what may go (:mod:`.quota`), what is pinned (:mod:`.pins`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from msgspec.structs import replace

from kachery_p2p.protocol.errors import StorageDamaged
from kachery_p2p.protocol.files.eviction import KINDS, SOURCES, Kind
from kachery_p2p.protocol.limits import OWN_USED_SECONDS, SWEEP_ROWS
from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import remove

from .rows import MOST_UNWRITTEN, Rows
from .things import COLUMNS, Thing, from_row, measured

_log = logging.getLogger(__name__)

Sort = Literal["sha1", "size", "used", "stored"]

_FILE: Final = "files.sqlite"
_DIGITS: Final = re.compile(r"[0-9a-f]{4,40}")
"""So many that they are meant as the beginning of a hash."""
_MAY_GO: Final = "(kind = 2 OR aside > 0 OR (kind = 0 AND source >= 2))"


class Inventory(Rows):
    """Of the folder at ``root``. Any thread may call."""

    def __init__(self, path: Path, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._root = root
        self._clock = clock
        self.complete = False
        """Whether the whole folder was compared with it, at least once."""
        super().__init__(path)

    @classmethod
    def open(cls, folder: Path, root: Path, *, clock: Callable[[], float] = time.time) -> Self:
        """The index that lies in a folder of the node's, of the storage at ``root``; one that is
        damaged is made anew."""
        path = folder / _FILE
        try:
            index = cls(path, root, clock=clock)
            index._begin()
        except StorageDamaged as error:
            _log.error("the index of the storage is made anew: %s", error)
            with contextlib.suppress(UnboundLocalError):
                index.close()
            for suffix in ("", "-wal", "-shm"):
                remove(path.with_name(path.name + suffix))
            index = cls(path, root, clock=clock)
            index._begin()
        return index

    def _begin(self) -> None:
        """Look at what was under way when the last process ended."""
        rows = self._rows("SELECT kind, count(*), sum(held + aside) FROM things GROUP BY kind")
        self._used = sum(row[2] for row in rows)
        self._counts = Counter({KINDS[kind]: count for kind, count, _ in rows if kind >= 0})
        # Another folder, or one that came back from a backup, is compared from end to end.
        self.complete = self.note("complete") == self._place()
        arriving = self._rows("SELECT sha1 FROM things WHERE arriving = 1 OR kind = 2")
        for sha1 in {*self._take_up(), *(row[0].hex() for row in arriving)}:
            self.look(sha1)
        self.flush()

    def close(self) -> None:
        """Write what waits, and close; a second time does nothing."""
        if getattr(self, "_db", None) is not None:
            with contextlib.suppress(StorageDamaged):
                self.flush()
        super().close()

    def _place(self) -> str:
        status = os.stat(self._root)
        return f"{status.st_dev}:{status.st_ino}"

    def is_complete(self) -> None:
        """All of the folder has been compared."""
        self.complete = True
        self.set_note("complete", self._place())

    def set_note(self, key: str, value: str) -> None:
        """Remember something of the folder as a whole."""
        self._change("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def note(self, key: str) -> str | None:
        """What was remembered, or None."""
        row = self._row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else str(row[0])

    # --- what comes and goes ---------------------------------------------------------------------

    @property
    def used(self) -> int:
        """Bytes of all that is there."""
        return self._used

    def storing(self, sha1s: Iterable[str], label: str = "") -> None:
        """Content is about to be stored here by the node's own user, and the manifest of the first, if
        there is one. Committed on return."""
        now = self._clock()
        file = ""
        names = list(sha1s)
        with self._lock:
            for sha1 in names:
                thing = self._thing(sha1)
                new = thing.kind not in ("file", "link") or thing.source == "fetched"
                fields: dict[str, Any] = {"source": "stored", "used": now, "arriving": True}
                if new:
                    fields |= {"stored": now, "channel": "", "node": "", "node_label": ""}
                fields |= (
                    {"part_of": file} if file else {"label": label or thing.label, "part_of": ""}
                )
                self._put(replace(thing, **fields))
                file = file or sha1
            self._commit(names)

    def storing_each(self, labels: Sequence[tuple[str, str]]) -> None:
        """As :meth:`storing`, of contents that belong to no other: the hash and the label of each."""
        now = self._clock()
        with self._lock:
            self._read([sha1 for sha1, _ in labels])
            for sha1, label in labels:
                thing = self._own(self._thing(sha1), now)
                label = label or thing.label
                self._put(replace(thing, used=now, arriving=True, part_of="", label=label))
            self._commit(sha1 for sha1, _ in labels)

    def own(self, sha1s: Sequence[str]) -> None:
        """The node's own user has these files too, which are here. Committed on return."""
        now = self._clock()
        with self._lock:
            self._read(sha1s)
            for sha1 in sha1s:
                thing = self._thing(sha1)
                own = self._own(thing, now)
                # What is theirs does not go, so its last use need not be known to the second.
                if own is not thing or now - thing.used > OWN_USED_SECONDS:
                    self._put(replace(own, used=now))
            self._commit(sha1s)

    def _own(self, thing: Thing, now: float) -> Thing:
        if thing.kind in ("file", "link") and thing.source != "fetched":
            return thing
        return replace(thing, source="stored", stored=now, channel="", node="", node_label="")

    def fetching(
        self,
        *sha1s: str,
        channel: str,
        node: str,
        node_label: str,
        part_of: str = "",
        label: str = "",
    ) -> None:
        """Content is about to come from another node. What is here as the user's own stays theirs.
        Committed on return."""
        now = self._clock()
        origin: dict[str, Any] = {"channel": channel, "node": node, "node_label": node_label}
        with self._lock:
            self._read(sha1s)
            for sha1 in sha1s:
                thing = self._thing(sha1)
                fields: dict[str, Any] = {"arriving": True}
                own = thing.kind in ("file", "link", "damaged") and thing.source != "fetched"
                if not own:  # else it stays theirs, also if it rotted
                    fields |= {"source": "fetched", "stored": now, "used": now, **origin}
                    fields |= {"part_of": part_of, "label": label or thing.label}
                self._put(replace(thing, **fields))
            self._commit(sha1s)

    def set_archived(self, sha1: str, archived: bool) -> None:
        """What was stored here is in an archive and may go for that, or may not any more."""
        with self._lock:
            thing = self._thing(sha1)
            if thing.kind is not None and thing.source != "fetched":
                self._put(replace(thing, source="archived" if archived else "stored"))
                self.changes += 1

    def look(self, sha1: str) -> Thing | None:
        """Bring the row of a content in line with its files; it, or None if there are none."""
        with self._lock:
            folder = os.path.dirname(paths.text_of(self._root, sha1))
            found = paths.beside(folder).get(sha1, {})
            thing = measured(self._thing(sha1), found, self._root)
            self._put(thing)
            return None if thing.kind is None else thing

    def arrived(self, sizes: Mapping[str, int]) -> list[str]:
        """Small files of so many bytes were just put in place. Those that are to be looked at, since
        something else of theirs may be there, too."""
        with self._lock:
            self._read(list(sizes))
            return [sha1 for sha1, size in sizes.items() if not self._arrived(sha1, size)]

    def _arrived(self, sha1: str, size: int) -> bool:
        thing = self._thing(sha1)
        alone = (thing.kind, thing.held) in ((None, 0), ("file", size))
        if not alone or thing.aside or not thing.stored or not thing.used:
            return False
        self._put(replace(thing, kind="file", size=size, held=size, path="", arriving=False))
        return True

    def touch(self, sha1: str, label: str = "") -> None:
        """It was used just now, under that label."""
        with self._lock:
            if len(self._dirty) > MOST_UNWRITTEN:
                return  # it cannot be written, and a last use is not worth the memory
            thing = self._thing(sha1)
            if thing.kind is not None:
                self._put(replace(thing, used=self._clock(), label=thing.label or label))

    def used_at(self, sha1: str, used: float) -> None:
        """The file system knows of a later use."""
        with self._lock:
            thing = self._thing(sha1)
            if thing.kind is not None and used > thing.used:
                self._put(replace(thing, used=used))

    # --- compared with the folder ----------------------------------------------------------------

    def compare(
        self,
        after: str,
        last: str,
        found: dict[str, dict[str, os.stat_result]],
        skip: Container[str],
    ) -> Iterator[tuple[list[str], list[str]]]:
        """Bring the rows of the folders after one, and up to another, in line with the files that were
        found there: what was not known, and what has gone, a page after the other.

        ``after``, ``last``: first six digits, or empty for the beginning and the end. ``skip``: what is
        just coming.
        """
        low, high = f"{after:f<40}" if after else "", f"{last:f<40}" if last else "g"
        left = set(found)
        while low < high:
            with self._lock:
                known, end = self._page(low, high)
                here = {sha1 for sha1 in left if sha1 <= end}
                left -= here
                self._keep_clean(known | {sha1: Thing(sha1) for sha1 in here - known.keys()})
                fresh, gone = [], []
                for sha1 in known.keys() | here:
                    files = found.get(sha1, {})
                    before = self._thing(sha1)
                    if sha1 in skip or measured(before, files, self._root) == before:
                        continue
                    now = self._looked_at(before, files)
                    stays = now is not None and now.kind in ("file", "link")
                    if stays and before.kind not in ("file", "link"):
                        fresh.append(sha1)
                    elif not stays and before.kind in ("file", "link"):
                        gone.append(sha1)
            yield fresh, gone
            low = end

    def _page(self, after: str, last: str) -> tuple[dict[str, Thing], str]:
        """What the index has after one hash, up to another or as much as a page holds; how far that is.
        The lock is held."""
        rows = self._rows(
            f"SELECT {COLUMNS} FROM things WHERE sha1 > ? AND sha1 <= ? ORDER BY sha1 LIMIT ?",
            bytes.fromhex(after),
            b"\xff" * 21 if last > "f" * 40 else bytes.fromhex(last),
            SWEEP_ROWS,
        )
        known = {thing.sha1: thing for thing in map(from_row, rows)}
        end = list(known)[-1] if len(known) == SWEEP_ROWS else last
        known |= {sha1: thing for sha1, thing in self._dirty.items() if after < sha1 <= end}
        return known, end

    def _looked_at(self, before: Thing, found: dict[str, os.stat_result]) -> Thing | None:
        """As :meth:`look`, of files that were listed a moment ago; the lock is held. Most are alone, as
        they were, and the folder need not be listed again."""
        listed = found.get("")
        if listed is not None and len(found) == 1:
            with contextlib.suppress(FileNotFoundError):
                now = os.lstat(paths.text_of(self._root, before.sha1))
                if _same(now, listed):
                    thing = measured(before, {"": now}, self._root)
                    self._put(thing)
                    return thing
        return self.look(before.sha1)

    def starting(self, start: bytes, limit: int) -> list[str]:
        """Up to ``limit`` contents with a row whose hash begins with these bytes."""
        self.flush()
        sql = "SELECT sha1 FROM things WHERE sha1 >= ? AND sha1 <= ? ORDER BY sha1 LIMIT ?"
        rows = self._rows(sql, start, start + b"\xff" * (20 - len(start)), limit)
        return [row[0].hex() for row in rows]

    # --- asked -----------------------------------------------------------------------------------

    def prepare(self, sha1s: Sequence[str]) -> None:
        """Each of these is about to be asked for: read together what is known of them."""
        with self._lock:
            self._read(sha1s)

    def may_have(self, sha1: str) -> bool:
        """Whether anything of a content may be here: what is not in the index is not, once the whole
        folder was compared with it, but for what others have put there since."""
        with self._lock:
            thing = self._thing(sha1)
        return not self.complete or thing.kind is not None or thing.arriving

    def thing(self, sha1: str) -> Thing | None:
        """What the index has of a content."""
        with self._lock:
            thing = self._thing(sha1)
        return None if thing.kind is None else thing

    def may_go(self, after: tuple[float, str] | None, limit: int) -> list[Thing]:
        """What could go to make room, by its last use, from the one after ``after`` on."""
        with self._lock, self._full_disk():
            self.flush()  # room is made on a full disk, too: what waits on is not found then
        used, sha1 = (-1.0, b"") if after is None else (after[0], bytes.fromhex(after[1]))
        rows = self._rows(
            f"SELECT {COLUMNS} FROM things WHERE {_MAY_GO} AND (used, sha1) > (?, ?) "
            "ORDER BY used, sha1 LIMIT ?",
            used,
            sha1,
            limit,
        )
        return list(map(from_row, rows))

    def listed(
        self,
        *,
        sort: Sort = "sha1",
        after: tuple[float, str] | None = None,
        limit: int,
        kinds: Iterable[Kind] = (),
        sources: Iterable[str] = (),
        among: Iterable[str] | None = None,
        pattern: str = "",
        parts: bool = False,
    ) -> list[Thing]:
        """A page of a listing, from the one after ``after`` (its value and hash) on. The largest, or
        the latest, come first; by hash they go up. ``parts``: manifests, too."""
        self.flush()
        where = ["kind >= 0"]
        values: list[Any] = []
        for column, names, table in (("kind", kinds, KINDS), ("source", sources, SOURCES)):
            numbers = [table.index(name) for name in names]
            if numbers:
                where.append(f"{column} IN ({', '.join('?' * len(numbers))})")
                values += numbers
        if among is not None:
            hashes = [bytes.fromhex(sha1) for sha1 in among]
            where.append(f"sha1 IN ({', '.join('?' * len(hashes))})")
            values += hashes
        if not parts:
            where.append("part_of = x''")
        if pattern:
            digits = pattern.strip("*")
            named = f"{digits}*" if _DIGITS.fullmatch(digits) else ""
            where.append("(label GLOB ? OR CAST(path AS TEXT) GLOB ? OR lower(hex(sha1)) GLOB ?)")
            values += [pattern, pattern, named]
        order = "sha1"
        if sort == "sha1":
            where.append("sha1 > ?")
            values.append(b"" if after is None else bytes.fromhex(after[1]))
        else:
            order = f"{sort} DESC, sha1 DESC"
            if after is not None:
                where.append(f"({sort}, sha1) < (?, ?)")
                values += [after[0], bytes.fromhex(after[1])]
        sql = f"SELECT {COLUMNS} FROM things WHERE {' AND '.join(where)} ORDER BY {order} LIMIT ?"
        return list(map(from_row, self._rows(sql, *values, limit)))

    def sums(self) -> Iterator[tuple[Kind, str, bool, int, int, int]]:
        """Of all that is there: kind, source, whether manifests; how many, their bytes here, and
        those of damaged copies."""
        self.flush()
        for kind, source, part, count, held, aside in self._rows(
            "SELECT kind, source, part_of != x'', count(*), sum(held), sum(aside) FROM things "
            "WHERE kind >= 0 GROUP BY 1, 2, 3"
        ):
            yield KINDS[kind], SOURCES[source], bool(part), count, held, aside

    def counts(self) -> tuple[int, int, int]:
        """Bytes that are used, and how many files and links there are."""
        return self._used, self._counts["file"], self._counts["link"]

    def content_bytes(self) -> int:
        """Bytes of all files, linked ones too."""
        self.flush()
        return int(self._row("SELECT coalesce(sum(size), 0) FROM things WHERE kind IN (0, 1)")[0])


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )
