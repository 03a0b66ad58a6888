"""Tidying a storage folder and what is remembered of it, a little at a time.

What goes

* downloads in progress that nobody has gone on with for ``PARTIAL_KEEP_SECONDS``, and hash trees
  and stamps that have been without their content for as long;
* damaged content that was put aside, but for the newest ``MAX_QUARANTINED`` files in
  ``MAX_QUARANTINED_BYTES``, and the newest of all in any case;
* origins and manifests of content that has been gone for ``ORIGIN_KEEP_SECONDS``: not sooner, since
  what comes back from a backup must not look as if it were for everybody.

On the way the index of the folder is brought in line with it (:mod:`.inventory.inventory`), since
this is what looks at every file; in a folder that can only be read that is all.

Invariants: nothing is touched that is under way (:mod:`.files.arrivals`), in the journal, or not ours
by its name; one :meth:`Sweeper.step` looks at ``SWEEP_FOLDERS`` folders, or pages of rows, at most,
and between two rounds there are ``SWEEP_PAUSE_SECONDS``. If the folder is not the one that is locked
(its disk was taken away, say), nothing at all is done.

Non-goals: blobs, links, temporary files (see :meth:`.files.blobs.BlobStore.clean`).
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.protocol.limits import (
    MAX_QUARANTINED,
    MAX_QUARANTINED_BYTES,
    ORIGIN_KEEP_SECONDS,
    PARTIAL_KEEP_SECONDS,
    SWEEP_FOLDERS,
    SWEEP_PAUSE_SECONDS,
    SWEEP_ROWS,
    SWEEP_TOGETHER,
)
from kachery_p2p.storage.files.blobs import BlobStore

from . import paths
from .disk import remove
from .inventory.inventory import Inventory
from .state import StateDB

_log = logging.getLogger(__name__)

_CONTENT: Final = ("", paths.LINK, paths.PARTIAL, paths.PARTIAL_MAP)
_ALONE: Final = frozenset({""})
"""Of content with nothing beside it."""


def ignore(fresh: list[str], gone: list[str]) -> None:
    """The ``moved`` of who announces nothing."""


class Sweeper:
    """``clock`` is that of the files: Unix time in seconds."""

    def __init__(
        self,
        store: BlobStore,
        state: StateDB,
        clock: Callable[[], float] = time.time,
        *,
        inventory: Inventory | None = None,
        moved: Callable[[list[str], list[str]], None] = ignore,
    ) -> None:
        """``moved`` is told of content that somebody else put into the folder, and took away."""
        self._inventory = inventory
        self._moved = moved
        self._store = store
        self._state = state
        self._clock = clock
        self._round: Iterator[int] | None = None
        self._turn = threading.Lock()
        self._rest_until = float("-inf")

    def step(self) -> bool:
        """Do a little. What cannot be done now is done in a later round. Whether there is more to do
        now."""
        with self._turn:
            self._step()
            return self._round is not None

    def begin(self) -> None:
        """Begin a round with the next step, whether one is due or not."""
        with self._turn:
            self._round = self._all()

    def _step(self) -> None:
        if not self._store.is_locked_here() and not self._store.read_only:
            self._rest()
            return
        if self._round is None:
            if time.monotonic() < self._rest_until:
                return
            self._round = self._all()
        try:
            looked = 0
            while looked < SWEEP_FOLDERS:
                some = next(self._round, None)
                if some is None:
                    self._rest()
                    return
                looked += some
        except (KacheryError, OSError) as error:
            _log.warning("the storage could not be tidied: %s", error)
            self._rest()

    def _rest(self) -> None:
        self._round = None
        self._rest_until = time.monotonic() + SWEEP_PAUSE_SECONDS

    def _all(self) -> Iterator[int]:
        yield from self._folders()
        if self._store.read_only:
            return
        yield from self._rows()
        yield from self._downloads()

    # --- files -----------------------------------------------------------------------------------

    def _folders(self) -> Iterator[int]:
        aside = _Newest()
        before = ""
        leaves = paths.leaf_folders(self._store.root)
        while some := list(itertools.islice(leaves, SWEEP_TOGETHER)):
            files = {
                sha1: found for _, folder in some for sha1, found in paths.beside(folder).items()
            }
            last = some[-1][0]
            yield from self._compare(before, last, files)
            if not self._store.read_only:
                self._tidy(files, aside)
            before = last
            yield len(some)
        yield from self._compare(before, "", {})
        if self._inventory is not None:
            self._inventory.is_complete()

    def _compare(
        self, after: str, last: str, files: dict[str, dict[str, os.stat_result]]
    ) -> Iterator[int]:
        """The index with what lies in some folders, and in none between them."""
        if self._inventory is None:
            return
        with self._store.arrivals.halted() as under_way:
            coming = set(files.keys() & under_way.keys())
        for fresh, gone in self._inventory.compare(after, last, files, coming):
            if fresh or gone:
                self._moved(fresh, gone)
            yield 1

    def _tidy(self, files: dict[str, dict[str, os.stat_result]], aside: _Newest) -> None:
        for sha1, found in files.items():
            if found.keys() == _ALONE:
                continue
            for suffix, status in found.items():
                if suffix.startswith(paths.CORRUPT):
                    for path in aside.add(self._store.path(sha1, suffix), status):
                        remove(path)
                        self._store.ledger.changed(path.name[:40])
            if self._left(found):
                self._sweep_partial(sha1)

    def _left(self, found: dict[str, os.stat_result]) -> list[str]:
        """What lies there for nothing: a download that nobody went on with, or what is beside content
        that has gone."""
        parts: list[str] = [suffix for suffix in paths.OF_PARTIAL if suffix in found]
        if not any(suffix in found for suffix in _CONTENT):
            parts += [suffix for suffix in (paths.TREE, paths.CHECKED) if suffix in found]
        newest = max((found[suffix].st_mtime for suffix in parts), default=0.0)
        return parts if newest <= self._clock() - PARTIAL_KEEP_SECONDS else []

    def _sweep_partial(self, sha1: str) -> None:
        with self._store.arrivals.halted() as under_way:
            if sha1 in under_way:
                return
            # It was listed a while ago: somebody may have gone on with it, and paused.
            left = self._left(paths.beside(self._store.path(sha1).parent).get(sha1, {}))
            for suffix in left:
                remove(self._store.path(sha1, suffix))
        if left:
            self._store.ledger.changed(sha1)
            _log.info("a download of sha1://%s that nobody went on with was removed", sha1)

    # --- rows ------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[int]:
        after = ""
        while page := self._state.described(after, SWEEP_ROWS):
            gone = [sha1 for sha1 in page if self._is_gone(sha1)]
            here = sorted(set(page) - set(gone))
            self._state.note_gone(gone, here, self._clock())
            after = page[-1]
            yield 1
        before = self._clock() - ORIGIN_KEEP_SECONDS
        while page := self._state.long_gone(before, SWEEP_ROWS):
            with self._store.arrivals.halted() as under_way:
                still = [s for s in page if s not in under_way and self._is_gone(s)]
                self._state.forget_content(still)
            if len(still) < len(page):
                return  # the rest is found to be here in the next round
            yield 1

    def _is_gone(self, sha1: str) -> bool:
        if self._store.in_journal(sha1):
            return False  # a start after a power cut would bring it back
        return not any(os.path.lexists(self._store.path(sha1, suffix)) for suffix in _CONTENT)

    def _downloads(self) -> Iterator[int]:
        """Where bytes came from matters as long as they are a part of something."""
        after = ""
        while page := self._state.downloads(after, SWEEP_ROWS):
            with self._store.arrivals.halted() as under_way:
                over = [sha1 for sha1 in page if sha1 not in under_way and self._is_over(sha1)]
                if over:
                    self._state.forget_downloads(over)
            after = page[-1]
            yield 1

    def _is_over(self, sha1: str) -> bool:
        return not any(
            os.path.lexists(self._store.path(sha1, suffix))
            for suffix in (paths.PARTIAL, paths.PARTIAL_MAP)
        )


@dataclass
class _Newest:
    """The newest of the files that were met so far, within the bounds."""

    bytes: int = 0
    heap: list[tuple[int, str, int]] = field(default_factory=list)

    def add(self, path: Path, status: os.stat_result) -> list[Path]:
        """One more; those that are too many now."""
        # The time of the renaming: when it was put aside.
        heapq.heappush(self.heap, (status.st_ctime_ns, str(path), status.st_size))
        self.bytes += status.st_size
        over = []
        while len(self.heap) > MAX_QUARANTINED or (
            self.bytes > MAX_QUARANTINED_BYTES and len(self.heap) > 1
        ):
            _, oldest, size = heapq.heappop(self.heap)
            self.bytes -= size
            over.append(Path(oldest))
        return over
