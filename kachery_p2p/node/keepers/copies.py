"""Asking other nodes for their copies before something that was stored here is deleted.

A holder locks its copy for a while, and shows that it has it: a block that this node chooses at random
is read from it, as any block is, and compared with one's own. So a holder that only believes that it
has the file finds out. Only copies that stay are counted: what was merely fetched there may go to
make room an hour later.

What this node has put into an archive counts as well, once a block of it was read from there now.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.backing.origin import Origin
from kachery_p2p.node.files.keeping import CopyLocks
from kachery_p2p.node.files.sources import NodeSource
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import CorruptContent, KacheryError, LastCopy, NotFound
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.keepers.messages import KEEP_LOCK, KeepLock, LockedCopy
from kachery_p2p.protocol.limits import (
    BLOCK,
    COPY_ASK_SECONDS,
    COPY_PATIENCE,
    MAX_COPIES,
)
from kachery_p2p.storage.backing.index import Object
from kachery_p2p.storage.files.blobs import Blob


class Copies:
    def __init__(self, discovery: Discovery, locks: CopyLocks, backing: Backing) -> None:
        self._discovery = discovery
        self._backing = backing
        self._network = discovery.network
        self._context = discovery.network.context
        self._disk = self._context.workers.disk
        self._locks = locks
        self._network.on_request_of(KEEP_LOCK, KeepLock, self._lock)

    # --- asking ------------------------------------------------------------------------------

    async def require(self, sha1: str, copies: int) -> None:
        """See to so many copies on other nodes or in archives of this one, if this is the user's own
        and there are other nodes. What is linked does not go, what was fetched is somebody else's: for
        these nobody is asked.

        Raises:
            LastCopy: fewer are known of; it says who was asked, and what they said.
        """
        thing = await self._disk(self._context.inventory.look, sha1)
        mine = thing is not None and thing.kind == "file" and thing.source != "fetched"
        blob = await self._disk(self._context.store.find, sha1)
        if not mine or blob is None or not copies or not len(self._network.book):
            return
        said: list[str] = []
        stay = 0
        try:
            async with asyncio.timeout(COPY_ASK_SECONDS):
                outcomes = await self._in_archives(blob)
                stay = sum(each is None for each in outcomes)
                if stay < copies:
                    outcomes += await self._ask_all(blob, copies - stay)
                stay = sum(each is None for each in outcomes)
                said = [each for each in outcomes if each is not None]
        except TimeoutError:
            said.append(f"no answer within {COPY_ASK_SECONDS:g} s")
        if stay < copies:
            found = "; ".join(said) or "nobody else has it"
            raise LastCopy(what=f"sha1://{sha1}", copies=copies, found=found)

    async def _in_archives(self, blob: Blob) -> list[str | None]:
        """For each archive into which this node has put it, None if it is there still, or what there is
        to say of it."""
        there = [each for each in await self._backing.find(blob.sha1) if each[1].verified]
        return [await self._in_archive(*each, blob) for each in there]

    async def _in_archive(self, origin: Origin, found: Object, blob: Blob) -> str | None:
        start, stop = self._any_block(blob.size)
        try:
            theirs = await origin.call(
                f"reading sha1://{blob.sha1}", lambda files: files.read(blob.sha1, "", start, stop)
            )
        except KacheryError as error:
            await self._backing.blame(blob.sha1, origin, error)
            return f"archive {origin.name}: {str(error).rstrip('.')}"
        mine = await self._disk(self._context.store.read, blob, start, stop - start)
        if found.size == blob.size and theirs == mine:
            return None
        wrong = CorruptContent(what=f"sha1://{blob.sha1}", source=origin.name)
        await self._backing.blame(blob.sha1, origin, wrong)
        return str(wrong).rstrip(".")

    def _any_block(self, size: int) -> tuple[int, int]:
        """Where a block that was chosen at random begins and ends."""
        if not size:
            return 0, 0
        number = int.from_bytes(self._context.random_bytes(8)) % -(-size // BLOCK)
        return number * BLOCK, min((number + 1) * BLOCK, size)

    async def _ask_all(self, blob: Blob, copies: int) -> list[str | None]:
        """For each holder None if it has a copy that stays, or what there is to say of it."""
        found = await self._discovery.lookup.find(file_key(blob.sha1), None, patience=COPY_PATIENCE)
        others: dict[str, Holder] = {}
        for holder in found.holders:
            if holder.node != self._context.node_id:
                others.setdefault(holder.node, holder)
        if not others:
            return [found.detail()]
        outcomes: list[str | None] = []
        waiting = list(others.values())[: copies + MAX_COPIES]
        while waiting and sum(each is None for each in outcomes) < copies:
            now, waiting = waiting[:copies], waiting[copies:]
            outcomes += await asyncio.gather(*(self._ask(each, blob) for each in now))
        return outcomes

    async def _ask(self, holder: Holder, blob: Blob) -> str | None:
        try:
            link = await self._discovery.link_to(holder)
            params = KeepLock(holder.channel, bytes.fromhex(blob.sha1))
            locked = codec.convert(LockedCopy, await link.request(KEEP_LOCK, codec.plain(params)))
            await self._prove(NodeSource(holder, link, self._discovery.network), blob, locked.size)
        except KacheryError as error:
            return f"{holder.name}: {str(error).rstrip('.')}"
        if not locked.stays:
            return f"{holder.name} has only fetched it, and it may go there to make room"
        if locked.until is not None:
            return f"{holder.name} has it until {datetime.fromtimestamp(locked.until, UTC):%F} only"
        return None

    async def _prove(self, source: NodeSource, blob: Blob, size: int) -> None:
        """Compare a block that the holder could not know beforehand. Raises CorruptContent, ..."""
        if size != blob.size:
            raise CorruptContent(what=f"sha1://{blob.sha1}", source=source.name)
        if not size:
            return
        start, stop = self._any_block(size)
        theirs = bytearray()
        with source.reading(blob.sha1, [(start, stop)], proofs=False) as pieces:
            while (item := await pieces.next()) is not None:
                _, body, cost = item
                theirs += await pieces.unseal(body)
                pieces.done(cost)
        mine = await self._disk(self._context.store.read, blob, start, stop - start)
        if bytes(theirs) != mine:
            raise CorruptContent(what=f"sha1://{blob.sha1}", source=source.name)

    # --- being asked -------------------------------------------------------------------------

    async def _lock(self, link: Link, params: KeepLock) -> Any:
        network, sha1 = self._network, params.sha1.hex()
        network.require_role(link, params.channel, theirs="request-files", ours="provide-files")
        self._locks.lock(sha1, link.peer)
        try:
            locked = await self._disk(self._look, sha1, params.channel)
        except BaseException:
            self._locks.unlock(sha1, link.peer)
            raise
        return codec.plain(locked)

    def _look(self, sha1: str, channel: bytes) -> LockedCopy:
        context = self._context
        blob = context.store.find(sha1) if context.may_leave(sha1, channel) else None
        if blob is None:
            raise NotFound(what=f"sha1://{sha1}", detail="the provider no longer has it")
        thing = context.inventory.thing(sha1)
        own = thing is not None and thing.source != "fetched" and not blob.linked
        ends = [pin.until for pin in context.state.pins(sha1)]
        if own:
            ends.append(context.state.expiry(sha1))
        lasting = [end for end in ends if end is None or end > context.clock()]
        until = None if None in lasting else max((end for end in lasting if end), default=None)
        return LockedCopy(blob.size, bool(lasting), until)
