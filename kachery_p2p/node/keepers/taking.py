"""Taking what is pushed here: fetching it, until all of it is whole and on disk.

It is fetched as any file is, from whoever has it, and pinned as it becomes known what belongs to it.
What was here before is compared with its hashes once more.

Non-goals: whether it is taken at all, and what is said of it, see :mod:`.keeper`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from kachery_p2p.node.batches.loader import BatchLoader, Wanted
from kachery_p2p.node.context import Context
from kachery_p2p.node.files.downloader import Downloader
from kachery_p2p.node.files.keeping import Keeping
from kachery_p2p.node.gossip.lookup import Lookup
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.protocol.errors import (
    BadInput,
    CorruptContent,
    KacheryError,
    KeepRefused,
    LocalError,
    StorageFull,
)
from kachery_p2p.protocol.files.keys import file_key
from kachery_p2p.protocol.keepers.messages import FEED_BYTES, KeepPut, title
from kachery_p2p.protocol.keepers.offer import later
from kachery_p2p.storage.files.checking import check
from kachery_p2p.storage.inventory.kept import Kept

from .kept_feeds import KeptFeeds

_TRIES: Final = 3
"""How often one content is fetched, if it has gone again or may not go out."""


class Coming:
    """A push while it comes. ``kept``: as it is on disk by now; ``stream``: on which it is asked for.
    Sizes are in bytes."""

    def __init__(self, put: KeepPut, kept: Kept, stream: Stream) -> None:
        self.put = put
        self.kept = kept
        self.stream = stream
        self.arrived = 0
        self.moving: dict[str, tuple[int, int]] = {}
        """What is coming now: how much of it is here, of how much."""
        self.compared = 0
        """Of the one file that is being compared with its hash."""
        self.checked: set[str] = set()
        """What is here and has been compared with its hash."""
        self.tried: Counter[str] = Counter()
        self.over = False
        self.ended = asyncio.Event()

    @property
    def done(self) -> int:
        moved = sum(come for come, _ in self.moving.values())
        return min(self.arrived + moved + self.compared, self.put.size)

    @property
    def moving_size(self) -> int:
        """Bytes of all that is coming now, whole."""
        return sum(size for _, size in self.moving.values())

    def moves(self, sha1: str, info: dict[str, Any]) -> None:
        """How far a download is."""
        # A file without a tree is verified all at once.
        come = max(int(info["verified"]), min(int(info["fetched"]), int(info["size"])))
        self.moving[sha1] = come, int(info["size"])

    def compares(self, done: int) -> None:
        """So many bytes of what was here before have been compared with its hash. In any thread."""
        self.compared = done

    def stands(self, size: int) -> None:
        """So many bytes of a feed are here by now. It may grow on while it comes: what the offer allows
        is looked at as it grows."""
        self.arrived = min(size, self.put.size)

    def take(self, size: int) -> None:
        """So many bytes more are here."""
        self.compared = 0
        self.arrived += size
        self.check(0)

    def check(self, moving: int) -> None:
        """So many are coming. Raises BadInput: it is more than was declared."""
        self.over = self.arrived + moving > self.put.size
        if self.over:
            raise BadInput(
                what="push", reason=f"it is more than the {self.put.size} bytes that were said"
            )


class Taker:
    def __init__(
        self,
        context: Context,
        keeping: Keeping,
        downloader: Downloader,
        loader: BatchLoader,
        feeds: KeptFeeds,
        lookup: Lookup,
    ) -> None:
        self._context = context
        self._lookup = lookup
        self._state = context.state
        self._disk = context.workers.disk
        self._keeping = keeping
        self._downloader = downloader
        self._loader = loader
        self._feeds = feeds

    def refusal(self, kept: Kept, reason: str) -> KeepRefused:
        """The error that says so to the other node."""
        me = self._context
        who = f"{me.label or 'node'} ({me.node_id[:8]})"
        return KeepRefused(who=who, what=title(kept.content), reason=reason)

    async def take(self, work: Coming) -> Kept:
        """Until all of it is here, whole, and that it is kept is on disk; as that has it.

        Raises:
            KeepRefused: it cannot be kept here.
            BadInput: it is more than was declared; then ``work.over``.
            NotFound, Stalled, StorageFull, ...: it could not be fetched.
        """
        put, kept = work.put, work.kept
        until = None if put.seconds is None else self._context.clock() + put.seconds
        if kept.whole:  # whoever pushes once more does not want it to be kept for less
            until = later(kept.until, until)
        kept = kept._replace(whole=True, until=until, orphaned=None, label=put.label)
        if len(put.content) == FEED_BYTES:
            return await self._feeds.take(kept, put.logs, partial(self._grows, work))
        root = put.content.hex()
        manifest = None if put.manifest is None else put.manifest.hex()
        while True:
            belonging = await self._disk(self._keeping.belonging, root, manifest)
            if len(belonging) > put.count:
                work.over = True
                reason = f"it is more than the {put.count} files that were said"
                raise BadInput(what="push", reason=reason)
            missing = await self._disk(self._missing, work, belonging)
            if missing:
                await self._disk(self._pin_coming, work, belonging, missing)
                keys = {file_key(sha1) for sha1 in belonging}
                with self._lookup.told(work.kept.node, put.channel, keys):
                    await self._fetch(work, missing, belonging)
            elif (whole := await self._disk(self._write_down, work, kept, belonging)) is not None:
                return whole

    async def _grows(self, work: Coming, size: int) -> None:
        """A feed has so many bytes here by now. It may grow while it comes, past what was said, and
        counts as it is. Raises KeepRefused: it does not fit any more."""
        work.stands(size)
        if size > work.kept.size and not work.kept.whole:
            grown = work.kept._replace(size=size)
            reason = await self._disk(self._feeds.offers.count, grown)
            if reason:
                raise self.refusal(grown, reason)
            work.kept = grown

    def _missing(self, work: Coming, belonging: Iterable[str]) -> list[str]:
        """What of it is not here, or may not go out on the channel. What was here before is compared
        with its hash: that it lay here once does not mean that it is whole."""
        context, missing = self._context, []
        for sha1 in belonging:
            blob = context.store.find(sha1)
            if blob is None or not context.may_leave(sha1, work.put.channel):
                missing.append(sha1)
                continue
            if blob.linked:
                raise self.refusal(
                    work.kept,
                    f"it has sha1://{sha1} as a link to a file of its user, who may change that",
                )
            if sha1 not in work.checked:
                work.checked.add(sha1)
                try:
                    check(
                        context.store,
                        blob,
                        cancelled=lambda: work.stream.ended,
                        advanced=work.compares,
                    )
                except CorruptContent:
                    context.store.quarantine(sha1, blob)
                    missing.append(sha1)
                else:
                    work.take(blob.size)
        return missing

    def _pin_coming(self, work: Coming, belonging: Iterable[str], missing: list[str]) -> None:
        """So that nothing of it goes while the rest comes."""
        find = self._context.store.find
        fresh = [sha1 for sha1 in missing if find(sha1) is None]
        if work.kept.whole:
            self._state.only_kept(fresh)  # its pins are those that it has
        else:
            self._state.keep(work.kept._replace(until=None), belonging, fresh)

    async def _fetch(
        self, work: Coming, missing: list[str], manifests: dict[str, str | None]
    ) -> None:
        channel, root = work.put.channel, work.put.content.hex()
        work.tried.update(missing)
        if max(work.tried.values()) > _TRIES:
            raise self.refusal(work.kept, "its user does not share all of it on this channel")
        if root in missing:
            loaded = await self._downloader.load(
                root,
                manifests[root],
                channel=channel,
                label=work.put.label,
                on_progress=lambda info: work.moves(root, info),
            )
            work.moving.clear()
            work.checked.add(root)
            work.take(loaded["size"])
            return  # what it names is known from now on
        of_others = {each for each in manifests.values() if each is not None}
        wanted = [
            Wanted(place, sha1, manifests[sha1])
            for place, sha1 in enumerate(sorted(missing, key=lambda sha1: sha1 not in of_others))
        ]
        errors: list[KacheryError] = []

        def moves(place: int, info: dict[str, Any]) -> None:
            work.moves(wanted[place].sha1, info)

        def done(place: int, size: int, error: KacheryError | None) -> None:
            work.moving.pop(wanted[place].sha1, None)
            if error is not None:
                errors.append(error)
                return
            work.checked.add(wanted[place].sha1)
            work.arrived += size
            work.over = work.arrived > work.put.size

        await self._loader.load(wanted, channel, only=True, done=done, moves=moves)
        work.check(0)
        if errors:
            raise errors[0]

    def _write_down(
        self, work: Coming, kept: Kept, belonging: dict[str, str | None]
    ) -> Kept | None:
        """From now on it is kept; None if something of it has gone meanwhile."""
        context, size = self._context, 0
        with context.quota.lock:
            for sha1 in belonging:
                blob = context.store.find(sha1)
                if blob is None:
                    return None
                size += blob.size
            whole = kept._replace(size=size, number=len(belonging))
            self._state.keep(whole, belonging)
            return whole


def why_not(work: Coming, error: LocalError) -> str:
    """For the other node: nothing of where things lie here."""
    if work.over:
        return str(error.fields["reason"])
    if isinstance(error, StorageFull):
        return "there is no room for it on its disk, or within its storage's limit"
    if isinstance(error, BadInput):
        return str(error)
    return "its storage could not be used; its user can see why in the node's log"
