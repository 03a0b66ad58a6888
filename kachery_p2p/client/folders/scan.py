"""What is in a folder of the user's that is to be stored, before a byte of it is read.

Invariant: nothing is left out but what ``ignore`` says. What a listing cannot hold (a symbolic link, a
device, a name that is no UTF-8) or this user cannot read is an error that names it, and all of it is
found at once, before anything is stored. Links are never followed, so nothing outside comes in."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from kachery_p2p.protocol.arguments import several
from kachery_p2p.protocol.errors import BadInput, BadPath, Cancelled
from kachery_p2p.protocol.files.directory import Directory, name_problem
from kachery_p2p.protocol.limits import (
    MAX_DIRECTORY_DEPTH,
    MAX_DIRECTORY_ENTRIES,
    SHOWN_PROBLEMS,
)
from kachery_p2p.storage.file_stamps import file_stamp

_CHANGED: Final = "it changed while it was stored; store the folder again when nobody writes to it"
_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def changed(path: str) -> BadPath:
    """The error for what is not as it was when the folder was looked at."""
    return BadPath(path=path, reason=_CHANGED)


class Source(NamedTuple):
    """A file of a folder, as it was when the folder was looked at."""

    folder: Directory
    """That which it is in: it gets the file's entry when that is stored."""
    name: str
    path: str
    stamp: bytes
    size: int
    executable: bool


@dataclass
class Scan:
    """A folder, all of whose files are in ``files``."""

    root: Directory = field(default_factory=Directory)
    files: list[Source] = field(default_factory=list)
    folders: list[tuple[str, int]] = field(default_factory=list)
    """Their paths, and when entries last came or went."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(source.size for source in self.files)

    def check_unchanged(self) -> None:
        """Raises BadPath: an entry has come or gone since."""
        for path, before in self.folders:
            try:
                same = os.stat(path).st_mtime_ns == before
            except OSError:
                same = False
            if not same:
                raise changed(path)


class Ignored:
    """Patterns of what is left out, as a shell has them: of names (``*.tmp``), or of paths from the top
    (``cache/*``); ending with a slash, of folders alone."""

    def __init__(self, patterns: str | Iterable[str]) -> None:
        """Raises BadInput: it is no pattern."""
        self._names: list[str] = []
        self._paths: list[str] = []
        self._folders: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else several("ignore", patterns):
            if not isinstance(pattern, str) or not pattern.strip("/"):
                reason = f"{pattern!r} is no pattern; give text such as '*.tmp' or 'cache/'"
                raise BadInput(what="ignore", reason=reason)
            bare = pattern.removeprefix("./")
            if bare.endswith("/"):
                self._folders.append(bare[:-1].lstrip("/"))
            elif "/" in bare:
                self._paths.append(bare.lstrip("/"))
            else:
                self._names.append(bare)

    def __call__(self, path: str, name: str, is_folder: bool) -> bool:
        """Whether something is left out; ``path``: from the top, ``/`` between its parts."""
        match = fnmatch.fnmatchcase
        return (
            any(match(name, pattern) for pattern in self._names)
            or any(match(path, pattern) for pattern in self._paths)
            or (is_folder and any(match(path if "/" in p else name, p) for p in self._folders))
        )


def scan_folder(
    path: str,
    ignored: Ignored,
    own: Collection[tuple[int, int]],
    gone: Callable[[], bool],
) -> Scan:
    """Look at a folder and all below it. ``own``: device and inode of folders that change with what is
    stored.

    Raises:
        BadPath: something in it cannot be stored; the error names the first few and counts the others.
        BadInput: there is more in it than a listing holds. Cancelled: ``gone()`` became true.
    """
    scan = Scan()
    problems: list[tuple[str, str]] = []
    stack = [(scan.root, path, "", 0)]
    count = 0
    while stack:
        folder, at, inside, depth = stack.pop()
        if gone():
            raise Cancelled(what="Storing a folder")
        if depth > MAX_DIRECTORY_DEPTH:
            raise BadPath(path=at, reason=f"it is more than {MAX_DIRECTORY_DEPTH} folders deep")
        try:
            scan.folders.append((at, os.stat(at).st_mtime_ns))
            with os.scandir(at) as listing:
                entries = list(listing)
        except OSError as error:
            problems.append((at, f"cannot be read: {(error.strerror or '?').lower()}"))
            continue
        for entry in entries:
            relative = inside + entry.name
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                raise changed(entry.path) from None
            except OSError as error:
                why = f"cannot be looked at: {(error.strerror or '?').lower()}"
                problems.append((entry.path, why))
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            if ignored(relative, entry.name, is_folder):
                continue
            count += 1
            if count > MAX_DIRECTORY_ENTRIES:
                reason = f"it has more than {MAX_DIRECTORY_ENTRIES} entries; store it in parts"
                raise BadInput(what=path, reason=reason)
            problem = _problem(entry, status, own)
            if problem is not None:
                problems.append((entry.path, problem))
            elif is_folder:
                below = folder.dirs[entry.name] = Directory({}, {})
                stack.append((below, entry.path, relative + "/", depth + 1))
            else:
                executable = bool(status.st_mode & stat.S_IXUSR)
                stamp = file_stamp(status)
                scan.files.append(
                    Source(folder, entry.name, entry.path, stamp, status.st_size, executable)
                )
    if problems:
        raise _refused(problems)
    return scan


def _problem(
    entry: os.DirEntry[str], status: os.stat_result, own: Collection[tuple[int, int]]
) -> str | None:
    """Why something cannot be in a listing; None if it can."""
    if stat.S_ISDIR(status.st_mode):
        if (status.st_dev, status.st_ino) in own:
            return "is the storage itself"
    elif not stat.S_ISREG(status.st_mode):
        kind = next((what for is_it, what in _KINDS if is_it(status.st_mode)), "no file")
        return f"is {kind}"
    elif not os.access(entry.path, os.R_OK):
        return "is not readable for you"
    problem = name_problem(entry.name)
    return None if problem is None else f"has a name that {problem}"


def _refused(problems: list[tuple[str, str]]) -> BadPath:
    problems.sort()
    told = "; ".join(f"{path!r} {why}" for path, why in problems[1:SHOWN_PROBLEMS])
    more = len(problems) - SHOWN_PROBLEMS
    told = f"; so is this: {told}" if told else ""
    told += f", and {more} more" if more > 0 else ""
    path, why = problems[0]
    advice = "put a file or folder in its place, or leave it out with ignore=[...] (--ignore)"
    return BadPath(path=path, reason=f"it {why}; {advice}{told}")
