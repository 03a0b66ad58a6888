"""The calls of the local API about what this node stores and keeps.

===================  =================================================  ===============================
method               parameters                                         result
===================  =================================================  ===============================
``store``            data (bytes) | a descriptor | pieces; channel?,    sha1, size, manifest
                     label?, seconds?; sends progress, with a
                     descriptor
``link``             a descriptor, path, label?; sends progress         sha1, size, manifest
``list_files``       sort?, which?, pattern?, parts?, after?            files (a page), after (of the
                                                                        next page, or None), complete
``storage_usage``                                                       limit, used, reserved, kinds,
                                                                        complete, free, disk
``delete_file``      sha1, force?, copies?                              freed (bytes)
``unshare``          sha1, channel
``pin``              sha1, name?, seconds?                              pinned, missing, until
``unpin``            sha1, name?                                        ended
``collect``          to?, pretend?                                      files, freed, used
``set_limit``        bytes (None: without)                              limit, used
``verify``           rate?, again?; sends progress                      what was found
===================  =================================================  ===============================

``copies``: on other nodes, without which what was stored here is not deleted; 1 by default.
``label`` is remembered here, for listings; ``seconds``: for how long something is kept, by default for
good. ``which`` is one of ``mine``, ``fetched``, ``linked``, ``pinned``, ``partial``, ``archived``
(which have the ``archive``, too). What a record of a
listing has is said by :meth:`~kachery_p2p.node.files.keeping.Keeping.record`.

No parameter is a path that the node would open on the caller's behalf: files come as descriptors, and
``link`` checks that its descriptor is the file at its path.
"""

from __future__ import annotations

import asyncio
import fnmatch
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from kachery_p2p.node.files.storing import Storing, Wish, store_as
from kachery_p2p.node.workers import open_on_disk
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.eviction import Kind, Source
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.limits import (
    LIST_PAGE,
    MAX_COPIES,
    MAX_FILE,
    MAX_FILE_LABEL,
    MAX_KEEP_SECONDS,
    MAX_LIST_PATTERN,
    MAX_PIN_NAME,
)
from kachery_p2p.storage.files.writer import Stored
from kachery_p2p.storage.inventory.inventory import Sort
from kachery_p2p.storage.inventory.things import Thing
from kachery_p2p.storage.limit import set_limit

from .call_table import CallTable, Nothing
from .live_call import LiveCall, Watch, watched
from .services import Services

_WHICH: Final[dict[str, tuple[tuple[Kind, ...], tuple[Source, ...]]]] = {
    "": ((), ()),
    "mine": (("file", "link"), ("stored", "found", "archived")),
    "fetched": (("file",), ("fetched",)),
    "linked": (("link",), ()),
    "partial": (("partial",), ()),
}
"""Kinds and sources of what is listed."""


def _check_seconds(seconds: float | None) -> None:
    if seconds is not None and not 0 < seconds <= MAX_KEEP_SECONDS:
        raise ValueError(f"nothing can be kept for {seconds} s")


class _Store(msgspec.Struct, frozen=True):
    data: bytes | None = None
    channel: str | None = None
    label: str = ""
    seconds: float | None = None

    def __post_init__(self) -> None:
        if len(self.label) > MAX_FILE_LABEL:
            raise ValueError("the label is too long")
        _check_seconds(self.seconds)


class _Link(msgspec.Struct, frozen=True):
    path: bytes
    """As the file system knows it, which may be no UTF-8."""
    label: str = ""


class _List(msgspec.Struct, frozen=True):
    sort: Sort = "sha1"
    which: Literal["", "mine", "fetched", "linked", "pinned", "partial", "archived"] = ""
    pattern: str = ""
    parts: bool = False
    after: tuple[float, str] | None = None

    def __post_init__(self) -> None:
        if len(self.pattern) > MAX_LIST_PATTERN:
            raise ValueError(f"a pattern of more than {MAX_LIST_PATTERN} characters")
        if self.after is not None:
            bytes.fromhex(self.after[1])


class _Sha1(msgspec.Struct, frozen=True):
    sha1: str
    force: bool = False
    channel: str = ""
    name: str | None = None
    seconds: float | None = None

    copies: int = 1

    def __post_init__(self) -> None:
        file_key(self.sha1)
        if not 0 <= self.copies <= MAX_COPIES:
            raise ValueError(f"copies are 0 to {MAX_COPIES}")
        _check_seconds(self.seconds)
        if len(self.name or "") > MAX_PIN_NAME:
            raise ValueError(f"a name of more than {MAX_PIN_NAME} characters")


class _Collect(msgspec.Struct, frozen=True):
    to: int | None = None
    pretend: bool = False


class _Limit(msgspec.Struct, frozen=True):
    bytes: int | None = None

    def __post_init__(self) -> None:
        if self.bytes is not None and not 0 < self.bytes <= MAX_FILE:
            raise ValueError(f"a limit is between 1 and {MAX_FILE} bytes")


class _Verify(msgspec.Struct, frozen=True):
    rate: float | None = None
    again: bool = False


def _fits(thing: Thing, pattern: str) -> bool:
    """As the pattern of a listing."""
    names = (thing.label, thing.path, thing.sha1)
    return not pattern or any(fnmatch.fnmatchcase(name, pattern) for name in names)


class StorageCalls:
    """A method per call, for :class:`~.calls.Calls`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def calls(self) -> CallTable:
        return {
            "store": (_Store, self._store),
            "link": (_Link, self._link),
            "list_files": (_List, self._list),
            "storage_usage": (Nothing, self._usage),
            "delete_file": (_Sha1, self._delete),
            "unshare": (_Sha1, self._unshare),
            "pin": (_Sha1, self._pin),
            "unpin": (_Sha1, self._unpin),
            "collect": (_Collect, self._collect),
            "set_limit": (_Limit, self._set_limit),
            "verify": (_Verify, self._verify),
        }

    def _channel(self, name: str | None) -> bytes | None:
        return None if name is None else self._services.context.book.resolve(name)

    # --- storing -----------------------------------------------------------------------------

    async def _store(self, params: _Store, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._channel(params.channel)
        disk = self._services.context.workers.disk
        wish = Wish(channel, params.label, params.seconds)
        if params.data is not None:
            stored = await disk(self._keep, params.data, wish)
        elif live.descriptor is not None:
            if not stat.S_ISREG(os.fstat(live.descriptor).st_mode):
                # Whoever holds the other end of a pipe would hold a disk thread for as long.
                raise BadInput(what="store", reason="not a regular file; send its bytes in pieces")
            stored = await self._in_thread(self._store_fd, live, wish)
        else:
            stored = await self._store_pieces(live, wish)
        return self._stored(stored, channel)

    def _stored(self, stored: Stored, channel: bytes | None) -> dict[str, Any]:
        self._services.bootstraps.hurry()  # what is stored is about to be asked for
        self._services.announcer.provide(file_key(stored.sha1), channel)
        if stored.manifest_sha1 is not None:
            self._services.announcer.provide(file_key(stored.manifest_sha1), channel)
        return {"sha1": stored.sha1, "size": stored.size, "manifest": stored.manifest_sha1}

    def _keep(self, data: bytes, wish: Wish) -> Stored:
        store_bytes = self._services.store.store_bytes
        return store_as(self._services.context, wish, lambda arriving: store_bytes(data, arriving))

    async def _in_thread(
        self,
        work: Callable[[LiveCall, Wish, Watch], Stored],
        live: LiveCall,
        wish: Wish,
    ) -> Stored:
        assert live.descriptor is not None
        size = os.fstat(live.descriptor).st_size
        return await watched(self._services.context.workers, live, size, partial(work, live, wish))

    def _store_fd(self, live: LiveCall, wish: Wish, watch: Watch) -> Stored:
        fd = live.descriptor
        assert fd is not None
        store_fd = self._services.store.store_fd
        return store_as(
            self._services.context,
            wish,
            lambda arriving: store_fd(fd, watch.gone.is_set, watch.advanced, arriving),
        )

    async def _store_pieces(self, live: LiveCall, wish: Wish) -> Stored:
        disk = self._services.context.workers.disk
        workers = self._services.context.workers
        # Who leaves while its file is being made leaves no file.
        storing = Storing(self._services.context, wish)
        writer = await open_on_disk(
            workers, lambda gone: self._services.store.begin(storing.arriving)
        )
        try:
            while (piece := await live.upload.next()) is not None:
                await disk(writer.write, piece)
            stored = await disk(writer.finish)
        except BaseException:
            await asyncio.shield(disk(writer.abort))
            raise
        await disk(storing.stored, stored)
        return stored

    async def _link(self, params: _Link, live: LiveCall) -> Any:
        live.caller.require_write()
        if live.descriptor is None:
            raise BadInput(what="link", reason="no file descriptor came; is this a TCP connection?")

        def work(live: LiveCall, wish: Wish, watch: Watch) -> Stored:
            fd = live.descriptor
            assert fd is not None
            path = Path(os.fsdecode(params.path))
            link = self._services.store.link_fd
            return store_as(
                self._services.context,
                wish,
                lambda arriving: link(fd, path, watch.gone.is_set, watch.advanced, arriving),
            )

        return self._stored(await self._in_thread(work, live, Wish(label=params.label)), None)

    # --- what is here ------------------------------------------------------------------------

    async def _list(self, params: _List, live: LiveCall) -> Any:
        return await self._services.context.workers.disk(self._page, params)

    def _page(self, params: _List) -> dict[str, Any]:
        context = self._services.context
        if params.which == "pinned":
            return self._pinned_page(params)
        if params.which == "archived":
            return self._archived_page(params)
        kinds, sources = _WHICH[params.which]
        things = context.inventory.listed(
            sort=params.sort,
            after=params.after,
            limit=LIST_PAGE,
            kinds=kinds,
            sources=sources,
            pattern=params.pattern,
            parts=params.parts,
        )
        after = None
        if len(things) == LIST_PAGE:
            last = things[-1]
            value = 0.0 if params.sort == "sha1" else getattr(last, params.sort)
            after = (value, last.sha1)
        return self._records(things, after)

    def _pinned_page(self, params: _List) -> dict[str, Any]:
        """In the order of the hashes, whatever was asked for: pins are in another database."""
        context = self._services.context
        names = context.state.all_pinned("" if params.after is None else params.after[1], LIST_PAGE)
        things = context.inventory.listed(
            limit=LIST_PAGE, among=names, pattern=params.pattern, parts=params.parts
        )
        counting = context.state.pinned([thing.sha1 for thing in things], context.clock())
        after = (0.0, names[-1]) if len(names) == LIST_PAGE else None
        return self._records([thing for thing in things if thing.sha1 in counting], after)

    def _archived_page(self, params: _List) -> dict[str, Any]:
        """What this node has put into archives, here or not, in the order of the hashes."""
        context, backing = self._services.context, self._services.backing
        after = "" if params.after is None else params.after[1]
        page = backing.index.all_verified(after, LIST_PAGE)
        records = []
        for sha1, size, label, number in page:
            thing = context.inventory.thing(sha1) or Thing(sha1, size=size, label=label)
            if not _fits(thing, params.pattern):
                continue
            origin = backing.origins.get(number)
            record = self._services.keeping.record(thing)
            record["kind"] = thing.kind or "archived"
            record["source"] = "archived"
            record["channel"] = ""
            record["archive"] = "" if origin is None else origin.name
            records.append(record)
        last = (0.0, page[-1][0]) if len(page) == LIST_PAGE else None
        return {"files": records, "after": last, "complete": context.inventory.complete}

    def _records(self, things: list[Thing], after: tuple[float, str] | None) -> dict[str, Any]:
        name_of = self._services.network.name_of
        records = [self._services.keeping.record(thing) for thing in things]
        for record in records:
            channel = record["channel"]
            record["channel"] = name_of(bytes.fromhex(channel)) if channel else ""
        complete = self._services.context.inventory.complete
        return {"files": records, "after": after, "complete": complete}

    async def _usage(self, params: Nothing, live: LiveCall) -> Any:
        return await self._services.context.workers.disk(self._use)

    def _use(self) -> dict[str, Any]:
        context = self._services.context
        room = context.quota.room
        kinds = [
            {
                "kind": "manifest" if part else kind,
                "source": source,
                "count": count,
                "bytes": held,
                "aside": aside,
            }
            for kind, source, part, count, held, aside in context.inventory.sums()
        ]
        disk = os.statvfs(context.store.root)
        return {
            "dir": str(context.store.root),
            "limit": room.limit,
            "used": room.used,
            "reserved": room.reserved,
            "kinds": kinds,
            "pinned": context.state.count_pinned(context.clock()),
            "archived": self._services.backing.archived(),
            "complete": context.inventory.complete,
            "free": disk.f_bavail * disk.f_frsize,
            "disk": disk.f_blocks * disk.f_frsize,
        }

    # --- what goes and stays -----------------------------------------------------------------

    async def _delete(self, params: _Sha1, live: LiveCall) -> Any:
        live.caller.require_write()
        if not params.force:
            await self._services.keepers.copies.require(params.sha1, params.copies)
        return {"freed": await self._services.keeping.delete(params.sha1, force=params.force)}

    async def _unshare(self, params: _Sha1, live: LiveCall) -> Any:
        live.caller.require_write()
        channel = self._channel(params.channel)
        assert channel is not None
        await self._services.keeping.unshare(params.sha1, channel)
        return {}

    async def _pin(self, params: _Sha1, live: LiveCall) -> Any:
        live.caller.require_write()
        return await self._services.keeping.pin(params.sha1, params.name or "", params.seconds)

    async def _unpin(self, params: _Sha1, live: LiveCall) -> Any:
        live.caller.require_write()
        return {"ended": await self._services.keeping.unpin(params.sha1, params.name)}

    async def _collect(self, params: _Collect, live: LiveCall) -> Any:
        live.caller.require_write()
        context = self._services.context
        target = context.quota.limit if params.to is None else params.to
        if target is None:
            reason = "there is no limit to go down to; say --to SIZE, such as --to 300G"
            raise BadInput(what="gc", reason=reason)

        def work() -> dict[str, Any]:
            gone = context.quota.collect(target, pretend=params.pretend)
            return {
                "files": [self._services.keeping.record(each) for each in gone[:LIST_PAGE]],
                "count": len(gone),
                "freed": sum(each.bytes for each in gone),
                "used": context.inventory.used,
            }

        return await context.workers.disk(work)

    async def _set_limit(self, params: _Limit, live: LiveCall) -> Any:
        live.caller.require_write()
        context = self._services.context

        def work() -> dict[str, Any]:
            set_limit(context.state, params.bytes)
            context.quota.set_limit(params.bytes)
            return {"limit": context.quota.limit, "used": context.inventory.used}

        return await context.workers.disk(work)

    async def _verify(self, params: _Verify, live: LiveCall) -> Any:
        live.caller.require_write()
        total = await self._services.context.workers.disk(self._total)

        def tell(report: dict[str, Any]) -> None:
            live.progress({"size": max(total, report["bytes"]), "done": report["bytes"]})

        return await self._services.scrubbing.run(params.rate, again=params.again, tell=tell)

    def _total(self) -> int:
        return self._services.context.inventory.content_bytes()
