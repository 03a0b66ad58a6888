"""What a user's file was like when it was stored, and as what: see :mod:`.known_files`."""

from __future__ import annotations

import os
import struct
import time
from typing import Final, NamedTuple

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import RACY_SECONDS

_STAMP: Final = struct.Struct(">QQQqq")
STAMP_PLACE: Final = 16
"""Bytes of a stamp that say which file; the others what it was like."""
_UNSIGNED: Final = (1 << 64) - 1


class KnownFile(NamedTuple):
    """What a file was stored as: hashes in hex."""

    sha1: str
    manifest: str | None


def file_stamp(status: os.stat_result) -> bytes:
    """Which file it is, and what would not stay the same if somebody wrote to it."""
    return _STAMP.pack(
        status.st_dev & _UNSIGNED,
        status.st_ino & _UNSIGNED,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def stamped_size(stamp: bytes) -> int:
    """The bytes of the file. Raises BadInput: it is no stamp."""
    if len(stamp) != _STAMP.size:
        raise BadInput(what="stamp of a file", reason=f"it has {len(stamp)} bytes")
    size: int = _STAMP.unpack(stamp)[2]
    return size


def is_racy(status: os.stat_result, now: float | None = None) -> bool:
    """Whether a file, as it is before it is read, may be written to once more without its times showing
    it. ``now``: Unix time. A clock that goes before the file server's makes no difference; one that
    goes after it by more than ``RACY_SECONDS`` shortens the time in which that can happen unseen to a
    tick of the server's own clock. An mtime of the future alone was set by somebody, as those of a
    camera with a wrong clock are when they are unpacked: no write leaves it as it is."""
    now = time.time() if now is None else now
    written = status.st_mtime if status.st_mtime <= now + RACY_SECONDS else 0.0
    return max(written, status.st_ctime) > now - RACY_SECONDS
