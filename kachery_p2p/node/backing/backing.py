"""All origins of a node: what lies in them, and who is to be asked.

Invariants: whether something lies there is said by the index
(:mod:`~kachery_p2p.storage.backing.index`) and never by a request; what the index says is announced
as being here; what turned out not to be there, or to be something else, is withdrawn. A listing that
failed forgets nothing: a folder that is not mounted, or a bucket without its objects, is an error and
not empty."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    KacheryError,
    OriginObjectGone,
    OriginTruncated,
    OriginUnreachable,
)
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    LIST_PAGE,
    ORIGIN_LIST_SECONDS,
    ORIGIN_NEWS_EACH,
    ORIGIN_PAGE_OBJECTS,
    ORIGIN_REFRESH_SECONDS,
)
from kachery_p2p.storage.backing.index import Change, Object, OriginIndex
from kachery_p2p.storage.backing.objects import Found, Objects
from kachery_p2p.storage.backing.setting import (
    OriginSetting,
    checked,
    is_folder,
    origins_of,
    set_origins,
)
from kachery_p2p.storage.files.origins import FREE

from .origin import Origin

log = logging.getLogger(__name__)

_PREFIX: Final = "origin-"


class Backing:
    """``provide`` and ``withdraw`` announce one content, ``compare`` all that is here; they are called
    on the loop."""

    def __init__(
        self,
        context: Context,
        index: OriginIndex,
        *,
        provide: Callable[[str], None],
        withdraw: Callable[[str], None],
        compare: Callable[[], Awaitable[None]],
    ) -> None:
        self.index = index
        self.origins: dict[int, Origin] = {}
        self._context = context
        self._provide, self._withdraw, self._compare = provide, withdraw, compare
        self._changing = asyncio.Lock()
        self._refreshing: dict[int, asyncio.Lock] = {}

    # --- which there are -------------------------------------------------------------------------

    async def load(self, said: Sequence[OriginSetting] | None) -> None:
        """Begin, with what was ``said`` at the start, or else as it was set last."""
        if said is not None:
            await self.set(said)
            return
        disk = self._context.workers.disk
        await self._use(await disk(origins_of, self._context.state))

    async def set(self, settings: Iterable[OriginSetting]) -> None:
        """Have these from now on and after restarts. Raises BadInput: one can never work."""
        good = checked(settings)
        for each in good:
            if is_folder(each.url, self._context.store.root):
                reason = "it is this node's own storage, of which it would be no copy"
                raise BadInput(what=f"origin {each.url}", reason=reason)
        await self._context.workers.disk(set_origins, self._context.state, good)
        await self._use(good, settle=True)

    async def _use(self, settings: list[OriginSetting], *, settle: bool = False) -> None:
        disk = self._context.workers.disk
        async with self._changing:
            before = {each.setting: each for each in self.origins.values()}
            numbers = [await disk(self.index.origin, each.url) for each in settings]
            random = self._context.random
            self.origins = {
                number: before.pop(each) if each in before else Origin(each, number, random=random)
                for each, number in zip(settings, numbers, strict=True)
            }
            for gone in before.values():
                gone.close()
            if settle:
                await disk(self._settle_own)
            urls = {each.url for each in settings}
            count = 0
            while names := await disk(self.index.forget_others, urls):
                count += len(names)
            if count:
                await self._compare()

    def _settle_own(self) -> None:
        """What was stored here and is in an archive may go, or may not any more."""
        origins = [o.number for o in self.origins.values() if o.setting.own]
        for origin in origins:
            after = ""
            while verified := self.index.verified(origin, after):
                for sha1 in verified:
                    self._context.inventory.set_archived(sha1, True)
                after = verified[-1]
        after = ""
        inventory = self._context.inventory
        while page := inventory.listed(
            sources=("archived",), after=(0.0, after), limit=LIST_PAGE, parts=True
        ):
            names = [thing.sha1 for thing in page]
            for sha1 in set(names) - self.index.archived(names, origins):
                inventory.set_archived(sha1, False)
            after = names[-1]

    def close(self) -> None:
        for origin in self.origins.values():
            origin.close()

    # --- what lies there -------------------------------------------------------------------------

    def offers(self, sha1: str) -> bool:
        """Whether a content lies in any of them, as far as is known. Reads the disk."""
        return self.index.has(sha1)

    async def find(self, sha1: str) -> list[tuple[Origin, Object]]:
        """Where a content lies."""
        if not self.origins:
            return []
        rows = await self._context.workers.disk(self.index.find, sha1)
        return [(self.origins[row.origin], row) for row in rows if row.origin in self.origins]

    async def holders(self, sha1: str) -> tuple[list[Holder], KacheryError | None]:
        """The origins that have it, as sources of a download; and why one that has it is left alone at
        this moment."""
        found, error = [], None
        for origin, _ in await self.find(sha1):
            if origin.resting is None:
                found.append(_holder(origin))
            else:
                error = origin.resting
        return found, error

    def named(self, holder: Holder) -> Origin | None:
        """The origin that such a source is; None if it is a node."""
        if not holder.node.startswith(_PREFIX):
            return None
        return self.origins.get(int(holder.node.removeprefix(_PREFIX)))

    async def blame(self, sha1: str, origin: Origin, error: KacheryError) -> None:
        """A content was not what it should be, or not there: it is not offered from there any more."""
        disk = self._context.workers.disk
        if isinstance(error, OriginObjectGone):
            await disk(self.index.remove, sha1, origin.number)
        elif isinstance(error, OriginTruncated | CorruptContent):
            await disk(self.index.is_damaged, sha1, origin.number, error.code)
            self._context.warn(str(error))
        else:
            return
        log.warning("%s: %s", origin.name, error)
        await disk(self._own_again, [sha1])
        self._withdraw(sha1)

    def _own_again(self, sha1s: Iterable[str]) -> None:
        """These are in no archive any more: what is here of them must stay."""
        origins = [o.number for o in self.origins.values() if o.setting.own]
        inventory = self._context.inventory
        things = map(inventory.thing, sha1s)
        names = [each.sha1 for each in things if each is not None and each.source == "archived"]
        for sha1 in set(names) - self.index.archived(names, origins):
            inventory.set_archived(sha1, False)

    # --- listing ---------------------------------------------------------------------------------

    async def refresh_if_due(self) -> None:
        """List those of which that is long ago; for housekeeping."""
        for origin in list(self.origins.values()):
            listed = await self._context.workers.disk(self.index.listed_at, origin.number)
            due = listed is None or self._context.clock() - listed > ORIGIN_REFRESH_SECONDS
            if due and not origin.listing and origin.resting is None:
                with contextlib.suppress(KacheryError):  # it has the error, for whoever asks
                    await self.refresh(origin)

    async def refresh(self, origin: Origin) -> None:
        """List an origin now. Raises OriginError; what was listed before stays known then."""
        lock = self._refreshing.setdefault(origin.number, asyncio.Lock())
        async with lock:
            origin.listing = True
            try:
                await self._refresh(origin)
            except KacheryError as error:
                origin.error = error
                log.warning("listing %s: %s", origin.name, error)
                raise
            finally:
                origin.listing = False

    async def _refresh(self, origin: Origin) -> None:
        index, disk = self.index, self._context.workers.disk
        objects = await self.require(origin)
        lists = await origin.call("looking at it", lambda files: files.lists, anyway=True)
        mark = "" if lists else await self._stage(origin)
        if mark is None:
            await disk(index.end, origin.number, self._context.clock())
            return
        number, after = await disk(index.begin, origin.number)
        changes = 0
        for prefix in _prefixes(objects):
            if prefix <= after:
                continue
            found = await self._page(origin, prefix, lists)
            change = await disk(index.put_page, origin.number, number, prefix, found)
            await disk(self._own_again, change.gone)
            changes += len(change.fresh) + len(change.gone)
            if changes <= ORIGIN_NEWS_EACH:
                self._tell(change)
        await disk(index.end, origin.number, self._context.clock())
        if not lists:
            await disk(index.unstage, origin.number)
            await disk(index.set_mark, origin.number, mark)
        if changes > ORIGIN_NEWS_EACH:
            await self._compare()

    async def require(self, origin: Origin) -> int:
        """See that an origin is there, which is not so if all that it had has gone; how many objects it
        had. Raises OriginError."""
        there = await origin.call("looking at it", Objects.check, anyway=True)
        objects, _, _ = await self._context.workers.disk(self.index.counts, origin.number)
        if not there and objects:
            reason = f"it has no folder 'sha1', which had {objects} files; is it mounted?"
            raise OriginUnreachable(origin=origin.name, reason=reason)
        return objects

    async def _stage(self, origin: Origin) -> str | None:
        """Read an index file; what it was like, or None if it is as it was."""
        disk, number = self._context.workers.disk, origin.number
        mark = await origin.call("its index", Objects.index_stamp)
        if mark and mark == await disk(self.index.mark, number):
            return None

        def stage(objects: Objects) -> None:
            self.index.stage(number, objects.index_lines())

        await origin.call("its index", stage, seconds=ORIGIN_LIST_SECONDS)
        return mark

    async def _page(self, origin: Origin, prefix: str, lists: bool) -> list[Found]:
        if not lists:
            return await self._context.workers.disk(self.index.staged, origin.number, prefix)
        return await origin.call(
            "a listing", lambda files: files.page(prefix), seconds=ORIGIN_LIST_SECONDS
        )

    def _tell(self, change: Change) -> None:
        for sha1 in change.fresh:
            self._provide(sha1)
        for sha1 in change.gone:
            self._withdraw(sha1)

    # --- told ------------------------------------------------------------------------------------

    def archived(self) -> dict[str, int]:
        """How much this node has put into archives. Reads the disk."""
        count, size = self.index.sum_verified()
        return {"count": count, "bytes": size}

    async def status(self) -> list[dict[str, Any]]:
        """Of each origin, plain values: what it is, how it is, what lies there."""
        return [await self._told(each) for each in self.origins.values()]

    async def _told(self, origin: Origin) -> dict[str, Any]:
        disk, error = self._context.workers.disk, origin.error
        objects, size, damaged = await disk(self.index.counts, origin.number)
        return {
            "url": origin.name,
            "archive": origin.setting.archive,
            "own": origin.setting.own,
            "state": "ok" if error is None else error.code,
            "error": "" if error is None else str(error),
            "listing": origin.listing,
            "listed": await disk(self.index.listed_at, origin.number),
            "objects": objects,
            "bytes": size,
            "damaged": damaged,
        }


def _holder(origin: Origin) -> Holder:
    return Holder(f"{_PREFIX}{origin.number}", bytes.fromhex(FREE), linked=True, label=origin.name)


def _prefixes(objects: int) -> Iterable[str]:
    """The pages of a listing of about so many objects, in order."""
    digits = 2 if objects <= 256 * ORIGIN_PAGE_OBJECTS else 4
    return (f"{at:0{digits}x}" for at in range(16**digits))
