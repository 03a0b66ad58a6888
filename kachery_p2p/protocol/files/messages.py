"""What nodes say to one another about files. A data frame of ``file.read`` has a :class:`Piece` as meta
and the bytes as body."""

from __future__ import annotations

from typing import Final

import msgspec

from kachery_p2p.protocol.method import Method

FILE_OPEN = "file.open"
FILE_READ = "file.read"


class FileOpen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What do you have of this content? ``sha1`` is 20 raw bytes."""

    channel: bytes
    sha1: bytes


class FileInfo(msgspec.Struct, frozen=True):
    """``inline`` is the whole content of a file of at most ``INLINE_FILE`` bytes. ``partial`` says
    that the provider is itself still downloading: it serves what it has verified."""

    size: int
    inline: bytes | None
    partial: bool


class FileRead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Send bytes [start, stop). ``proofs``: with Merkle proofs of the 64 KiB blocks; start is then
    a multiple of the block, and stop too unless it is the end of the file."""

    channel: bytes
    sha1: bytes
    start: int
    stop: int
    proofs: bool


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Meta of one body of ``file.read``: where it belongs, and its proof."""

    offset: int
    proof: list[bytes]


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
        "any member -> provider (end to end): send a range",
        "request-files",
    ),
)
