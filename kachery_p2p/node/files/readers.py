"""What a provider has to give to whom, and how it is read and sent: in pieces, with proofs or without,
a little ahead of the link and never more than may go.

What lies in one of the node's origins (:class:`FetchThrough`) is fetched from there, verified and kept
as what was fetched, and served from the storage. A part of a large file takes that part alone, if its
manifest is known: by what passed through this node before, or by the name of it that an archive has
beside the content. (That name is not believed further than this: who asked has the right manifest.)
Otherwise the whole file is fetched first.

Invariant: others never learn where an origin is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kachery_p2p.node.backing.backing import Backing
from kachery_p2p.node.context import Context
from kachery_p2p.node.links.link import Link
from kachery_p2p.node.links.stream import Stream
from kachery_p2p.node.rates import Throttle
from kachery_p2p.node.workers import Workers
from kachery_p2p.protocol import tree
from kachery_p2p.protocol.errors import (
    BadInput,
    Busy,
    CorruptContent,
    KacheryError,
    NotFound,
    OriginError,
)
from kachery_p2p.protocol.files.messages import FileRead, check_ranges
from kachery_p2p.protocol.files.ranges import Range, cut, grouped
from kachery_p2p.protocol.limits import BLOCK, FETCH_THROUGH_SECONDS
from kachery_p2p.storage.backing.objects import MANIFEST
from kachery_p2p.storage.files.blobs import Blob, BlobStore
from kachery_p2p.storage.files.checking import Proved, TreeReader
from kachery_p2p.storage.files.treefile import block_count
from kachery_p2p.storage.files.trees import ensure_tree, find_tree
from kachery_p2p.storage.paths import check_sha1

from .content import Content
from .download import Download
from .downloader import Downloader

ReadPiece = Callable[[int, int], Proved]
Reader = Callable[[Sequence[Range]], Awaitable[list[Proved]]]


@dataclass
class Upload:
    """A part of a file that is being sent. ``size`` is the whole file's, 0 until it is known."""

    link: Link
    params: FileRead
    size: int = 0

    @property
    def whose(self) -> tuple[str, bytes, bytes]:
        """The same for all parts of a file that one node reads on one channel."""
        return self.link.peer, self.params.channel, self.params.sha1


def read_few(
    context: Context,
    damaged: Callable[[Blob], CorruptContent],
    params: FileRead,
    pieces: Sequence[Range],
) -> tuple[int, list[Proved]] | None:
    """The size of a large blob, and pieces of it with their proofs; None if anything about it is not as
    it mostly is, so that more has to be done, or to be said.

    Raises:
        CorruptContent: it is damaged, and was put aside.
    """
    store, sha1 = context.store, params.sha1.hex()
    if not context.may_leave(sha1, params.channel):
        return None
    blob = store.find(sha1)
    if blob is None:
        return None
    try:
        check_ranges(params.ranges, blob.size, BLOCK)
        with store.held(blob) as blob:
            tree = find_tree(store, blob)
            if tree is None:
                return None
            with TreeReader(store, blob, tree, damaged, believing=True) as reader:
                found = [reader.read_proved(start, stop) for start, stop in pieces]
    except (BadInput, NotFound):
        return None
    context.inventory.touch(sha1)
    return blob.size, found


def compare_range(
    store: BlobStore, blob: Blob, start: int, stop: int, damaged: Callable[[Blob], CorruptContent]
) -> None:
    """Compare a part of a large blob with its tree. Raises what ``damaged`` makes of it."""
    with (
        store.held(blob) as held,
        TreeReader(store, held, ensure_tree(store, held), damaged) as reader,
    ):
        reader.read(start, stop)


def on_disk(workers: Workers, read: ReadPiece) -> Reader:
    """Read piece by piece, some of them in one visit to a thread."""
    return lambda pieces: workers.disk(_read_all, read, pieces)


def _read_all(read: ReadPiece, pieces: Sequence[Range]) -> list[Proved]:
    return [read(start, stop) for start, stop in pieces]


def plain_reader(store: BlobStore, blob: Blob) -> ReadPiece:
    """A blob's bytes as they lie there."""
    return unproved(lambda start, stop: store.read(blob, start, stop - start))


def unproved(read: Callable[[int, int], bytes]) -> ReadPiece:
    """The same with no proofs."""
    return lambda start, stop: (read(start, stop), [])


class _Reading(NamedTuple):
    """Pieces that are being read, and have their place in the peer's budget."""

    pieces: list[Range]
    size: int
    read: asyncio.Future[list[Proved]]


async def send_ranges(
    link: Link,
    stream: Stream,
    ranges: Sequence[Range],
    read: Reader,
    rate: Throttle,
    sent: Callable[[int], None],
    *,
    waits: bool = False,
) -> None:
    """Read one group of pieces ahead of the link, as long as there is credit and room for it. ``sent``
    is told the bytes of each piece that went. ``waits``: reading may wait for others, and is broken off
    when nobody wants it any more."""

    def most() -> int:
        return rate.piece(link.bulk_bytes)

    groups = grouped(cut(ranges, most), most)
    pieces = next(groups, None)
    current: _Reading | None = None
    ahead: _Reading | None = None
    try:
        while pieces is not None or current is not None:
            if pieces is not None:
                size = sum(stop - start for start, stop in pieces)
                # Nobody waits for room while something that was read waits to be sent, and who
                # waits for the rate has no room yet.
                if current is None:
                    await rate.acquire(link.peer, size)
                    await stream.reserve(size)
                elif may := not rate.is_behind and stream.try_reserve(size):
                    rate.take(size)
                if current is None or may:
                    ahead = _Reading(pieces, size, asyncio.ensure_future(read(pieces)))
                    pieces = next(groups, None)
            if current is not None:
                for (start, _), (data, proof) in zip(
                    current.pieces, await current.read, strict=True
                ):
                    await stream.send([start, proof], data)
                    sent(len(data))
                stream.unreserve(current.size)
            current, ahead = ahead, None
    finally:
        for each in (current, ahead):
            if each is not None:
                stream.unreserve(each.size)
                if waits:
                    each.read.cancel()
                # The thread may still be reading: the tree it reads from is closed after this.
                await asyncio.wait([each.read])
                if not each.read.cancelled():
                    each.read.exception()


def of_part(part: Content, proofs: bool) -> Reader:
    """Of what is still being fetched here."""

    async def read(pieces: Sequence[Range]) -> list[Proved]:
        found = await part.read_proved(pieces) if proofs else None
        if found is None:
            raise NotFound(what="that range", detail="the provider is still fetching it itself")
        return found

    return read


# --- what lies in an origin ------------------------------------------------------------------------

_DIGITS: Final = 40
_MAX_NAMES: Final = 10_000
"""Names of manifests that are remembered, about 300 bytes each."""
_ITS: Final = "its origin"


class FetchThrough:
    """``spawn`` makes tasks that the node ends when it stops."""

    def __init__(
        self,
        context: Context,
        backing: Backing,
        downloader: Downloader,
        *,
        spawn: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._context = context
        self._backing = backing
        self._downloader = downloader
        self._spawn = spawn
        self._names: OrderedDict[str, str] = OrderedDict()

    async def size(self, sha1: str, channel: bytes) -> int | None:
        """How large it is, if it lies in an origin and may go out on a channel."""
        found = await self._backing.find(sha1)
        if not found:
            return None
        may = await self._context.workers.disk(self._context.may_leave, sha1, channel)
        return found[0][1].size if may else None

    async def manifest(self, sha1: str) -> str | None:
        """The hash of a manifest by which parts of it can be verified and proved, if that is known."""
        for origin, found in await self._backing.find(sha1):
            if not found.size or found.tree != tree.flat_size(block_count(found.size)):
                continue
            known = await self._context.workers.disk(self._context.state.manifest, sha1)
            if known is not None:
                return known
            if sha1 in self._names:
                return self._names[sha1]
            if not found.manifest:
                continue
            with contextlib.suppress(KacheryError, ValueError):  # then the whole is fetched
                data = await origin.call(
                    "the name of a manifest", lambda files: files.read(sha1, MANIFEST, 0, _DIGITS)
                )
                name = self._names[sha1] = check_sha1(data.decode("ascii"))
                if len(self._names) > _MAX_NAMES:
                    self._names.popitem(last=False)
                return name
        return None

    async def load(self, sha1: str) -> None:
        """Have all of it here.

        Raises:
            Busy: that takes long, and goes on; it may be asked for again.
            OriginError, CorruptContent, ...: it cannot be had.
        """
        loading = self._spawn(self._load(sha1), name="fetch from an origin")
        with _hidden(self._context.node_id):
            done, _ = await asyncio.wait([loading], timeout=FETCH_THROUGH_SECONDS)
            if not done:
                raise Busy(limit="it is fetching this file from its origin")
            loading.result()

    async def _load(self, sha1: str) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._downloader.load(sha1, near_only=True)

    @contextlib.asynccontextmanager
    async def hold(
        self, sha1: str, manifest: str, ranges: Sequence[Range]
    ) -> AsyncIterator[Download]:
        """As :meth:`.downloader.Downloader.hold`, once its size is known."""
        with _hidden(self._context.node_id):
            hold = self._downloader.hold(sha1, manifest, None, ranges, near_only=True)
            async with hold as download:
                await download.wait((0, 0))
                yield download

    def reader(
        self, download: Download, proofs: bool
    ) -> Callable[[Sequence[Range]], Awaitable[list[Proved]]]:
        """Reads pieces of it, when they are there."""

        async def read(pieces: Sequence[Range]) -> list[Proved]:
            with _hidden(self._context.node_id):
                for piece in pieces:
                    await download.wait(piece)
                if proofs:
                    return await download.read_proved(pieces)
                return [(await download.read([piece]), []) for piece in pieces]

        return read


@contextlib.contextmanager
def _hidden(node_id: str) -> Iterator[None]:
    """Errors as others may hear them."""
    try:
        yield
    except OriginError as error:
        raise type(error)(
            **(error.fields | {"origin": _ITS, "reason": "its user can see why"})
        ) from None
    except CorruptContent as error:
        raise CorruptContent(
            what=error.fields["what"], source=f"an origin of node {node_id[:8]}"
        ) from None
    except NotFound as error:
        raise NotFound(what=error.fields["what"], detail="the provider no longer has it") from None
