"""Has things kept by other nodes, and knows where: what a pusher does.

Invariants: a keeper is believed when it says that all of it is on its disk, and nothing else counts;
one that fails, says nothing for ``KEEP_SILENCE_SECONDS``, or says that it goes on and does not come on
in ``KEEP_PROGRESS_SECONDS``, is given up for another. Who keeps what is remembered here, and corrected
by what keepers say: a crash between a keeper's word and this node's note loses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.node.gossip.discovery import Discovery
from kachery_p2p.node.links.endings import first_of
from kachery_p2p.node.naps import Patience
from kachery_p2p.protocol import codec
from kachery_p2p.protocol.errors import (
    BadInput,
    KacheryError,
    KeepRefused,
    LinkClosed,
    LocalError,
    NobodyKeeps,
    NotFound,
    NotKept,
    ProtocolViolation,
    Stalled,
)
from kachery_p2p.protocol.gossip.holders import Holder, rank
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
from kachery_p2p.protocol.keepers.offer import keeper_key
from kachery_p2p.protocol.limits import (
    KEEP_PROGRESS_BYTES,
    KEEP_PROGRESS_SECONDS,
    KEEP_SILENCE_SECONDS,
    KEEP_SWEEP_SECONDS,
    KEEPERS_ASKED_SECONDS,
    LOOKUP_PATIENCE,
    MAX_KEPT_EACH,
    MAX_KEPT_LABEL,
    MAX_KEPT_SUBFEEDS,
)
from kachery_p2p.storage.feeds.store import FeedStore
from kachery_p2p.storage.inventory.kept import Pushed

log = logging.getLogger(__name__)

_SHOWN_MISSING = 100
Tell = Callable[[int, int], None]
"""Is told how many bytes are kept so far, of how many."""


_Said = dict[tuple[str, bytes], dict[bytes, KeptThing] | None]
"""What each keeper says that it keeps on a channel."""


@dataclass(frozen=True)
class Thing:
    """What is pushed. ``names``: all contents of it, in hex; ``logs``: of a feed."""

    content: bytes
    manifest: bytes | None
    label: str
    size: int
    names: tuple[str, ...] = ()
    logs: tuple[tuple[bytes, int], ...] = ()

    @property
    def count(self) -> int:
        return len(self.names) or max(1, len(self.logs))

    @property
    def title(self) -> str:
        return title(self.content)


@dataclass(frozen=True)
class Wish:
    """Where, and how often. ``channel`` None: any; ``to``: the id of the one keeper that is meant.
    ``seconds`` None: for good."""

    channel: bytes | None = None
    to: str | None = None
    copies: int = 1
    seconds: float | None = None


class Pusher:
    def __init__(self, discovery: Discovery, keeping: Keeping, feed_store: FeedStore) -> None:
        self._discovery = discovery
        self._network = discovery.network
        self._context = discovery.network.context
        self._state = self._context.state
        self._disk = self._context.workers.disk
        self._keeping = keeping
        self._feed_store = feed_store
        self._next_look = 0.0

    # --- what it is --------------------------------------------------------------------------

    async def file(
        self, sha1: str, manifest: str | None, label: str
    ) -> tuple[Thing | None, list[str]]:
        """A file, or a directory with all in it, as it is to be pushed; or what of it is not here, the
        first hundred."""

        def work() -> tuple[Thing | None, list[str]]:
            belonging, size = self._keeping.belonging(sha1, manifest), 0
            missing = []
            for name in belonging:
                blob = self._context.store.find(name)
                if blob is None:
                    missing.append(name)
                else:
                    size += blob.size
            if missing:
                return None, missing[:_SHOWN_MISSING]
            found = belonging[sha1]
            manifest_id = None if found is None else bytes.fromhex(found)
            content = bytes.fromhex(sha1)
            return Thing(content, manifest_id, label[:MAX_KEPT_LABEL], size, tuple(belonging)), []

        return await self._disk(work)

    async def feed(self, feed: bytes, label: str) -> Thing:
        """A feed with the subfeeds that are held here. Raises NotFound, BadInput."""

        def work() -> Thing:
            logs = [
                (subfeed, info.size)
                for _, subfeed, info in self._feed_store.logs(feed)
                if info.head is not None
            ]
            if not logs:
                detail = "nothing was appended to it, or it was not read on this node"
                raise NotFound(what=title(feed), detail=detail)
            if len(logs) > MAX_KEPT_SUBFEEDS:
                reason = f"a feed of more than {MAX_KEPT_SUBFEEDS} subfeeds cannot be pushed"
                raise BadInput(what=title(feed), reason=reason)
            size = self._feed_store.content_bytes(feed)
            return Thing(feed, None, label[:MAX_KEPT_LABEL], size, logs=tuple(logs))

        return await self._disk(work)

    # --- pushing -----------------------------------------------------------------------------

    async def keepers(
        self, channel: bytes | None, to: str | None = None, *, patience: float = LOOKUP_PATIENCE
    ) -> list[Holder]:
        """Who keeps for this node and can be reached, each once, best first.

        Raises:
            NobodyKeeps: none does; others: why that is not known.
        """
        me = self._context.node_id
        keys = [keeper_key(None), keeper_key(me)]
        founds = await self._discovery.lookup.find_any(keys, channel, patience=patience)
        whole = founds[0]
        holders = [holder for found in founds for holder in found.holders]
        each: dict[str, Holder] = {}
        for holder in rank(holders):
            if holder.node != me and to in (None, holder.node):
                each.setdefault(holder.node, holder)
        if each:
            return list(each.values())
        if whole.errors and not whole.asked:
            raise whole.errors[0]
        whole.offline += [each for found in founds[1:] for each in found.offline]
        detail = whole.detail().replace(" has it", "")
        if to is not None:
            others = ", ".join(sorted({h.name for h in holders if h.node != me}))
            detail = f"node {to[:8]} does not; {'others do: ' + others if others else detail}"
        raise NobodyKeeps(detail=detail)

    async def push(self, thing: Thing, wish: Wish, tell: Tell) -> list[Pushed]:
        """Have it kept by as many keepers as are wished for; who they are.

        Raises:
            NobodyKeeps: there is none.
            KeepRefused, AccessDenied, ...: what the only keeper said.
            NotKept: too few keep it, and what the others said.
        """
        holders = await self.keepers(wish.channel, wish.to)
        await self._check_may_leave(thing, holders)
        done: dict[str, int] = {}
        total = thing.size * min(wish.copies, len(holders))

        def moved(node: str, size: int) -> None:
            done[node] = size
            tell(sum(done.values()), total)

        kept: list[Pushed] = []
        failed: list[tuple[Holder, KacheryError]] = []
        left = iter(holders)

        async def one() -> None:
            for holder in left:
                try:
                    kept.append(await self._at(holder, thing, wish, moved))
                except LocalError:
                    raise
                except KacheryError as error:
                    log.info("%s does not keep %s: %s", holder.name, thing.title, error)
                    done.pop(holder.node, None)
                    failed.append((holder, error))
                else:
                    return

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(wish.copies):
                    tasks.create_task(one(), name="push")
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        if len(kept) >= wish.copies:
            return kept
        if not kept and len(failed) == 1 and wish.copies == 1:
            raise failed[0][1]
        said = [f"{holder.name}: {_short(error)}" for holder, error in failed]
        if len(holders) < wish.copies:
            said.append(f"{len(holders)} of them can be reached")
        raise NotKept(what=thing.title, kept=len(kept), copies=wish.copies, detail="; ".join(said))

    async def _check_may_leave(self, thing: Thing, holders: list[Holder]) -> None:
        """Leave those out where it may not go out. Raises BadInput: it may go to none."""

        def barred(channel: bytes) -> str:
            may = self._context.may_leave
            return next((name for name in thing.names if not may(name, channel)), "")

        names: dict[bytes, str] = {}
        for channel in {holder.channel for holder in holders}:
            names[channel] = await self._disk(barred, channel)
        allowed = [holder for holder in holders if not names[holder.channel]]
        if not allowed:
            channel, name = next(iter(names.items()))
            reason = (
                f"sha1://{name} came from another channel, or is not shared on "
                f"{self._network.name_of(channel)!r}; store it there first, if it is yours to give"
            )
            raise BadInput(what=thing.title, reason=reason)
        holders[:] = allowed

    async def _at(
        self, holder: Holder, thing: Thing, wish: Wish, moved: Callable[[str, int], None]
    ) -> Pushed:
        link = await self._discovery.link_to(holder)
        put = KeepPut(
            holder.channel, thing.content, thing.manifest, thing.size, thing.count, wish.seconds,
            thing.label, list(thing.logs),
        )  # fmt: skip
        pushed = Pushed(
            thing.content, holder.channel.hex(), holder.node, thing.label, thing.size,
            thing.count, self._context.clock(), None,
        )  # fmt: skip
        if len(thing.content) == FEED_BYTES:
            await self._disk(self._state.asking, pushed)
        stream = link.open(KEEP_PUT, codec.plain(put))
        try:
            loop, reached = asyncio.get_running_loop(), 0
            patience = Patience(self._context.naps, KEEP_PROGRESS_SECONDS, KEEP_PROGRESS_SECONDS)
            patience.begin(loop.time())
            while True:
                try:
                    async with asyncio.timeout(KEEP_SILENCE_SECONDS):
                        item = await stream.receive()
                except TimeoutError as error:
                    raise LinkClosed(peer=holder.name, reason="it said nothing") from error
                if item is None:
                    raise LinkClosed(peer=holder.name, reason="it ended before it had kept it")
                meta, _, cost = item
                stream.done(cost)
                state = codec.convert(KeepState, meta)
                moved(holder.node, max(0, min(state.done, thing.size)))
                if state.kept:
                    break
                if state.done >= min(reached + KEEP_PROGRESS_BYTES, thing.size) > reached:
                    reached = min(state.done, thing.size)
                    patience.progressed(loop.time())
                elif patience.is_over(loop.time()):
                    what, seconds = f"Pushing {thing.title}", KEEP_PROGRESS_SECONDS
                    raise Stalled(what=what, seconds=seconds, sources=holder.name)
        finally:
            stream.end()
        pushed = pushed._replace(since=self._context.clock(), until=state.until)
        await self._disk(self._state.push, pushed)
        return pushed

    # --- what is kept elsewhere --------------------------------------------------------------

    async def records(self) -> list[dict[str, Any]]:
        """What keepers keep for this node: plain values. ``confirmed``: whether the keeper says so now;
        None if it could not be asked."""
        known = {(each.content, each.channel, each.keeper) for each in await self._pushed()}
        wheres = {(keeper, bytes.fromhex(channel)) for _, channel, keeper in known}
        try:
            wheres |= {(each.node, each.channel) for each in await self.keepers(None)}
        except KacheryError as error:
            log.info("no keepers: %s", error)
        asked = await asyncio.gather(*(self._asked(*where) for where in sorted(wheres)))
        said = dict(zip(sorted(wheres), asked, strict=True))
        for (keeper, channel), things in said.items():
            for thing in (things or {}).values():
                if thing.whole and (thing.content, channel.hex(), keeper) not in known:
                    await self._correct(keeper, channel.hex(), thing)
        return [self._record(each, said) for each in await self._pushed()]

    async def _pushed(self) -> list[Pushed]:
        return await self._disk(self._state.pushed)

    async def _asked(self, keeper: str, channel: bytes) -> dict[bytes, KeptThing] | None:
        """What a keeper says that it keeps; None: it could not be asked."""
        found: dict[bytes, KeptThing] = {}
        try:
            async with asyncio.timeout(KEEPERS_ASKED_SECONDS):
                async for thing in self._pages(keeper, channel):
                    found[thing.content] = thing
                    if len(found) > MAX_KEPT_EACH:
                        raise ProtocolViolation(reason=f"more than {MAX_KEPT_EACH} kept things")
        except (KacheryError, TimeoutError) as error:
            log.info("keeper %s could not be asked: %s", keeper[:8], error)
            return None
        return found

    async def _pages(self, keeper: str, channel: bytes) -> AsyncIterator[KeptThing]:
        link = await self._discovery.reach.to(keeper, channel)
        after = b""
        while True:
            answer = await link.request(KEEP_LIST, codec.plain(KeepList(channel, after)))
            page = codec.convert(KeptPage, answer)
            for thing in page.kept:
                if thing.content <= after:
                    return  # it goes round in circles
                after = thing.content
                yield thing
            if not page.more or not page.kept:
                return

    async def _keeps(self, holder: Holder, content: bytes) -> bool:
        """Whether a keeper says that it keeps this still: its user may have let it go."""
        before = (int.from_bytes(content) - 1 if any(content) else 0).to_bytes(len(content))
        link = await self._discovery.reach.to(holder.node, holder.channel)
        asked = codec.plain(KeepList(holder.channel, before))
        page = codec.convert(KeptPage, await link.request(KEEP_LIST, asked))
        return any(thing.content == content and thing.whole for thing in page.kept)

    async def _correct(self, keeper: str, channel: str, thing: KeptThing) -> None:
        """Note what is kept although this node does not know: it ended before it could write that. Of a
        feed that counts only if the keeper was asked: it is told of all subfeeds that are here."""
        pushed = Pushed(
            thing.content, channel, keeper, thing.label, thing.size, max(1, thing.count),
            thing.since, thing.until,
        )  # fmt: skip

        def work() -> None:
            is_feed = len(thing.content) == FEED_BYTES
            if not is_feed or self._state.was_asked(thing.content, channel, keeper):
                self._state.push(pushed)

        await self._disk(work)

    def _record(self, pushed: Pushed, said: _Said) -> dict[str, Any]:
        things = said.get((pushed.keeper, bytes.fromhex(pushed.channel)))
        thing = None if things is None else things.get(pushed.content)
        return {
            "content": pushed.content.hex(),
            "label": pushed.label,
            "channel": self._network.name_of(bytes.fromhex(pushed.channel)),
            "keeper": pushed.keeper,
            "size": pushed.size,
            "count": pushed.number,
            "since": pushed.since,
            "until": pushed.until,
            "confirmed": None if things is None else thing is not None and thing.whole,
        }

    async def drop(self, content: bytes, at: str | None) -> int:
        """Have it kept no longer, by all who do or by one; how many that are.

        Raises:
            NotFound: nobody is known to keep it.
            Unreachable, ...: a keeper could not be told; others were.
        """
        rows = [each for each in await self._pushed_of(content) if at in (None, each.keeper)]
        if not rows:
            raise NotFound(what=title(content), detail="no keeper is known to keep it")
        errors: list[KacheryError] = []
        for each in rows:
            channel = bytes.fromhex(each.channel)
            try:
                link = await self._discovery.reach.to(each.keeper, channel)
                answer = await link.request(KEEP_DROP, codec.plain(KeepDrop(channel, content)))
                codec.convert(Dropped, answer)
            except KacheryError as error:
                errors.append(error)
                continue
            await self._disk(self._state.forget_push, each.content, each.channel, each.keeper)
        if errors:
            raise errors[0]
        return len(rows)

    async def _pushed_of(self, content: bytes) -> list[Pushed]:
        return await self._disk(self._state.pushed, content)

    # --- feeds that grow ---------------------------------------------------------------------

    async def push_new_subfeeds(self) -> None:
        """Tell keepers of the subfeeds that came to a feed since it was pushed. To be called now and
        then."""
        now = self._context.clock()
        if now < self._next_look:
            return
        self._next_look = now + KEEP_SWEEP_SECONDS
        for each in await self._pushed():
            if len(each.content) != FEED_BYTES:
                continue
            try:
                thing = await self.feed(each.content, each.label)
                if thing.count == each.number:
                    continue
                left = None if each.until is None else each.until - self._context.clock()
                holder = Holder(each.keeper, bytes.fromhex(each.channel))
                if (left is None or left > 0) and await self._keeps(holder, each.content):
                    await self._at(holder, thing, Wish(seconds=left), lambda *_: None)
            except KacheryError as error:
                log.info("a new subfeed of %s is not kept yet: %s", title(each.content), error)


def _short(error: KacheryError) -> str:
    """Of a refusal, what differs from one keeper to the next."""
    reason = error.fields.get("reason") if isinstance(error, KeepRefused) else None
    return str(reason or error).rstrip(".")
