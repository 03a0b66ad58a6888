"""Origins as sources of a download: they are read in pieces, with proofs made of the hash tree that
lies beside the content.

Nothing that is read is believed: what goes into the storage is compared with the manifest's tree or
with the SHA-1 there, as what other nodes send is. A tree that is wrong is forgotten, so that the next
try reads the whole, and the hash says which of the two it was."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.backing.origin import Origin
from kachery_p2p.node.context import Context
from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import CorruptContent, KacheryError, OriginObjectGone
from kachery_p2p.protocol.files.messages import FileInfo, Piece
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.files.tree_parts import TreeParts
from kachery_p2p.protocol.gossip.holders import Holder
from kachery_p2p.protocol.limits import (
    BLOCK,
    INLINE_FILE,
    MAX_MANIFEST,
    ORIGIN_PIECE,
    ORIGIN_PIECES_AHEAD,
)
from kachery_p2p.storage import paths
from kachery_p2p.storage.backing.index import Object
from kachery_p2p.storage.files.treefile import block_count

from .sources import Pieces, Source


@dataclass(frozen=True)
class PlainBody:
    """Bytes that came under no seal."""

    data: bytes

    def __len__(self) -> int:
        return len(self.data)

    def open(self) -> bytes:
        return self.data


class OriginSources:
    """The origins that have one content; they stay as long as its download."""

    def __init__(self, backing: Backing, context: Context, sha1: str) -> None:
        self.unasked: KacheryError | None = None
        self._backing = backing
        self._context = context
        self._sha1 = sha1
        self._sources: dict[str, OriginSource] = {}

    async def holders(self) -> list[Holder]:
        """Those that may be asked now."""
        holders, self.unasked = await self._backing.holders(self._sha1)
        return holders

    def source(self, holder: Holder) -> OriginSource | None:
        """The origin, if the holder is one."""
        origin = self._backing.named(holder)
        if origin is None:
            return None
        source = self._sources.get(holder.node)
        if source is None:
            source = OriginSource(holder, origin, self._backing, self._context)
            self._sources[holder.node] = source
        return source

    async def blame(self, node: str, error: KacheryError) -> None:
        """What came from there was not what it should be."""
        source = self._sources.get(node)
        if source is not None:
            await source.blame(self._sha1, error)


class OriginSource(Source):
    """One origin. Of each content that is read it remembers what of the hash tree was needed."""

    def __init__(self, holder: Holder, origin: Origin, backing: Backing, context: Context) -> None:
        super().__init__(holder)
        self._origin = origin
        self._backing = backing
        self._workers = context.workers
        self._objects: dict[str, Object] = {}
        self._trees: dict[str, TreeParts] = {}
        self._reading_tree = asyncio.Lock()

    @property
    def name(self) -> str:
        return self._origin.name

    async def _object(self, sha1: str) -> Object:
        found = self._objects.get(sha1)
        if found is None:
            rows = await self._backing.find(sha1)
            found = next((row for origin, row in rows if origin is self._origin), None)
            if found is None:
                raise OriginObjectGone(what=f"sha1://{sha1}", origin=self.name)
            self._objects[sha1] = found
        return found

    async def open(self, sha1: str) -> FileInfo:
        size = (await self._object(sha1)).size
        data = None if size > INLINE_FILE else await self._read(sha1, "", 0, size)
        return FileInfo(size, data, False)

    async def proves(self, sha1: str) -> bool:
        """Whether a tree of the right size lies beside it."""
        found = await self._object(sha1)
        return found.size > 0 and found.tree == tree.flat_size(block_count(found.size))

    def accuse(self, error: KacheryError) -> None:
        """What comes from there is under no seal."""

    async def manifest(self, sha1: str) -> bytes:
        size = (await self._object(sha1)).size
        if size > MAX_MANIFEST:
            raise CorruptContent(what=f"The manifest sha1://{sha1}", source=self.name)
        data = bytearray()
        for start in range(0, size, ORIGIN_PIECE):
            data += await self._read(sha1, "", start, min(size, start + ORIGIN_PIECE))
        try:
            self.check(bytes(data), sha1, f"The manifest sha1://{sha1}")
        except CorruptContent as error:
            await self._backing.blame(sha1, self._origin, error)
            raise
        return bytes(data)

    async def blame(self, sha1: str, error: KacheryError) -> None:
        """What came of it was wrong: if pieces were to be proved, the tree may be."""
        if isinstance(error, CorruptContent) and sha1 in self._trees:
            await self._workers.disk(self._backing.index.forget_tree, sha1, self._origin.number)
            return
        await self._backing.blame(sha1, self._origin, error)

    async def _read(self, sha1: str, suffix: str, start: int, stop: int) -> bytes:
        if start == stop:
            return b""
        return await self._origin.call(
            f"reading sha1://{sha1}{suffix}", lambda files: files.read(sha1, suffix, start, stop)
        )

    @contextlib.contextmanager
    def reading(self, sha1: str, ranges: Sequence[Range], *, proofs: bool) -> Iterator[Pieces]:
        pieces = _OriginPieces(self, sha1, ranges, proofs)
        try:
            yield pieces
        finally:
            pieces.close()

    async def piece(
        self, sha1: str, start: int, stop: int, proofs: bool
    ) -> tuple[Piece, PlainBody]:
        """Bytes [start, stop), with their proof."""
        data = await self._read(sha1, "", start, stop)
        proof = await self._proof(sha1, start, stop) if proofs else []
        return Piece(start, proof), PlainBody(data)

    async def _proof(self, sha1: str, start: int, stop: int) -> list[bytes]:
        first, last = start // BLOCK, block_count(stop)
        async with self._reading_tree:
            parts = self._trees.get(sha1)
            if parts is None:
                count = block_count((await self._object(sha1)).size)
                parts = self._trees[sha1] = TreeParts(count)
            for part in parts.needed(first, last):
                data = await self._read(sha1, paths.TREE, part.start, part.stop)
                await self._workers.cipher(parts.add, part, data)
            return parts.proof(first, last)


class _OriginPieces:
    """Pieces of some ranges, read a few ahead."""

    def __init__(
        self, source: OriginSource, sha1: str, ranges: Sequence[Range], proofs: bool
    ) -> None:
        self._source, self._sha1, self._proofs = source, sha1, proofs
        self._left = _cut(ranges)
        self.position = ranges[0][0]
        """Up to where it has come."""
        self._ahead: deque[asyncio.Task[tuple[Piece, PlainBody]]] = deque()

    async def next(self) -> tuple[Piece, PlainBody, int] | None:
        while len(self._ahead) < ORIGIN_PIECES_AHEAD and (part := next(self._left, None)):
            work = self._source.piece(self._sha1, *part, self._proofs)
            self._ahead.append(asyncio.create_task(work, name="read an origin"))
        if not self._ahead:
            return None
        piece, body = await self._ahead.popleft()
        self.position = piece.offset + len(body)
        return piece, body, 0

    def done(self, cost: int) -> None:
        pass

    def close(self) -> None:
        for task in self._ahead:
            task.cancel()
            task.add_done_callback(_heard)


def _heard(task: asyncio.Task[tuple[Piece, PlainBody]]) -> None:
    """Nobody is there any more to whom a failure would be news."""
    if not task.cancelled():
        task.exception()


def _cut(ranges: Sequence[Range]) -> Iterator[Range]:
    """Pieces end at multiples of their size."""
    for start, end in ranges:
        while start < end:
            stop = min(end, (start // ORIGIN_PIECE + 1) * ORIGIN_PIECE)
            yield start, stop
            start = stop
