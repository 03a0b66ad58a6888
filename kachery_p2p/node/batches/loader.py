"""Fetches many files for one caller: the small ones many at a time, the others as downloads of their
own.

Small files come in one answer of a node that has them (:mod:`.provider`), are compared with their
hashes, and stored with one commit. Whatever does not come so, for whatever reason (it is large, nobody
is known to have it yet, a link broke, a node lied), is left to the :class:`~.downloader.Downloader`,
which tries whoever else has it, waits as long as that is worth while, and finds the right error. So
this way is quicker and nothing else.

Invariants: each file that was asked for is told of exactly once; a file's failure is no other's; what
came from a channel is bound to it before it is there (:mod:`kachery_p2p.storage.bindings`).
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.links.endings import first_of
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.routes.reach import Reach
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    CorruptContent,
    KacheryError,
    LinkClosed,
    LocalError,
    ProtocolViolation,
    StorageLimitReached,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.files.messages import FILE_BATCH, FileBatch, Several
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    BATCH_BODY,
    BATCH_FILES,
    INLINE_FILE,
    MANY_AT_ONCE,
    STALL_SECONDS,
)
from kachery_p2p.protocol.links.session import Body
from kachery_p2p.storage.files.blobs import Blob

log = logging.getLogger(__name__)


class Wanted(NamedTuple):
    """A file: its place among those that the caller asked for, and what its URI says."""

    place: int
    sha1: str
    manifest: str | None


Done = Callable[[int, int, KacheryError | None], object]
"""Is told of a file that is here, by its place, with its size; or why it is not."""

Moves = Callable[[int, dict[str, Any]], None]
"""Is told how far a file is that comes as a download of its own, by its place."""


def _ignore(place: int, info: dict[str, Any]) -> None:
    """The ``moves`` of who does not want to know."""


class BatchLoader:
    """``provide`` is called with the hashes of some files that have come to be here."""

    def __init__(
        self,
        network: Network,
        reach: Reach,
        lookup: Lookup,
        downloader: Downloader,
        *,
        provide: Callable[..., None],
    ) -> None:
        self._network = network
        self._context = network.context
        self._reach = reach
        self._lookup = lookup
        self._downloader = downloader
        self._provide = provide

    async def load(
        self,
        wanted: Sequence[Wanted],
        channel: bytes | None,
        *,
        only: bool,
        done: Done,
        moves: Moves = _ignore,
    ) -> None:
        """Have all of these here. ``only``: what is here counts if it may go out on ``channel``.

        Raises:
            LocalError: it is no single file's fault.
        """
        left = await self._missing(wanted, channel, only, done)
        small = [each for each in left if each.manifest is None and not self._is_loading(each.sha1)]
        came: set[int] = set()
        if len(small) > 1:
            came = await self._fetch_small(small, channel, done)
        await self._fetch_others(
            [each for each in left if each.place not in came], channel, done, moves
        )

    def _is_loading(self, sha1: str) -> bool:
        return sha1 in self._downloader.downloads

    async def _missing(
        self, wanted: Sequence[Wanted], channel: bytes | None, only: bool, done: Done
    ) -> list[Wanted]:
        """Those that are not here; the others are told of."""

        def look() -> list[Blob | None]:
            return [self._find(each.sha1, channel if only else None) for each in wanted]

        left = []
        for each, blob in zip(wanted, await self._context.workers.disk(look), strict=True):
            # One that is being fetched for others may be what the caller must not have.
            if blob is None or self._is_loading(each.sha1):
                left.append(each)
            else:
                done(each.place, blob.size, None)
        return left

    def _find(self, sha1: str, channel: bytes | None) -> Blob | None:
        blob = self._context.store.find(sha1)
        if blob is None or channel is None or self._context.may_leave(sha1, channel):
            return blob
        return None

    # --- small ones ------------------------------------------------------------------------------

    async def _fetch_small(
        self, wanted: Sequence[Wanted], channel: bytes | None, done: Done
    ) -> set[int]:
        """The places of those that came."""
        holders = await self._lookup.find_many([file_key(each.sha1) for each in wanted], channel)
        of: dict[Holder, list[Wanted]] = defaultdict(list)
        for each, who in zip(wanted, holders, strict=True):
            if who:
                of[who[0]].append(each)
        came: set[int] = set()
        parts = (
            (holder, files[start : start + BATCH_FILES])
            for holder, files in of.items()
            for start in range(0, len(files), BATCH_FILES)
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for holder, files in parts:
                    tasks.create_task(self._from(holder, files, came, done), name="load many files")
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        return came

    async def _from(
        self, holder: Holder, wanted: Sequence[Wanted], came: set[int], done: Done
    ) -> None:
        relays = self._lookup.relays.get((holder.node, holder.channel), set())
        try:
            link = await self._reach.to(
                holder.node, holder.channel, urls=holder.urls, relays=relays
            )
            params = FileBatch(holder.channel, [bytes.fromhex(each.sha1) for each in wanted])
            stream = link.open(FILE_BATCH, codec.plain(params))
            await self.read(link, stream, holder, wanted, came, done)
        except StorageLimitReached:
            if not self._downloader.active():
                raise  # else they are fetched one by one, and wait for room
        except LocalError:
            raise
        except KacheryError as error:
            log.info("many files from %s: %s", holder.name, error)

    async def read(
        self,
        link: Link,
        stream: Stream,
        holder: Holder,
        wanted: Sequence[Wanted],
        came: set[int],
        done: Done,
        *,
        most: int = INLINE_FILE,
        waits: bool = True,
        label: str = "",
    ) -> None:
        """Take and store what comes on a stream of these files, none larger than ``most``. Raises what
        ends it early; what came by then is here. ``waits``: until it may come by the limit of
        downloads; otherwise it is only counted. ``label``: of those files."""
        first, rate = 0, self._context.rates.download
        try:
            while (item := await self._next(stream)) is not None:
                meta, body, cost = item
                data = await stream.open_body(body)
                try:
                    several = codec.convert(Several, meta)
                    _check(several, first, len(wanted), len(data), most)
                except ProtocolViolation as error:
                    link.close(error)
                    raise
                if waits:
                    await rate.acquire(link.peer, len(data))
                else:
                    rate.take(len(data))
                first = several.places[-1] + 1
                files = _cut(several, data)
                chosen = [wanted[place] for place in several.places]
                await self._context.workers.disk(self._keep, chosen, files, holder, label)
                stream.done(cost)
                self._provide(*(each.sha1 for each in chosen))
                for each, content in zip(chosen, files, strict=True):
                    came.add(each.place)
                    done(each.place, len(content), None)
        finally:
            stream.end()

    async def _next(self, stream: Stream) -> tuple[Any, Body, int] | None:
        try:
            async with asyncio.timeout(STALL_SECONDS):
                return await stream.receive()
        except TimeoutError as error:
            raise LinkClosed(peer=stream.peer[:8], reason="it sent nothing") from error

    def _keep(
        self, wanted: list[Wanted], files: list[memoryview], holder: Holder, label: str
    ) -> None:
        """Compare what came, and store it. Raises CorruptContent, StorageFull, StorageDamaged."""
        for each, data in zip(wanted, files, strict=True):
            if hashlib.sha1(data).hexdigest() != each.sha1:
                raise CorruptContent(what=f"sha1://{each.sha1}", source=holder.name)
        channel, inventory = holder.channel.hex(), self._context.inventory
        bind = self._context.bindings.arriving(channel, inventory.may_have)

        def arriving(sha1s: Sequence[str]) -> None:
            inventory.prepare(sha1s)
            bind(sha1s)
            inventory.fetching(
                *sha1s,
                channel=channel,
                node=holder.node,
                node_label=holder.label,
                label=label,
            )

        self._context.store.store_batch(files, arriving)

    # --- the others ------------------------------------------------------------------------------

    async def _fetch_others(
        self, wanted: Iterable[Wanted], channel: bytes | None, done: Done, moves: Moves
    ) -> None:
        turns = asyncio.Semaphore(MANY_AT_ONCE)

        async def one(each: Wanted) -> None:
            async with turns:
                try:
                    loaded = await self._downloader.load(
                        each.sha1,
                        each.manifest,
                        channel=channel,
                        on_progress=lambda info: moves(each.place, info),
                    )
                except KacheryError as error:
                    done(each.place, 0, error)
                else:
                    done(each.place, loaded["size"], None)

        async with asyncio.TaskGroup() as tasks:
            for each in wanted:
                tasks.create_task(one(each), name="load one of many")


def _check(several: Several, first: int, stop: int, length: int, most: int) -> None:
    """Raise ProtocolViolation unless these files, in a body of so many bytes, may come next."""
    places, sizes = several.places, several.sizes
    if len(places) != len(sizes) or not places:
        raise ProtocolViolation(reason="files without sizes")
    if places[0] < first or places[-1] >= stop:
        raise ProtocolViolation(reason="files that were not asked for")
    if any(one >= other for one, other in itertools.pairwise(places)):
        raise ProtocolViolation(reason="files that are not in their order")
    if any(not 0 <= size <= most for size in sizes):
        raise ProtocolViolation(reason="files that are not small")
    if sum(sizes) != length or length > BATCH_BODY:
        raise ProtocolViolation(reason="a body that is not as long as its files")


def _cut(several: Several, data: bytes) -> list[memoryview]:
    """The files in a body."""
    files, view, at = [], memoryview(data), 0
    for size in several.sizes:
        files.append(view[at : at + size])
        at += size
    return files
