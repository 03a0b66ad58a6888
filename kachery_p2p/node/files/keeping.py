"""What this node keeps: deleting, pinning, not sharing any more, and what goes when its time is over.

Invariants: what is deleted is withdrawn first, so that nobody is sent here for it any more; a node that
is reading it may go on for a minute (:meth:`.provider.Provider.let_finish`), and who is
reading it reads to the end (:meth:`~kachery_p2p.storage.files.reader.BlobReader.held`). A pin is on
disk when a call returns, and what it names was here then, or the caller is told what was not.

Copies that other nodes rely on while they delete theirs are locked (:class:`CopyLocks`): either a copy
is locked or it is being deleted, never both; which comes first is decided on the event loop. So of two
nodes that delete a file at once, each asking the other, none does. A lock is in memory alone. After a
restart there is none, but whoever deletes then asks anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from kachery_p2p.node.context import Context
from kachery_p2p.protocol.errors import BadInput, Busy, ContentPinned, CopyLocked, NotFound
from kachery_p2p.protocol.files.contents import manifests_in, named_in
from kachery_p2p.protocol.limits import (
    COPY_LOCK_SECONDS,
    EXPIRED_PAGE,
    MAX_COPY_LOCKS_EACH,
    MAX_MANIFEST,
)
from kachery_p2p.storage.files.arrivals import Arrivals
from kachery_p2p.storage.files.checking import read_small
from kachery_p2p.storage.inventory.deletion import delete
from kachery_p2p.storage.inventory.kept import kept_for
from kachery_p2p.storage.inventory.pins import Pin
from kachery_p2p.storage.inventory.things import Thing

from .downloader import Downloader
from .provider import Provider

_SHOWN_MISSING: Final = 100
"""Names of contents that are not here, in one answer."""


@dataclass
class _Lock:
    until: float
    timer: asyncio.TimerHandle


class CopyLocks:
    """``readers``: of the store, where what is locked counts as in use, so that it does not go to make
    room either. ``now``: seconds of any clock that never goes back."""

    def __init__(self, readers: Arrivals, now: Callable[[], float] | None = None) -> None:
        self._readers = readers
        self._now = now or asyncio.get_running_loop().time
        self._locks: dict[tuple[str, str], _Lock] = {}
        """By hash and the node that relies on it."""
        self._each: Counter[str] = Counter()
        self._deleting: Counter[str] = Counter()

    def lock(self, sha1: str, peer: str) -> None:
        """A node relies on it from now on, for ``COPY_LOCK_SECONDS``.

        Raises:
            NotFound: it is being deleted at this moment.
            Busy: the node has locked too much.
        """
        if self._deleting[sha1]:
            raise NotFound(what=f"sha1://{sha1}", detail="the provider deletes it at this moment")
        key = (sha1, peer)
        old = self._locks.get(key)
        if old is not None:
            old.timer.cancel()
        elif self._each[peer] >= MAX_COPY_LOCKS_EACH:
            raise Busy(limit=f"{MAX_COPY_LOCKS_EACH} copies that one node relies on")
        else:
            self._readers.begin(sha1)
            self._each[peer] += 1
        loop = asyncio.get_running_loop()
        timer = loop.call_later(COPY_LOCK_SECONDS, self._end, key)
        self._locks[key] = _Lock(self._now() + COPY_LOCK_SECONDS, timer)

    def unlock(self, sha1: str, peer: str) -> None:
        """It does not, after all."""
        lock = self._locks.get((sha1, peer))
        if lock is not None:
            lock.timer.cancel()
            self._end((sha1, peer))

    def _end(self, key: tuple[str, str]) -> None:
        del self._locks[key]
        self._readers.end(key[0])
        self._each[key[1]] -= 1
        if not self._each[key[1]]:
            del self._each[key[1]]

    @contextlib.contextmanager
    def deleting(self, sha1s: Sequence[str], *, force: bool) -> Iterator[None]:
        """In here nobody locks these. Raises CopyLocked: somebody has; with ``force`` that is no
        matter."""
        for (sha1, peer), lock in self._locks.items():
            if sha1 in sha1s and not force:
                left = max(1, round(lock.until - self._now()))
                raise CopyLocked(what=f"sha1://{sha1}", who=f"node {peer[:8]}", seconds=left)
        self._deleting.update(sha1s)
        try:
            yield
        finally:
            self._deleting.subtract(sha1s)
            self._deleting += Counter()


class Keeping:
    """``provide`` and ``withdraw`` announce; they are called on the loop. ``locks``: what other nodes
    rely on."""

    def __init__(
        self,
        context: Context,
        downloader: Downloader,
        provider: Provider,
        locks: CopyLocks,
        *,
        provide: Callable[[str], None],
        withdraw: Callable[[str], None],
    ) -> None:
        self._context = context
        self._downloader = downloader
        self._provider = provider
        self._locks = locks
        self._provide = provide
        self._withdraw = withdraw

    # --- deleting --------------------------------------------------------------------------------

    async def delete(self, sha1: str, *, force: bool = False) -> int:
        """Delete a content, and its manifest; how many bytes that freed. A linked file stays.

        Raises:
            NotFound: it is not here.
            ContentPinned: it is pinned, and that was not to be overridden.
            Busy: it is being stored at this moment.
            CopyLocked: another node relies on this copy for the moment.
            StorageDamaged, StorageReadOnly: it is still there.
        """
        disk = self._context.workers.disk
        names = await disk(self._to_delete, sha1, force)
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self._locks.deleting(names, force=force))
            for name in names:
                self._withdraw(name)
                await self._downloader.stop(name)
            for name in names:
                await stack.enter_async_context(self._provider.let_finish(name))
            return await disk(self._delete_all, names, force)

    def _to_delete(self, sha1: str, force: bool) -> list[str]:
        state, inventory = self._context.state, self._context.inventory
        pins = [pin for pin in state.pins(sha1) if self._counts(pin)]
        thing = inventory.look(sha1)
        if thing is None and not (force and pins):
            raise NotFound(what=f"sha1://{sha1}", detail="it is not on this computer")
        if pins and not force:
            raise _pinned(pins, sha1)
        manifest = state.manifest(sha1)
        if manifest is None:
            return [sha1]
        theirs = [pin for pin in state.pins(manifest) if self._counts(pin) and pin.root != sha1]
        return [sha1] if theirs else [sha1, manifest]

    def _delete_all(self, names: list[str], force: bool) -> int:
        state, context = self._context.state, self._context
        freed = 0
        for name in names:
            thing = context.inventory.thing(name)
            if force:
                state.unpin_content(name)
            may = functools.partial(self._may_go, name, force)
            with context.quota.lock:  # nobody pins it in between
                gone = delete(context.store, name, may)
            after = context.inventory.look(name)
            if after is not None and name == names[0]:
                pins = [pin for pin in state.pins(name) if self._counts(pin)]
                if pins:
                    raise _pinned(pins, name)
                raise Busy(limit=f"sha1://{name} is being stored or fetched at this moment")
            state.keep_until(name, None)
            freed += thing.bytes if gone and thing is not None else 0
        context.inventory.flush()
        return freed

    def _may_go(self, sha1: str, force: bool) -> bool:
        return force or not self._context.state.pinned([sha1], self._context.clock())

    def _counts(self, pin: Pin) -> bool:
        return pin.until is None or pin.until > self._context.clock()

    async def let_expired_go(self) -> None:
        """Delete what was stored for a time that is over, and forget such pins."""
        state, context = self._context.state, self._context
        if context.store.read_only:
            return

        def over() -> list[str]:
            state.end_pins(context.clock())
            return state.expired(context.clock(), EXPIRED_PAGE)

        for sha1 in await context.workers.disk(over):
            try:
                await self.delete(sha1)
            except (NotFound, ContentPinned):
                await context.workers.disk(state.keep_until, sha1, None)
            except (Busy, CopyLocked):
                continue  # whoever stores it now says for how long

    # --- sharing ---------------------------------------------------------------------------------

    async def unshare(self, sha1: str, channel: bytes) -> None:
        """Keep a content, and give it to nobody on a channel any more. Raises NotFound."""

        def work() -> list[str]:
            if self._context.inventory.look(sha1) is None:
                raise NotFound(what=f"sha1://{sha1}", detail="it is not on this computer")
            manifest = self._context.state.manifest(sha1)
            names = [sha1] if manifest is None else [sha1, manifest]
            self._context.state.unshare(names, channel.hex())
            return names

        for name in await self._context.workers.disk(work):
            self._provide(name)  # where it may still go out; elsewhere that withdraws it

    # --- pinning ---------------------------------------------------------------------------------

    async def pin(self, sha1: str, name: str, seconds: float | None) -> dict[str, Any]:
        """Pin a content and all that it names: the files of a directory, the URIs in a JSON value.

        Returns:
            plain values: ``pinned`` (how many contents), ``missing`` (those of them that are not
            here, the first hundred), ``until``.

        Raises:
            NotFound: it is not here.
            BadInput: it names too many.
        """
        return await self._context.workers.disk(self._pin, sha1, name, seconds)

    def _pin(self, root: str, name: str, seconds: float | None) -> dict[str, Any]:
        context = self._context
        if kept_for(name):
            reason = "that is the name of what is kept for another node; give another"
            raise BadInput(what=f"pin {name!r}", reason=reason)
        until = None if seconds is None else context.clock() + seconds
        inside = self.belonging(root)
        # Under the lock under which things go: what is here now stays.
        with context.quota.lock:
            if context.store.find(root) is None:
                raise NotFound(
                    what=f"sha1://{root}", detail="it is not on this computer; load it first"
                )
            context.state.pin(root, inside, name, until)
            missing = [each for each in inside if context.store.find(each) is None]
        return {"pinned": len(inside), "missing": missing[:_SHOWN_MISSING], "until": until}

    def belonging(self, root: str, manifest: str | None = None) -> dict[str, str | None]:
        """A content and all that it names, as far as that can be told from what is here: the hash of
        each with that of its manifest, which is one of them too. Reads the disk.

        Raises:
            BadInput: it names too many.
        """
        inside: dict[str, str | None] = {root: manifest}
        queue = [root]
        while queue:
            data = self._read_names(queue.pop())
            if not data:
                continue
            for each, directory in named_in(data).items():
                if each not in inside:
                    inside[each] = None
                    if directory:
                        queue.append(each)
            inside |= {each: found for each, found in manifests_in(data).items() if each in inside}
        for each, known in list(inside.items()):
            found = known or self._context.state.manifest(each)
            if found is not None:
                inside[each] = found
                inside.setdefault(found, None)
        return inside

    def _read_names(self, sha1: str) -> bytes:
        """A content that may name others, or nothing."""
        blob = self._context.store.find(sha1)
        if blob is None or blob.size > MAX_MANIFEST:
            return b""
        if self._context.store.read(blob, 0, 1) not in (b"{", b"[", b'"'):
            return b""
        return read_small(self._context.store, blob)

    async def unpin(self, sha1: str, name: str | None) -> int:
        """End the pins of a content, or the one of that name; how many contents they held. Raises
        BadInput: there are none."""
        ended = await self._context.workers.disk(self._context.state.unpin, sha1, name)
        if not ended:
            pins = await self._context.workers.disk(self._context.state.pins, sha1)
            reason = "it is not pinned" if not pins else f"it is pinned by {_told(pins, sha1)}"
            raise BadInput(what=f"sha1://{sha1}", reason=reason)
        return ended

    # --- told ------------------------------------------------------------------------------------

    def record(self, thing: Thing) -> dict[str, Any]:
        """A content as a listing has it: plain values. Reads the disk."""
        state = self._context.state
        pins = [pin for pin in state.pins(thing.sha1) if self._counts(pin)]
        return {
            "sha1": thing.sha1,
            "manifest": state.manifest(thing.sha1),
            "label": thing.label,
            "kind": thing.kind,
            "source": "linked" if thing.kind == "link" else thing.source,
            "size": thing.size,
            "held": thing.bytes,
            "stored": thing.stored,
            "used": thing.used,
            "path": thing.path,
            "channel": thing.channel,
            "node": thing.node,
            "node_label": thing.node_label,
            "pins": [{"uri": f"sha1://{p.root}", "name": p.name, "until": p.until} for p in pins],
            "until": state.expiry(thing.sha1),
        }


def _pinned(pins: list[Pin], sha1: str) -> ContentPinned:
    """The error that says so, and how to end the first of the pins."""
    command = "unpin" if kept_for(pins[0].name) is None else "kept release"
    ending = f"{command} sha1://{pins[0].root}"
    return ContentPinned(what=f"sha1://{sha1}", pins=_told(pins, sha1), ending=ending)


def _told(pins: list[Pin], sha1: str) -> str:
    """Pins in words."""
    return ", ".join(
        sorted(
            {
                (_title(pin) or "without a name")
                if pin.root == sha1
                else f"{_title(pin) + ', ' if pin.name else ''}with sha1://{pin.root}"
                for pin in pins
            }
        )
    )


def _title(pin: Pin) -> str:
    """Its name, as people read it."""
    node = kept_for(pin.name)
    return pin.name if node is None else f"kept for node {node[:8]}"
