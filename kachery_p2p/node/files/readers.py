"""What a provider has to give to whom, and how it is read: in pieces, with proofs or without."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kachery_p2p.node.context import Context
from kachery_p2p.node.links.link import Link
from kachery_p2p.protocol.errors import BadInput, CorruptContent, NotFound
from kachery_p2p.protocol.files.messages import FileRead, check_ranges
from kachery_p2p.protocol.files.ranges import Range
from kachery_p2p.protocol.limits import BLOCK
from kachery_p2p.storage.files.blobs import Blob, BlobStore
from kachery_p2p.storage.files.checking import Proved, TreeReader
from kachery_p2p.storage.files.trees import find_tree

from .content import Content

ReadPiece = Callable[[int, int], Proved]
Reader = Callable[[Sequence[Range]], Awaitable[list[Proved]]]


class BeingRead(NamedTuple):
    """Pieces that are being read, and have their place in the peer's budget."""

    pieces: list[Range]
    size: int
    read: asyncio.Future[list[Proved]]


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
    damaged: Callable[[str], CorruptContent],
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
            with TreeReader(store, blob, tree, damaged) as reader:
                found = [reader.read_proved(start, stop) for start, stop in pieces]
    except (BadInput, NotFound):
        return None
    context.inventory.touch(sha1)
    return blob.size, found


def read_all(read: ReadPiece, pieces: Sequence[Range]) -> list[Proved]:
    """Each piece, by itself."""
    return [read(start, stop) for start, stop in pieces]


def plain_reader(store: BlobStore, blob: Blob) -> Callable[[int, int], bytes]:
    """Of a blob without a tree."""
    return lambda start, stop: store.read(blob, start, stop - start)


def unproved(read: Callable[[int, int], bytes]) -> ReadPiece:
    """The same with no proofs."""
    return lambda start, stop: (read(start, stop), [])


def of_part(part: Content, proofs: bool) -> Reader:
    """Of what is still being fetched here."""

    async def read(pieces: Sequence[Range]) -> list[Proved]:
        found = await part.read_proved(pieces) if proofs else None
        if found is None:
            raise NotFound(what="that range", detail="the provider is still fetching it itself")
        return found

    return read
