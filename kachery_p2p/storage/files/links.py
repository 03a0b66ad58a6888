"""Link files: the content is in a file of the user's, and the storage only points there.

kachery's format, read and written: ``<hash>.link`` holds JSON ``{"path", "manifestSha1", "stat":
{"size", "mtime"}}``: an absolute path, the hash of the manifest or null, bytes, seconds. Its clients
wrote the second as ``manifest_hash``, and it is not needed here. Links that have size and time beside
the path, without ``stat``, are read too.

The hash was true when the link was made; a size or a modification time that no longer fits makes the
link *stale*, and a stale link is no content at all.

Invariant: nothing here follows a path that is not absolute or a target that is not a regular file.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kachery_p2p.protocol.limits import KIB, MAX_FILE

MTIME_TOLERANCE: Final = 1e-6
"""Seconds. What is lost when a time in nanoseconds passes through a float."""

_MAX_LINK: Final = 16 * KIB


@dataclass(frozen=True, slots=True)
class Link:
    """Where the content lies, its size in bytes, and the modification time in seconds."""

    path: Path
    size: int
    mtime: float

    @classmethod
    def read(cls, path: Path) -> Link | None:
        """The link file at ``path``; None if it is not there or not a link."""
        try:
            with open(path, "rb") as file:
                data = file.read(_MAX_LINK + 1)
        except FileNotFoundError:
            return None
        try:
            fields = json.loads(str(data, "utf-8"))
        except (ValueError, RecursionError):
            return None
        if not isinstance(fields, dict):
            return None
        told = fields.get("stat", fields)
        if not isinstance(told, dict):
            return None
        target, size, mtime = fields.get("path"), told.get("size"), told.get("mtime")
        if not isinstance(target, str) or not os.path.isabs(target) or "\0" in target:
            return None
        if type(size) is not int or not 0 <= size <= MAX_FILE:
            return None
        if isinstance(mtime, bool) or not isinstance(mtime, int | float) or abs(mtime) > 1e12:
            return None
        return cls(Path(target), size, float(mtime))

    def to_json(self, manifest: str | None = None) -> bytes:
        """The bytes of the link file, in ASCII: what of a path is no UTF-8 is escaped.

        ``manifest``: its name, which kachery's daemon refuses a link without.
        """
        told = {"size": self.size, "mtime": self.mtime}
        return json.dumps({"path": str(self.path), "manifestSha1": manifest, "stat": told}).encode()

    def problem(self) -> str | None:
        """Why the link is stale, or None if it is good."""
        try:
            return self.mismatch(os.stat(self.path))
        except OSError as error:
            return f"the linked file {str(self.path)!r} cannot be used: {error.strerror or error}"

    def mismatch(self, status: os.stat_result) -> str | None:
        """The same for a file that is already open."""
        if not stat.S_ISREG(status.st_mode):
            return f"the linked {str(self.path)!r} is not a regular file"
        if status.st_size != self.size:
            return f"the linked file {str(self.path)!r} has another size than it was linked with"
        if abs(status.st_mtime - self.mtime) > MTIME_TOLERANCE:
            return f"the linked file {str(self.path)!r} was modified since it was linked"
        return None
