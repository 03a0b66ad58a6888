"""The bytes of one download: what of a file is verified and here, and who is fetching the rest.

What has arrived is verified and written by :class:`kachery_p2p.storage.files.partials.Partial`
before anybody sees a byte of it; what to ask for next is decided in
:mod:`kachery_p2p.protocol.files.plan`. Here the two are kept in step, and disk work is kept off the
loop and in order: one write at a time, none while the partial becomes the blob, a sync whenever one
is due.

Invariants: a blob's origin is on disk before the blob is, so that it never looks as if it was stored
here; which channel bytes came from is on disk before they are, and outlives a download that is broken
off, so that what another channel gave goes out on this one in no way (see
:mod:`kachery_p2p.storage.bindings`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from kachery_p2p.node.context import Context
from kachery_p2p.node.workers import InOrder, open_on_disk
from kachery_p2p.protocol.errors import CorruptContent, KacheryError, StorageFull
from kachery_p2p.protocol.files.manifest import Manifest
from kachery_p2p.protocol.files.messages import Piece
from kachery_p2p.protocol.files.plan import Plan
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    BLOCK,
    MANIFEST_CHUNK,
    MAX_RANGES,
    VERIFY_ON_READ,
)
from kachery_p2p.storage import paths
from kachery_p2p.storage.direct import Page
from kachery_p2p.storage.files.blobs import Blob
from kachery_p2p.storage.files.checking import Proved, is_known, read_proved, read_range
from kachery_p2p.storage.files.origins import FREE
from kachery_p2p.storage.files.partials import Partial

from .manifests import stored_manifest
from .sources import Body, opened, plain
from .unkept import Memory, Unkept

Part = tuple[int, int | None]
"""A byte range [start, stop) that a caller waits for; None is the file's end."""


class Content:
    """``spawn`` makes tasks that the node ends when it stops; ``memory`` is for what the disk has no
    room for. Sizes are in bytes."""

    def __init__(
        self,
        context: Context,
        sha1: str,
        spawn: Callable[..., asyncio.Task[Any]],
        memory: Memory,
    ) -> None:
        self.sha1: Final = sha1
        self._memory = memory
        self.size = 0
        """What the manifest says, or else one of the sources."""
        self.label = ""
        """What who wants it calls it."""
        self.partial: Partial | None = None
        self._unkept: Unkept | None = None
        self._manifest: Manifest | None = None
        self._whole = False
        """Somebody wants all of it, for which there must be room on the disk."""
        self.unsaved: StorageFull | None = None
        """Why a small file that is here is in memory alone: whoever wants to read it can."""
        self._in_memory: bytes | None = None
        self._ended = False
        """The partial is closed, or becomes the blob."""
        self.context: Final = context
        self._spawn = spawn
        self.plan = Plan(0, 1)
        """What to ask of whom."""
        self._channels: frozenset[str] = frozenset()
        """Where the bytes that are here came from. Replaced as a whole: a worker thread does it."""
        self._lock = asyncio.Lock()
        self._writes = InOrder(context.workers, self._lock)
        self._syncing: asyncio.Task[None] | None = None

    # --- what is here ------------------------------------------------------------------------

    @property
    def verified(self) -> int:
        return self.partial.verified_bytes if self.partial is not None else 0

    @property
    def verifies_parts(self) -> bool:
        """Whether a part can be told from a forged one before the whole is there."""
        return self._unkept is not None or (
            self.partial is not None and self.partial.kind != "whole"
        )

    @property
    def has_proofs(self) -> bool:
        """Whether pieces are verified by their place in the manifest's tree."""
        return self._unkept is not None or (
            self.partial is not None and self.partial.kind == "tree"
        )

    @property
    def wants_whole(self) -> bool:
        """Whether somebody wants all of it, for which there must be room on the disk."""
        return self._whole

    @property
    def keeps_blocks(self) -> bool:
        """Whether blocks are verified by their proofs, and go to the disk."""
        return self._unkept is None and self.has_proofs and not self._ended

    def is_on(self, channel: bytes) -> bool:
        """Whether its bytes come from this channel alone, or are free."""
        return bool(self._channels) and self._channels - {FREE} <= {channel.hex()}

    async def may_leave(self, channel: bytes) -> bool:
        """Whether what is here of it may go out on this channel."""
        if self.is_open and not self.is_whole:
            return self.is_on(channel)
        return await self.context.workers.disk(self.context.may_leave, self.sha1, channel)

    @property
    def channel(self) -> bytes | None:
        """The one channel that its bytes come from; None if there is no such."""
        bound = self._channels - {FREE} or self._channels
        return bytes.fromhex(min(bound)) if len(bound) == 1 else None

    @property
    def is_open(self) -> bool:
        """Whether bytes of it can be taken."""
        return self.partial is not None or self._unkept is not None

    def has(self, part: Part) -> bool:
        if self._unkept is not None:
            return not self.missing_of(part)
        if self.partial is None or not self.verifies_parts:
            return False  # without a manifest even the size is only somebody's word
        start, stop = part[0], self.partial.size if part[1] is None else part[1]
        stop = min(stop, self.partial.size)
        return start >= stop or self.partial.have(start, stop)

    @property
    def is_whole(self) -> bool:
        return self.partial is not None and not self.partial.missing(1)

    async def read(self, ranges: Sequence[Range]) -> bytes | None:
        """Verified bytes of these ranges, one after another; None if any went away again (the whole
        turned out to be wrong, say)."""
        if self._in_memory is not None:
            return b"".join(self._in_memory[start:stop] for start, stop in ranges)
        async with self._lock:  # not while the partial becomes the blob
            return await self.context.workers.disk(self._read_all, ranges)

    def _read_all(self, ranges: Sequence[Range]) -> bytes | None:
        blob = self.context.store.find(self.sha1)
        parts = []
        for start, stop in ranges:
            data = self._read(blob, start, min(stop, self.size)) if start < self.size else b""
            if data is None:
                return None
            parts.append(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def held(self) -> list[Range]:
        """Which bytes are here that others can have: ``MAX_RANGES`` ranges at most. Nothing without a
        tree, for then no part can be verified by itself."""
        partial = self.partial
        return partial.held(MAX_RANGES) if partial is not None and partial.kind == "tree" else []

    async def read_proved(self, ranges: Sequence[Range]) -> list[Proved] | None:
        """As :meth:`read`, of whole blocks, each range with its proof. Raises StorageFull: they are in
        memory alone."""
        async with self._lock:
            if self.partial is None and self._unkept is not None:
                raise self._unkept.error
            store, disk = self.context.store, self.context.workers.disk
            partial = None if self._ended else self.partial
            return await disk(read_proved, store, self.sha1, partial, ranges)

    def _read(self, blob: Blob | None, start: int, stop: int) -> bytes | None:
        if blob is not None:
            if blob.size > VERIFY_ON_READ and not is_known(self.context.store, blob):
                return read_range(self.context.store, blob, start, stop)
            return self.context.store.read(blob, start, stop - start)
        if self._unkept is not None:
            return self._unkept.read(start, stop)
        if self.partial is None:
            return None
        first = start // BLOCK * BLOCK
        last = min(self.partial.size, -(-stop // BLOCK) * BLOCK)
        data = self.partial.read_verified(first, last)
        return None if data is None else data[start - first : stop - first]

    # --- what is to be fetched ---------------------------------------------------------------

    def want(self, parts: Iterable[Part], *, whole: bool) -> bool:
        """Plan to fetch what these parts lack, ahead of the rest, and the ``whole`` file; whether there
        is anything that nobody is fetching yet. Without a tree, a part takes the whole file."""
        partial, self._whole = self.partial, whole
        if not self.is_open:
            return False
        if partial is None or partial.kind == "tree":
            urgent = [item for part in parts for item in self.missing_of(part)]
            lacking: Sequence[Range] = ()
            if whole:  # else the map of a large file would be walked for each read
                lacking = [(0, self.size)] if partial is None else partial.missing()
            self.plan.set_missing(lacking, urgent)
        else:
            self.plan.set_missing(partial.missing() if whole or any(True for _ in parts) else ())
        return self.plan.free

    def missing_of(self, part: Part) -> list[Range]:
        """What of these blocks is not here."""
        start, stop = part[0], self.size if part[1] is None else min(part[1], self.size)
        blocks = self._unkept or self.partial
        return blocks.missing_in(start, stop) if blocks is not None and start < stop else []

    # --- what arrives ------------------------------------------------------------------------

    async def resume(self, manifest: str) -> bool:
        """Go on with what an earlier download by this manifest left, if it is all here; whether so."""
        left = self.context.store.path(self.sha1, paths.PARTIAL)
        if not await self.context.workers.disk(left.exists):
            return False
        data = await stored_manifest(self.context, manifest)
        if data is None:
            return False
        try:
            parsed = Manifest.parse(data)
            if parsed.sha1 != self.sha1:
                return False
            await self.open(parsed.size, parsed)
        except KacheryError:  # whoever fetches it will be told
            return False
        return True

    async def comes_from(self, holder: Holder) -> None:
        """It is about to come from another node: the index knows that before any of it is there."""
        await self.context.workers.disk(self._comes_to_be, self.sha1, holder)

    async def open(self, size: int, manifest: Manifest | None) -> None:
        """Begin, or go on with what an earlier download left. Without room for that, parts can be
        read all the same, if the manifest has a tree."""
        self._manifest, self.size = manifest, size

        def work(_: object) -> Partial:
            partial = Partial.open(self.context.store, self.sha1, size, manifest)
            try:
                if self._whole:  # rather than to find out at the end that there is no room
                    partial.reserve()
                self._channels = self.context.bindings.resumed(partial)
            except BaseException:
                partial.close()
                raise
            return partial

        try:
            self.partial = await open_on_disk(self.context.workers, work)
            self._ended = False
        except StorageFull as error:
            if self._whole or manifest is None:
                raise
            self._unkept = Unkept(self._memory, manifest, None, error)
        units = {"tree": BLOCK, "chunks": MANIFEST_CHUNK, "whole": max(size, 1)}
        unit = units["tree" if self.partial is None else self.partial.kind]
        self.plan = Plan(size, unit, me=self.context.node_id, races=self.has_proofs)

    async def write(
        self, ticket: int, piece: Piece, body: Body, source: str, channel: bytes
    ) -> list[int]:
        """Decrypt, verify and write a piece of a segment; ``source`` is its giver's name, on
        ``channel``. Returns the segments of others of which nothing is wanted any more.

        Raises:
            CorruptContent: it is not what belongs there.
            ProtocolViolation: its body was forged on the way.
            StorageFull, StorageDamaged
        """

        def work() -> None:
            with opened(body) as data:
                self._accept(data, piece, source, channel.hex())

        await self._writes.run(work)
        stop = piece.offset + len(body)
        return self.plan.came(ticket, piece.offset, stop, asyncio.get_running_loop().time())

    async def take(
        self, came: Sequence[tuple[Piece, Body]], source: str, channel: bytes
    ) -> list[tuple[int, bytes]]:
        """As :meth:`write`, of pieces that belong to no segment; their places and bytes."""
        found: list[tuple[int, bytes]] = []

        def work() -> None:
            for piece, body in came:
                with opened(body) as data:
                    self._accept(data, piece, source, channel.hex())
                    found.append((piece.offset, plain(data)))

        await self._writes.run(work)
        return found

    def _accept(self, data: bytes | Page, piece: Piece, source: str, channel: str) -> None:
        """Verify a piece and keep it, in memory if the disk is full and nobody wants the whole file."""
        try:
            self._keep(data, piece, source, channel)
        except StorageFull as error:
            if self._whole or self._manifest is None or not self.has_proofs:
                raise
            if self._unkept is None:
                self._unkept = Unkept(self._memory, self._manifest, self.partial, error)
            self._unkept.write_blocks(piece.offset, plain(data), piece.proof, source)
            self._channels |= {channel}

    def _keep(self, data: bytes | Page, piece: Piece, source: str, channel: str) -> None:
        """Verify a piece and write it to the disk."""
        partial = self.partial
        if partial is None:
            assert self._unkept is not None
            raise self._unkept.error
        fresh = self._comes_from(channel)
        try:
            if partial.kind == "tree":
                partial.write_blocks(piece.offset, data, piece.proof, source)
            else:
                partial.append(piece.offset, plain(data), source)
        except CorruptContent:
            if fresh:  # nothing of it was kept
                self._comes_not_from(channel)
            raise

    def _comes_from(self, channel: str) -> bool:
        """Bytes are about to come from a channel, on disk first; whether they are the first."""
        if channel in self._channels:
            return False
        self.context.state.add_download_channel(self.sha1, channel)
        self._channels |= {channel}
        return True

    def _comes_not_from(self, channel: str) -> None:
        self.context.state.drop_download_channel(self.sha1, channel)
        self._channels -= {channel}

    def sync_if_due(self) -> None:
        partial = self.partial
        if partial is None or not partial.sync_due():
            return
        if self._syncing is None or self._syncing.done():
            self._syncing = self._spawn(
                self.context.workers.disk(partial.sync), name="sync partial"
            )

    def _comes_to_be(self, sha1: str, holder: Holder) -> None:
        channel = holder.channel.hex()
        self.context.inventory.fetching(
            sha1,
            channel="" if channel == FREE else channel,
            node=holder.node,
            node_label=holder.label,
            part_of="" if sha1 == self.sha1 else self.sha1,
            label=self.label if sha1 == self.sha1 else "",
        )

    async def store_whole(self, data: bytes, holder: Holder) -> None:
        """Take a small file that came in one piece, its hash checked."""
        self.size = len(data)
        try:
            await self.store_small(self.sha1, data, holder)
        except StorageFull as error:
            self.unsaved, self._in_memory = error, data

    async def store_small(self, sha1: str, data: bytes, holder: Holder) -> None:
        """Store a file, such as the manifest, that came from another node, its hash checked."""
        bind = self.context.bindings.arriving(holder.channel.hex())

        def arriving(sha1s: Sequence[str]) -> None:
            bind(sha1s)
            self._comes_to_be(sha1, holder)

        def work() -> None:
            self.context.store.store_bytes(data, arriving)

        await self.context.workers.disk(work)

    # --- how it ends -------------------------------------------------------------------------

    async def finish(self) -> None:
        """Everything is here: check the whole, and make it the blob.

        Raises:
            CorruptContent: the whole is wrong. Nothing of it is kept.
        """
        partial = self.partial
        assert partial is not None
        if self._syncing is not None:
            await asyncio.wait([self._syncing])
        async with self._lock:
            try:
                self._ended = True
                await self.context.workers.disk(self._complete, partial)
            except CorruptContent:
                self.partial = None
                raise

    def _complete(self, partial: Partial) -> None:
        self.context.bindings.complete(self.sha1, self._channels)
        try:
            partial.finish()
        except CorruptContent:
            self._forget_channels()
            raise

    def _forget_channels(self) -> None:
        self.context.state.forget_download(self.sha1)
        self._channels = frozenset()

    def _discard(self, partial: Partial) -> None:
        partial.discard()
        self._forget_channels()

    async def discard(self) -> None:
        """Throw away what came, to begin anew."""
        async with self._lock:
            if self.partial is not None:
                await self.context.workers.disk(self._discard, self.partial)
            self.partial = self._unkept = None

    async def close(self) -> None:
        """Leave what was verified for the next download to go on with."""
        await self._writes.wait()
        if self._syncing is not None:
            with contextlib.suppress(KacheryError, asyncio.CancelledError):
                await asyncio.shield(self._syncing)
        self._memory.drop(self.sha1)
        if self.partial is not None:
            async with self._lock:
                self._ended = True
                await asyncio.shield(self.context.workers.disk(self.partial.close))
