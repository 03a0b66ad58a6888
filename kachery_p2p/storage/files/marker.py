"""The marker of a storage folder: by it a client knows that a folder is the one that its node means.

A node tells its clients in which folder its blobs lie, and they read them there. What a client is
told is believed only if the folder has the marker that the node names, a file that the node's own
user owns: so nobody who poses as a node can have others read files of its choice as blobs, and a
folder of the same name in another container is not taken for this one.

The marker is made once and stays; it is no secret. In a folder that the node's user may only read there
can be none: then the node names the folder's place on its disk instead, which is believed of a node of
one's own user, and of root.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from kachery_p2p.storage.disk import sync_folder, where_possible, write_all

MARKER_FILE: Final = "node-marker"
_RANDOM_BYTES: Final = 16
_TEXT: Final = re.compile(rb"[0-9a-f]{32}\n")
_READ_BYTES: Final = 64
_ROOT: Final = 0
_PLACE: Final = "place:"


def marker_of(root: Path, random_bytes: Callable[[int], bytes]) -> str:
    """The marker of a folder that this process has locked; made if there is none of this user's.

    Raises:
        OSError: it cannot be made.
    """
    path = root / MARKER_FILE
    found = _read(path, os.getuid())
    if found:
        return found
    text = random_bytes(_RANDOM_BYTES).hex()
    temporary = root / f"{MARKER_FILE}.new"
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        with where_possible():
            os.fchmod(fd, 0o644)  # whatever the umask: who may look into the folder may see it
        write_all(fd, text.encode() + b"\n")
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_folder(root)
    return text


def place_of(root: Path) -> str:
    """What stands for the marker of a folder that cannot be written to. Raises OSError."""
    status = root.stat()
    return f"{_PLACE}{status.st_dev}:{status.st_ino}"


def is_marked(root: Path, marker: str, uid: int) -> bool:
    """Whether a folder has this marker, and it is ``uid``'s, the user as whom the node runs; root is
    believed whoever's it is."""
    if marker.startswith(_PLACE):
        try:
            return uid in (_ROOT, os.getuid()) and place_of(root) == marker
        except OSError:
            return False
    return bool(marker) and _read(root / MARKER_FILE, None if uid == _ROOT else uid) == marker


def _read(path: Path, uid: int | None) -> str:
    """The marker in a file of this user, or nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        known = os.fstat(fd)
        if not stat.S_ISREG(known.st_mode) or (uid is not None and known.st_uid != uid):
            return ""
        data = os.read(fd, _READ_BYTES)
    except OSError:
        return ""
    finally:
        os.close(fd)
    return data[:-1].decode() if _TEXT.fullmatch(data) else ""
