"""Comparing all that a storage folder holds with its hashes, at a polite rate: ``kachery-p2p verify``.

Blobs are compared with their hash trees, and these with the manifests, or with the SHA-1 where there
is no tree; linked files too, which are only read; the index with the folder. What is damaged is put
aside and withdrawn, and fetched anew if somebody has it. (Downloads in progress are compared block
by block when they are gone on with.)

Invariants: one such round runs at a time, whoever asks. How far it came is on disk every few
seconds, so that the next one goes on from there after a stop or a crash; a round that came to its
end begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    Cancelled,
    CorruptContent,
    KacheryError,
    NotFound,
    StorageDamaged,
)
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.limits import (
    LIST_PAGE,
    MAX_SCRUB_FINDINGS,
    SCRUB_AGAIN_SECONDS,
    SCRUB_OWN_RATE,
    SCRUB_UNIT_BYTES,
    SCRUB_UNIT_FILES,
    SCRUB_UNITS_AHEAD,
    SCRUBS_AT_ONCE,
    VERIFY_ON_READ,
    WRITE_USES_SECONDS,
)
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.checking import check, read_small
from kachery_p2p.storage.files.trees import ensure_tree
from kachery_p2p.storage.inventory.things import Thing

from .downloader import Downloader

_NOTE: Final = "verified"
"""Under this the index has how far it came, and when it came to an end."""

Report = dict[str, Any]


def _begun(now: float) -> Report:
    return {
        "begun": now,
        "ended": None,
        "after": "",
        "files": 0,
        "bytes": 0,
        "links": 0,
        "partials": 0,
        "unknown": 0,
        "vanished": 0,
        "stale": [],
        "damaged": [],
        "restored": [],
        "lost": [],
        "unreadable": [],
    }


class Pace:
    """Holds back threads that read, so that they read so many bytes a second. ``rate`` None: all they
    can."""

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self.gone = threading.Event()
        self._begun = time.monotonic()
        self._read = 0
        self._lock = threading.Lock()

    def content(self) -> Callable[[int], None]:
        """What is to be told, of one content, how many bytes of it are read."""
        before = 0

        def advanced(done: int) -> None:
            nonlocal before
            with self._lock:
                self._read += done - before
                before = done
                read = self._read
            if self.rate is not None:
                ahead = self._begun + read / self.rate - time.monotonic()
                if ahead > 0:
                    self.gone.wait(ahead)

        return advanced


class Scrubbing:
    """``withdraw`` is called on the loop with what is not here any more; ``compare`` brings the
    index in line with the folder, and says how much was not known and how much had gone."""

    def __init__(
        self,
        context: Context,
        downloader: Downloader,
        *,
        withdraw: Callable[[str], None],
        compare: Callable[[], Awaitable[tuple[int, int]]],
    ) -> None:
        self._context = context
        self._downloader = downloader
        self._withdraw = withdraw
        self._compare = compare
        self._running = asyncio.Lock()
        self._due: float | None = None
        """When it is to be done by itself; None: not known yet."""

    async def run(
        self,
        rate: float | None,
        *,
        again: bool = False,
        tell: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        """One round, or the rest of one that was broken off, unless ``again``; what was found.

        Raises:
            Busy: one runs already.
            BadInput: the rate is none.
        """
        if rate is not None and not rate > 0:
            raise BadInput(what="rate", reason=f"{rate!r} bytes a second is none")
        if self._running.locked():
            raise Busy(limit="this storage is being verified already")
        async with self._running:
            pace = Pace(rate)
            return await self._round(pace, again, tell)

    async def run_if_due(self) -> None:
        """A round at a low rate, if the last one ended long ago; for the first, a month is waited."""
        if self._running.locked() or self._context.store.read_only:
            return
        if self._due is None:
            self._due = await self._context.workers.disk(self._when_due)
        if self._context.clock() < self._due:
            return
        report = await self.run(SCRUB_OWN_RATE)
        if report["lost"]:
            text = f"{len(report['lost'])} damaged files were put aside; see 'kachery-p2p verify'"
            self._context.warn(text)

    def _when_due(self) -> float:
        last = self._load()
        if last is None:
            now = self._context.clock()
            last = _begun(now) | {"ended": now}
            self._save(last)
        if last["ended"] is None:
            return self._context.clock()
        return float(last["ended"]) + SCRUB_AGAIN_SECONDS

    def _load(self) -> Report | None:
        text = self._context.inventory.note(_NOTE)
        return None if text is None else json.loads(text)

    def _save(self, report: Report) -> None:
        self._context.inventory.set_note(_NOTE, json.dumps(report))

    async def _round(self, pace: Pace, again: bool, tell: Callable[[Report], None]) -> Report:
        disk = self._context.workers.disk
        before = None if again else await disk(self._load)
        resumed = before is not None and before["ended"] is None
        report = before if before is not None and resumed else _begun(self._context.clock())
        if not resumed:
            report["unknown"], report["vanished"] = await self._compare()
        loop = asyncio.get_running_loop()
        saved = loop.time()
        try:
            while page := await disk(self._page, report["after"]):
                async with contextlib.aclosing(self._verdicts(page, pace)) as verdicts:
                    async for thing, verdict in verdicts:
                        await self._one(thing, verdict, report)
                        report["after"] = thing.sha1
                        tell(report)
                        if loop.time() - saved > WRITE_USES_SECONDS:
                            saved = loop.time()
                            await disk(self._save, report)
        finally:
            pace.gone.set()
        report["ended"] = self._context.clock()
        self._due = None
        await disk(self._save, report)
        return report | {"resumed": resumed}

    def _page(self, after: str) -> list[Thing]:
        at = (0.0, after) if after else None
        return self._context.inventory.listed(after=at, limit=LIST_PAGE, parts=True)

    async def _verdicts(
        self, things: list[Thing], pace: Pace
    ) -> AsyncGenerator[tuple[Thing, str], None]:
        """What is the matter with each of these, in their order. At full rate several are looked at
        together, so that neither the disk nor a core waits. To be closed."""
        left = iter(_units(things))
        turns = asyncio.Semaphore(SCRUBS_AT_ONCE if pace.rate is None else 1)
        ahead: deque[asyncio.Task[list[tuple[Thing, str]]]] = deque()

        async def look(unit: list[Thing]) -> list[tuple[Thing, str]]:
            async with turns:
                return await self._context.workers.disk(
                    lambda: [(thing, self._verdict(thing, pace)) for thing in unit]
                )

        try:
            while True:
                for unit in itertools.islice(left, SCRUB_UNITS_AHEAD - len(ahead)):
                    ahead.append(asyncio.create_task(look(unit), name="verify"))
                if not ahead:
                    return
                for found in await asyncio.shield(ahead[0]):
                    yield found
                ahead.popleft()
        finally:
            if ahead:
                pace.gone.set()
                await asyncio.gather(*ahead, return_exceptions=True)

    async def _one(self, thing: Thing, verdict: str, report: Report) -> None:
        if thing.kind in ("partial", "damaged"):
            report["partials"] += thing.kind == "partial"
            return
        report["files" if thing.kind == "file" else "links"] += 1
        report["bytes"] += thing.size
        if not verdict:
            return
        _name(report[verdict], thing.sha1)
        if verdict != "unreadable":
            self._withdraw(thing.sha1)
        if verdict == "damaged":
            _name(report["restored" if await self._restored(thing) else "lost"], thing.sha1)

    def _verdict(self, thing: Thing, pace: Pace) -> str:
        """What is the matter with it: empty if nothing is."""
        if pace.gone.is_set() or thing.kind in ("partial", "damaged"):
            return ""
        store, advanced = self._context.store, pace.content()
        if thing.kind == "link" and store.link_problem(thing.sha1) is not None:
            return "stale"
        try:
            blob = store.find(thing.sha1)
            if blob is None:
                self._context.inventory.look(thing.sha1)
                return ""
            with store.held(blob) as held:
                check(store, held, again=True, cancelled=pace.gone.is_set, advanced=advanced)
                self._check_tree(held)
        except CorruptContent:
            store.quarantine(thing.sha1, blob)
            # It may have been stored anew meanwhile.
            return "damaged" if store.find(thing.sha1) is None else ""
        except (NotFound, Cancelled):  # it was deleted meanwhile, or nobody waits any more
            return ""
        except (StorageDamaged, OSError) as error:
            self._context.warn(f"sha1://{thing.sha1} could not be read: {error}")
            return "unreadable"
        advanced(thing.size)
        return ""

    def _check_tree(self, blob: Blob) -> None:
        """A tree that does not lead to the manifest's root is made anew. Raises CorruptContent: so does
        none that fits the content."""
        if blob.size <= VERIFY_ON_READ:
            return
        name = self._context.state.manifest(blob.sha1)
        found = None if name is None else self._context.store.find(name)
        if found is None:
            return
        try:
            manifest = Manifest.parse(read_small(self._context.store, found))
        except (KacheryError, ValueError):  # it is looked at by itself
            return
        if manifest.tree is not None and manifest.sha1 == blob.sha1:
            ensure_tree(self._context.store, blob, root=manifest.tree.root).close()

    async def _restored(self, thing: Thing) -> bool:
        """Whether somebody else had it, and it is here again."""
        manifest = await self._context.workers.disk(self._context.state.manifest, thing.sha1)
        try:
            await self._downloader.load(thing.sha1, manifest)
        except KacheryError:  # nobody has it, or there is no room
            return False
        return True


def _units(things: list[Thing]) -> list[list[Thing]]:
    """Contents that are looked at in one visit to a thread: small ones together."""
    units: list[list[Thing]] = []
    size = 0
    for thing in things:
        more = size + thing.size
        if not units or more > SCRUB_UNIT_BYTES or len(units[-1]) == SCRUB_UNIT_FILES:
            units.append([])
            size = 0
        units[-1].append(thing)
        size += thing.size
    return units


def _name(names: list[str], sha1: str) -> None:
    if len(names) < MAX_SCRUB_FINDINGS:
        names.append(sha1)
