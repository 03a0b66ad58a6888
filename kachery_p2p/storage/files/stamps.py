"""What a large file was like when its content was last compared with its hash.

Comparing takes as long as reading the file, so it is done once for each state of it: beside the blob
lies a ``.checked`` with the inode, size, mtime and ctime that the file had. As long as these fit,
nobody has written to it in a way that a file system knows of. What a disk does to bytes that nobody
wrote is seen where ranges are read, since these are compared each time (:mod:`.checking`), by the
member that they are sent to if not here.

Invariant: a stamp is written after the content was compared, of the status that the file had before. It
is no loss if it is not there, or damaged: then the file is compared again.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.errors import KacheryError
from kachery_p2p.storage import paths
from kachery_p2p.storage.disk import write_file

_STAMP: Final = struct.Struct(">8sQQqq")
_MAGIC: Final = b"kpcheck1"
_UNSIGNED: Final = (1 << 64) - 1


def stamp_of(status: os.stat_result) -> bytes:
    """What is compared: inode, bytes, and both times in nanoseconds."""
    return _STAMP.pack(
        _MAGIC,
        status.st_ino & _UNSIGNED,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def is_stamped(root: Path, sha1: str, status: os.stat_result) -> bool:
    """Whether the content was right when the file was last like this."""
    try:
        with open(paths.path_of(root, sha1, paths.CHECKED), "rb") as file:
            return file.read(_STAMP.size + 1) == stamp_of(status)
    except OSError:
        return False


def put_stamp(root: Path, sha1: str, status: os.stat_result) -> bool:
    """Remember that the content is right; False if it cannot be, on a full or read-only disk."""
    path = paths.path_of(root, sha1, paths.CHECKED)
    try:
        write_file(path, stamp_of(status), root / paths.TEMPORARY_FOLDER, durable=False)
    except (OSError, KacheryError):
        return False
    return True
