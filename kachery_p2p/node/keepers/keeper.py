"""Keeps things for other nodes: what a keeper does.

A node that pushes something says how much it is. If that fits what this node's user offers, it is
written down, so that it counts from then on; then everything is fetched, as any file is, from whoever
has it, and pinned as it becomes known. When all of it is here and has been compared with its hashes,
that it is kept goes to the disk, and only then is it said.

Invariants: "kept" is said of what survives a crash. The bytes on the disk for others never pass the
offer's limit by more than what one node pushed falsely declared, and that goes at once. What came of a
push that broke off counts too, and goes after ``KEEP_UNFINISHED_SECONDS``. Nothing that this node's
user stored, pinned, or had fetched before is ever deleted when a kept thing is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.node.links.endings import cut
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.network import Network
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    ContentPinned,
    CopyLocked,
    KacheryError,
    KeepRefused,
    LocalError,
    NotFound,
)
from kachery_p2p.protocol.keepers.messages import (
    FEED_BYTES,
    KEEP_DROP,
    KEEP_LIST,
    KEEP_PUT,
    Dropped,
    KeepDrop,
    KeepList,
    KeepPut,
    KeepState,
    KeptPage,
    KeptThing,
    title,
)
from kachery_p2p.protocol.limits import (
    KEEP_RELEASE_PAGE,
    KEEP_SWEEP_SECONDS,
    KEEP_TELL_SECONDS,
    KEEP_UNFINISHED_SECONDS,
    KEEPING_AT_ONCE,
    KEEPING_EACH,
    KEPT_AFTER_REMOVAL_SECONDS,
    KEPT_PAGE,
)
from kachery_p2p.storage.inventory.kept import Kept

from .kept_feeds import KeptFeeds
from .offering import KeepOffers
from .taking import Coming, Taker, why_not

log = logging.getLogger(__name__)

_Key = tuple[str, str, bytes]


class Keeper:
    def __init__(
        self,
        network: Network,
        offers: KeepOffers,
        keeping: Keeping,
        feeds: KeptFeeds,
        taker: Taker,
    ) -> None:
        self._network = network
        self._context = network.context
        self._state = network.context.state
        self._disk = network.context.workers.disk
        self._offers = offers
        self._keeping = keeping
        self._feeds = feeds
        self._taker = taker
        self._coming: dict[_Key, Coming] = {}
        self._streams: dict[Stream, tuple[Link, KeepPut]] = {}
        self._each: Counter[str] = Counter()
        self._released = True
        """Contents may have become unneeded since that was last looked at."""
        self._next_look = 0.0
        network.on_stream_of(KEEP_PUT, KeepPut, self._put)
        network.on_request_of(KEEP_LIST, KeepList, self._list)
        network.on_request_of(KEEP_DROP, KeepDrop, self._drop)

    # --- taking ------------------------------------------------------------------------------

    def _require(self, link: Link, put: KeepPut) -> None:
        kind = "feeds" if len(put.content) == FEED_BYTES else "files"
        provide = f"provide-{kind}"
        self._network.require_role(link, put.channel, theirs=provide, ours=provide)

    def cut(self) -> None:
        """A channel changed: end what comes from those who may push no longer."""
        cut(self._streams, lambda each: self._require(*each))

    async def _put(self, link: Link, stream: Stream, put: KeepPut) -> None:
        self._require(link, put)
        if len(put.content) not in (20, FEED_BYTES):
            raise BadInput(what="keep.put", reason="neither a file nor a feed")
        with self._place(link.peer):
            stream.set_group(link.peer)
            self._streams[stream] = (link, put)
            try:
                async with self._alone(link, stream, put) as work:
                    work.kept = await self._disk(self._counted, work)
                    kept = await self._while_telling(stream, work)
                await stream.send(codec.plain(KeepState(put.size, True, kept.until)))
            finally:
                del self._streams[stream]

    @contextlib.asynccontextmanager
    async def _alone(self, link: Link, stream: Stream, put: KeepPut) -> AsyncIterator[Coming]:
        """The one push of this thing by this node that goes on. Another of them, of a link that its
        node has lost and this one not yet, is ended, and waited for; nobody else waits for that."""
        now = self._context.clock()
        until = None if put.seconds is None else now + put.seconds
        kept = Kept(
            put.channel.hex(), link.peer, put.content, put.label, put.size, put.count, now, until,
            False,
        )  # fmt: skip
        while (old := self._coming.get(kept.key)) is not None:
            old.stream.end(Busy(limit="another push of the same thing"))
            await old.ended.wait()
        work = self._coming[kept.key] = Coming(put, kept, stream)
        try:
            yield work
        finally:
            del self._coming[kept.key]
            work.ended.set()

    @contextlib.contextmanager
    def _place(self, peer: str) -> Iterator[None]:
        if self._each[peer] >= KEEPING_EACH or self._each.total() >= KEEPING_AT_ONCE:
            raise Busy(limit=f"{KEEPING_EACH} pushes of one node, {KEEPING_AT_ONCE} of all")
        self._each[peer] += 1
        try:
            yield
        finally:
            self._each[peer] -= 1
            self._each += Counter()

    def _counted(self, work: Coming) -> Kept:
        """Have it count, if it fits; as it is kept from now on. Raises KeepRefused."""
        kept = work.kept
        if not self._context.quota.room.can_ever_hold(kept.size):
            raise self._taker.refusal(kept, "its storage may hold less in all")
        reason = self._offers.count(kept)
        if reason:
            raise self._taker.refusal(kept, reason)
        old = self._state.is_kept(*kept.key)
        # What is kept already stays so, whatever becomes of this.
        return old if old is not None and old.whole else kept

    async def _while_telling(self, stream: Stream, work: Coming) -> Kept:
        """Fetch it, and say how far that is. Ends when the stream does."""
        task = asyncio.ensure_future(self._taker.take(work))
        try:
            while not (await asyncio.wait([task], timeout=KEEP_TELL_SECONDS))[0]:
                if stream.ended:
                    break
                work.check(work.moving_size)
                stream.offer(codec.plain(KeepState(work.done, False, None)))
            if task.done():
                return task.result()
            raise stream.error or NotFound(
                what=title(work.kept.content), detail="its node has gone"
            )
        except KeepRefused:
            await self._give_up(work)
            raise
        except LocalError as error:
            await self._give_up(work)
            raise self._taker.refusal(work.kept, why_not(work, error)) from error
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled():
                task.exception()

    async def _give_up(self, work: Coming) -> None:
        """Nothing of it is to stay, unless it was kept before."""
        if not work.kept.whole:
            try:
                await asyncio.shield(self.let_go(work.kept))
            except KacheryError as error:  # a full disk, say: it goes as what broke off does
                log.warning("%s could not be let go yet: %s", title(work.kept.content), error)

    # --- asked by who pushed it --------------------------------------------------------------

    async def _list(self, link: Link, params: KeepList) -> Any:
        self._network.require_shared(link, params.channel)
        found = await self._disk(
            self._state.kept_for, params.channel.hex(), link.peer, params.after, KEPT_PAGE + 1
        )
        page = await self._disk(lambda: [self._told(each) for each in found[:KEPT_PAGE]])
        return codec.plain(KeptPage(page, len(found) > KEPT_PAGE))

    def _told(self, kept: Kept) -> KeptThing:
        return KeptThing(
            kept.content, kept.label, kept.size, kept.number, kept.since, kept.until,
            self.is_whole(kept),
        )  # fmt: skip

    def is_whole(self, kept: Kept) -> bool:
        """Whether all of it is kept: also if the user deleted something of it by force. Reads the
        disk."""
        if not kept.whole or len(kept.content) == FEED_BYTES:
            return kept.whole
        root = kept.content.hex()
        here = self._context.store.find(root) is not None
        return here and self._state.count_pins(kept) >= kept.number

    async def _drop(self, link: Link, params: KeepDrop) -> Any:
        self._network.require_shared(link, params.channel)
        key = (params.channel.hex(), link.peer, params.content)
        kept = await self._disk(self._state.is_kept, *key)
        if key in self._coming:
            raise Busy(limit="it is being pushed at this moment")
        if kept is not None:
            await self.let_go(kept)
        return codec.plain(Dropped(kept is not None))

    # --- letting go --------------------------------------------------------------------------

    async def let_go(self, kept: Kept) -> None:
        """Keep something no longer. What came only for it is deleted within seconds."""
        if len(kept.content) == FEED_BYTES:
            await self._feeds.let_go(kept)
        else:
            await self._disk(self._state.let_go, kept)
        self._released = True
        self._next_look = 0.0

    async def deleted(self, feed: bytes) -> None:
        """This node's user is about to delete a feed: nobody has it kept here any more, and who pushes
        it at this moment hears that."""
        for key, work in list(self._coming.items()):
            if key[2] == feed:
                work.stream.end(
                    self._taker.refusal(work.kept, "its user has deleted it there meanwhile")
                )
                await work.ended.wait()
        for kept in await self._disk(self._state.kept_feeds):
            if kept.content == feed:
                await self._feeds.let_go(kept)

    async def sweep(self) -> None:
        """Let go what is over, and delete what came only for that. To be called every few seconds."""
        now = self._context.clock()
        if self._context.store.read_only or now < self._next_look:
            return
        self._next_look = now + KEEP_SWEEP_SECONDS
        for kept in await self._disk(self._state.all_kept):
            if kept.key not in self._coming:
                await self._look_at(kept, now)
        await self._feeds.sweep()
        if self._released:
            await self._feeds.delete_unneeded()
            self._released = await self._delete_unneeded(now)
            if self._released:
                self._next_look = 0.0

    async def _look_at(self, kept: Kept, now: float) -> None:
        orphan = not self._network.is_member(bytes.fromhex(kept.channel), kept.node)
        if orphan is (kept.orphaned is None):
            kept = kept._replace(orphaned=now if orphan else None)
            await self._disk(self._state.count_in, kept)
        expired = kept.until is not None and kept.until <= now
        broken_off = not kept.whole and kept.since + KEEP_UNFINISHED_SECONDS <= now
        left = kept.orphaned is not None and kept.orphaned + KEPT_AFTER_REMOVAL_SECONDS <= now
        if expired or broken_off or left:
            log.info("%s is kept for %s no longer", title(kept.content), kept.node[:8])
            await self.let_go(kept)

    async def _delete_unneeded(self, now: float) -> bool:
        """Whether there is more of it."""
        inventory, more = self._context.inventory, False
        unneeded = await self._disk(self._state.unneeded, KEEP_RELEASE_PAGE, now)
        over = []
        for sha1 in unneeded:
            thing = await self._disk(inventory.look, sha1)
            if thing is not None and thing.source == "fetched":
                try:
                    await self._keeping.delete(sha1)
                except (Busy, CopyLocked):
                    more = True
                    continue
                except (NotFound, ContentPinned):
                    pass
            over.append(sha1)
        await self._disk(self._state.not_only_kept, over)
        return more or len(unneeded) == KEEP_RELEASE_PAGE

    # --- told --------------------------------------------------------------------------------

    def records(self) -> list[dict[str, Any]]:
        """What is kept here for others: plain values. Reads the disk."""
        return [
            {
                "content": kept.content.hex(),
                "label": kept.label,
                "channel": self._network.name_of(bytes.fromhex(kept.channel)),
                "node": kept.node,
                "size": kept.size,
                "count": kept.number,
                "since": kept.since,
                "until": kept.until,
                "whole": self.is_whole(kept),
                "member": kept.orphaned is None,
            }
            for kept in self._state.all_kept()
        ]
