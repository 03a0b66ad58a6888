"""Letting others read a storage folder, whatever the umask of who made it: a group, or everybody.

Clients read blobs where they lie. A folder that was made by somebody whose files are nobody else's
business keeps those out whom the node lets in; so it is opened to them, once, and what is made in it
later is theirs to read as well (the folders hand their group on).

Invariants: nothing is taken from anybody; a folder that they can read is left as it is; the folders
above it are not ours.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .disk import disk_errors

_GROUP_READS: Final = 0o050
_OTHERS_READ: Final = 0o005


def bits_to_read(*, others: bool) -> int:
    """The bits of a mode that let them list and read: the group, or also everybody else."""
    return _GROUP_READS | (_OTHERS_READ if others else 0)


def let_in(root: Path, group: int | None, *, others: bool) -> None:
    """Open the folder to them, unless it is. Raises StorageDamaged."""
    with disk_errors("the storage folder", root):
        if not is_open_to(root, group, others=others):
            open_to(root, group, others=others)


def is_open_to(root: Path, group: int | None, *, others: bool) -> bool:
    """Whether they can read the folder already. Raises OSError."""
    status = root.stat()
    if status.st_mode & _OTHERS_READ == _OTHERS_READ:
        return True
    return not others and status.st_gid == group and status.st_mode & _GROUP_READS == _GROUP_READS


def open_to(root: Path, group: int | None, *, others: bool) -> None:
    """Let them read all that lies in the folder. What is somebody else's stays as it is."""
    for path in _everything(root):
        with contextlib.suppress(OSError):
            _open(path, group, bits_to_read(others=others))


def _everything(root: Path) -> Iterator[str]:
    # From above, so that what is made meanwhile is made in a folder that hands on its group.
    yield str(root)
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            yield os.path.join(folder, name)


def _open(path: str, group: int | None, bits: int) -> None:
    status = os.lstat(path)
    if group is not None and status.st_gid != group:
        os.chown(path, -1, group, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode) | bits | (stat.S_ISGID if group else 0))
    elif stat.S_ISREG(status.st_mode):
        os.chmod(path, stat.S_IMODE(status.st_mode) | bits & 0o044)
