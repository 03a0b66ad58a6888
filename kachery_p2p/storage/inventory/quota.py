"""Room in a storage folder: reserved before anything is written, and made by what may go.

Invariants
    * The bytes of all content, with what is about to be written, are never more than the limit,
      whatever the source. Who asks for more gets StorageFull, and nothing was written.
    * What goes was chosen by :mod:`kachery_p2p.protocol.files.eviction`, and asked about once more,
      under the lock under which nothing can arrive, right before it goes.
    * While something is being written, its claim counts; then its row does. Never neither.

The disk itself may be full before the limit is reached. Then what may go does so as well, if there is a
limit: who set none does not want anything to go. That is tried, and not promised: others write to the
disk, too.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from kachery_p2p.protocol.errors import KacheryError, StorageLimitReached
from kachery_p2p.protocol.files.eviction import Candidate, Room, enough, going, why_kept
from kachery_p2p.protocol.limits import DISK_MARGIN, EVICT_PAGE, MAX_HOLDERS_OF_ROOM
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.blobs import BlobStore

from .deletion import ALL, delete
from .inventory import Inventory
from .pins import PinTables
from .things import Thing

_log = logging.getLogger(__name__)

_DAMAGED: Final = (paths.CORRUPT,)
_BARREN_SECONDS: Final = 1.0
"""For so long it is believed that nothing may go."""


class Quota:
    """The :class:`~kachery_p2p.storage.files.arrivals.Ledger` of a store. Any thread may call.

    ``gone`` is called, in the thread that made room, with what is not here any more. ``clock`` is Unix
    time in seconds.
    """

    def __init__(
        self,
        store: BlobStore,
        inventory: Inventory,
        pins: PinTables,
        *,
        limit: int | None = None,
        gone: Callable[[str], None] = lambda sha1: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._inventory = inventory
        self._pins = pins
        self._gone = gone
        self._clock = clock
        self._limit = limit
        self._reserved = 0
        self._barren: tuple[int, int] | None = None
        self._barren_until = 0.0
        self.lock = threading.RLock()
        """Held while it is decided what goes. Who pins something holds it, so as to know that it is
        there."""

    # --- asked -----------------------------------------------------------------------------------

    @property
    def limit(self) -> int | None:
        """Bytes; None: there is no limit."""
        return self._limit

    @property
    def room(self) -> Room:
        with self.lock:
            return Room(self._inventory.used, self._reserved, self._limit)

    # --- what is written -------------------------------------------------------------------------

    def claim(self, what: str) -> _Claim:
        return _Claim(self, what)

    def changed(self, sha1: str) -> None:
        with self.lock:
            self._inventory.look(sha1)
            self._inventory.flush()  # no kill shall bring back a row of what was deleted

    def reserve(self, more: int, what: str) -> None:
        """Raises StorageLimitReached."""
        with self.lock:
            if self._is_lacking(more):
                if not self.room.can_ever_hold(more):
                    raise self._full(what, more)
                self._make_room(lambda: not self._is_lacking(more))
                if self.room.lacking(more):
                    raise self._full(what, more)
            self._reserved += more

    def _is_lacking(self, more: int) -> bool:
        """Whether something has to go before so many bytes are written."""
        if self._limit is None:
            return False
        return bool(self.room.lacking(more)) or self._free() < more + DISK_MARGIN

    def _free(self) -> float:
        try:
            disk = os.statvfs(self._store.root)
        except OSError:  # whoever writes will say what is the matter
            return math.inf
        return disk.f_bavail * disk.f_frsize

    def give_back(self, reserved: int, sha1s: Sequence[str]) -> None:
        """What was reserved is written, or never will be."""
        with self.lock:
            self._reserved -= reserved
            for sha1 in sha1s:
                try:
                    self._inventory.look(sha1)
                except (KacheryError, OSError) as error:
                    # It is there all the same, and its row says that it is to be looked at.
                    _log.warning("the index does not have sha1://%s yet: %s", sha1, error)

    def give_back_small(self, reserved: int, sizes: Mapping[str, int]) -> None:
        """As :meth:`give_back`, of small files that were put in place, with their sizes."""
        with self.lock:
            left: Sequence[str] = ()
            try:
                left = self._inventory.arrived(sizes)
            except (KacheryError, OSError) as error:
                _log.warning("the index does not have %d files yet: %s", len(sizes), error)
            self.give_back(reserved, left)

    # --- what goes -------------------------------------------------------------------------------

    def set_limit(self, limit: int | None) -> None:
        """From now on; what is over goes at once, as far as it may."""
        with self.lock:
            self._limit = limit
        self.keep_within()

    def keep_within(self) -> None:
        """Let go what is over: a folder that was there before its limit, or that others wrote to."""
        if self._limit is not None and not self._store.read_only:
            self.collect(self._limit)

    def collect(self, target: int, *, pretend: bool = False) -> list[Thing]:
        """Let go what may, until no more than ``target`` bytes are used; what went, or (``pretend``)
        would go. Raises StorageDamaged."""
        with self.lock:
            over = Room(self._inventory.used, self._reserved, target).lacking(0)
            if pretend:
                things: dict[Candidate, Thing] = {}
                return [things[each] for each in enough(self._going(things), over)]
            if not over:
                return []
            return self._make_room(
                lambda: not Room(self._inventory.used, self._reserved, target).lacking(0)
            )

    def _make_room(self, is_enough: Callable[[], bool]) -> list[Thing]:
        """Let things go until it is enough, or nothing else may; what went. The lock is held.

        Where a million files are pinned, looking at all of them takes a while: that nothing may go is
        believed for a second, unless something came or was pinned or unpinned."""
        state = self._inventory.changes, self._pins.pin_changes
        if self._barren == state and time.monotonic() < self._barren_until:
            return []
        gone = []
        for thing in self._evict():
            gone.append(thing)
            if is_enough():
                return gone
        self._barren = self._inventory.changes, self._pins.pin_changes
        self._barren_until = time.monotonic() + _BARREN_SECONDS
        return gone

    def _evict(self) -> Iterator[Thing]:
        """Let things go, one after another; the lock is held."""
        things: dict[Candidate, Thing] = {}
        for candidate in self._going(things):
            thing = things[candidate]
            try:
                went = self._let_go(thing, candidate)
            except KacheryError as error:  # another may go in its place
                _log.warning("sha1://%s could not be deleted: %s", thing.sha1, error)
                continue
            if went:
                yield thing

    def _let_go(self, thing: Thing, candidate: Candidate) -> bool:
        whole = thing.kind in ("file", "link") and candidate.kind != "damaged"
        suffixes = _DAMAGED if candidate.kind == "damaged" else ALL
        if not delete(
            self._store,
            thing.sha1,
            lambda: not self._kept(thing.sha1, candidate),
            suffixes=suffixes,
        ):
            self._inventory.look(thing.sha1)  # somebody else may have deleted it
            return False
        _log.info("sha1://%s went to make room: %d bytes", thing.sha1, thing.bytes)
        if whole:
            self._gone(thing.sha1)
        return True

    def _kept(self, sha1: str, chosen: Candidate) -> bool:
        """Whether it may not go after all: somebody stored, pinned or opened it meanwhile."""
        if chosen.kind == "damaged" and chosen.bytes == 0:
            return False
        thing = self._inventory.thing(sha1)
        now = None if thing is None else self._candidate(thing)
        return now is None or bool(why_kept(now))

    def _candidate(self, thing: Thing) -> Candidate | None:
        pinned = bool(self._pins.pinned([thing.sha1], self._clock()))
        with self._store.readers.halted() as readers:
            in_use = thing.sha1 in readers
        return thing.candidate(pinned=pinned, in_use=in_use)

    def _going(self, things: dict[Candidate, Thing]) -> Iterator[Candidate]:
        """All that may go, in order; what each is, is put into ``things``."""
        for only_damaged in (True, False):
            after: tuple[float, str] | None = None
            while page := self._inventory.may_go(after, EVICT_PAGE):
                after = page[-1].used, page[-1].sha1
                pinned = self._pins.pinned([thing.sha1 for thing in page], self._clock())
                candidates = []
                for found in page:
                    if found.sha1 in pinned and not found.aside:
                        continue
                    thing = self._lately_used(found)
                    candidate = self._candidate(thing)
                    if candidate and (candidate.kind == "damaged") is only_damaged:
                        things[candidate] = thing
                        candidates.append(candidate)
                yield from going(candidates)

    def _lately_used(self, thing: Thing) -> Thing:
        """With the last use that the file system knows of: programs read files in the storage
        themselves.

        (Most file systems note a day's first use. The node's own reading of a file does not count.)"""
        if thing.kind != "file":
            return thing
        try:
            status = os.stat(self._store.path(thing.sha1))
        except OSError:
            return thing
        if status.st_atime <= max(thing.used, status.st_mtime):
            return thing
        self._inventory.used_at(thing.sha1, status.st_atime)
        return self._inventory.thing(thing.sha1) or thing

    # --- why there is none -----------------------------------------------------------------------

    def _full(self, what: str, more: int) -> StorageLimitReached:
        room = self.room
        held: Counter[str] = Counter()
        for kind, source, part, _, bytes_here, aside in self._inventory.sums():
            name = "linked (hash trees)" if kind == "link" else _NAMES[source]
            if kind == "partial":
                name = "downloads in progress"
            if part:
                name = "manifests"
            held[name] += bytes_here
            held["damaged copies"] += aside
        held["about to be written"] += room.reserved
        largest = [f"{name}: {count} bytes" for name, count in held.most_common() if count]
        return StorageLimitReached(
            what=what,
            path=str(self._store.root),
            needed=more,
            limit=room.limit,
            used=room.used,
            held="; ".join(largest[:MAX_HOLDERS_OF_ROOM]) or "nothing",
        )


_NAMES: Final = {
    "stored": "stored here",
    "found": "found in the folder",
    "fetched": "fetched, and pinned or in use",
    "archived": "in an archive, too, and pinned or in use",
}


class _Claim:
    """Room for one content that is being written. Used by one thread at a time."""

    def __init__(self, quota: Quota, what: str) -> None:
        self._quota = quota
        self._what = what
        self._granted = 0

    def grow(self, total: int) -> None:
        if total > self._granted:
            self._quota.reserve(total - self._granted, self._what)
            self._granted = total

    def settle(self, *sha1s: str) -> None:
        granted, self._granted = self._granted, 0
        if granted or sha1s:
            self._quota.give_back(granted, sha1s)

    def settle_small(self, sizes: Mapping[str, int]) -> None:
        granted, self._granted = self._granted, 0
        self._quota.give_back_small(granted, sizes)
