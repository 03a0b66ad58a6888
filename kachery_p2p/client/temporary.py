"""Temporary folders for users' own scripts, as kachery_client has them.

The package itself needs none: it stores from memory. Nothing here waits or retries; a folder that
cannot be removed raises the OSError that says why.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from types import TracebackType


class TemporaryDirectory:
    """``with TemporaryDirectory() as path:`` gives the path of a new, empty folder as a str.

    It is made under ``KACHERY_TEMP_DIR`` if that is set (made too if missing), else where the
    system keeps temporary files, with mode 0700.

    Args:
        remove: remove the folder and all that is in it at the end, read-only things too. It stays
            if this is False, or if ``KACHERY_KEEP_TEMP_FILES`` is '1'.
        prefix: the folder's name is this, '_' and something random.
    """

    def __init__(self, remove: bool = True, prefix: str = "tmp") -> None:
        self._remove = remove
        self._prefix = prefix
        self._path: str | None = None

    def __enter__(self) -> str:
        parent = os.environ.get("KACHERY_TEMP_DIR") or None
        if parent is not None:
            os.makedirs(parent, exist_ok=True)
        self._path = os.path.abspath(tempfile.mkdtemp(prefix=f"{self._prefix}_", dir=parent))
        return self._path

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        keep = not self._remove or os.environ.get("KACHERY_KEEP_TEMP_FILES") == "1"
        if self._path is not None and not keep:
            _remove_tree(self._path)

    def path(self) -> str:
        """The folder's path; it exists from the start of the ``with`` block on."""
        if self._path is None:
            raise RuntimeError("a TemporaryDirectory has a path only inside its 'with' block")
        return self._path


def _remove_tree(path: str) -> None:
    if not os.path.isdir(path):
        return
    # What may be removed from a folder is up to the folder's mode, not to the file's.
    _make_writable(path)
    for folder, names, _ in os.walk(path):
        for name in names:
            _make_writable(os.path.join(folder, name))
    shutil.rmtree(path)


def _make_writable(folder: str) -> None:
    mode = os.lstat(folder).st_mode
    if stat.S_ISDIR(mode) and mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(folder, stat.S_IMODE(mode) | stat.S_IRWXU)
