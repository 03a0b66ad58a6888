"""What nodes say to one another about files. A data frame of ``file.read`` has a :class:`Piece` as meta
and the bytes as body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import (
    ASK_PREFIX_BYTES,
    BATCH_FILES,
    BLINDED_KEY_BYTES,
    MAX_RANGES,
)
from kachery_p2p.protocol.method import Method

FILE_OPEN = "file.open"
FILE_READ = "file.read"
FILE_BATCH = "file.batch"
FILE_ASK = "file.ask"
FILE_DOUBT = "file.doubt"


class FileOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What do you have of this content? ``sha1`` is 20 raw bytes."""

    channel: bytes
    sha1: bytes


class FileInfo(msgspec.Struct, frozen=True):
    """``inline`` is the whole content of a file of at most ``INLINE_FILE`` bytes. ``partial`` says
    that the provider is itself still downloading: it serves what it has verified, which is ``has``,
    ``MAX_RANGES`` byte ranges at most, in order. It may have more of it by and by: ask again."""

    size: int
    inline: bytes | None
    partial: bool
    has: Annotated[list[tuple[int, int]], msgspec.Meta(max_length=MAX_RANGES)] = []


class FileRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send these byte ranges [start, stop), 1 to ``MAX_RANGES`` of them in file order, none empty or
    overlapping the next. ``proofs``: with Merkle proofs of the 64 KiB blocks; each start is then a
    multiple of the block, and each stop too unless it is the end of the file."""

    channel: bytes
    sha1: bytes
    ranges: list[tuple[int, int]]
    proofs: bool


def check_ranges(ranges: Sequence[tuple[int, int]], size: int, unit: int) -> None:
    """Raises BadInput: these are not ranges of a file of ``size`` bytes on units of so many, as
    :class:`FileRead` has them."""
    if not 1 <= len(ranges) <= MAX_RANGES:
        raise BadInput(what="ranges", reason=f"{len(ranges)} of them, not 1 to {MAX_RANGES}")
    end = 0
    for start, stop in ranges:
        if not end <= start < stop <= size:
            raise BadInput(what="range", reason=f"{start}-{stop} after {end} of {size} bytes")
        if start % unit or (stop % unit and stop < size):
            raise BadInput(what="range", reason=f"not on {unit}-byte blocks")
        end = stop


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Meta of one body of ``file.read``: where it belongs, and its proof."""

    offset: int
    proof: list[bytes]


class FileBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send those of many files (20 raw bytes each, ``BATCH_FILES`` at most) that are small and here. A
    data frame has a :class:`Several` as meta, and as body its files one after the other, ``BATCH_BODY``
    bytes at most. What is not sent is to be asked for by itself, with ``file.open``, which says why."""

    channel: bytes
    sha1s: Annotated[list[bytes], msgspec.Meta(max_length=BATCH_FILES)]


class FileAsk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send a file if it is here and has at most ``ASK_FILE`` bytes, as ``file.batch`` would; nothing if
    not. Whoever asks does not know whether it is here, and names it so that only who has it can tell
    which it is: its blinded key, and the first bytes of its SHA-1."""

    channel: bytes
    key: Annotated[bytes, msgspec.Meta(min_length=BLINDED_KEY_BYTES, max_length=BLINDED_KEY_BYTES)]
    start: Annotated[bytes, msgspec.Meta(min_length=ASK_PREFIX_BYTES, max_length=ASK_PREFIX_BYTES)]


class FileDoubt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What you sent of this range, whole blocks and at most ``MAX_BODY`` bytes, does not fit its proof:
    compare it. ``sha1`` is 20 raw bytes."""

    channel: bytes
    sha1: bytes
    start: int
    stop: int


class Several(msgspec.Struct, frozen=True, array_like=True):
    """The files in one body: which of those that were asked for, by their places, and their sizes."""

    places: Annotated[list[int], msgspec.Meta(max_length=BATCH_FILES)]
    sizes: Annotated[list[int], msgspec.Meta(max_length=BATCH_FILES)]


METHODS: Final = (
    Method(
        FILE_OPEN,
        "request",
        FileOpen,
        "any member -> provider (end to end): what do you have of it",
        "request-files",
    ),
    Method(
        FILE_READ,
        "stream",
        FileRead,
        "any member -> provider (end to end): send ranges",
        "request-files",
    ),
    Method(
        FILE_BATCH,
        "stream",
        FileBatch,
        "any member -> provider (end to end): send the small ones of many files",
        "request-files",
    ),
    Method(
        FILE_ASK,
        "stream",
        FileAsk,
        "any member -> provider (end to end): send a small file, if you have it",
        "request-files",
    ),
    Method(
        FILE_DOUBT,
        "note",
        FileDoubt,
        "requester -> provider (end to end): what you sent of it is wrong",
        "request-files",
    ),
)
