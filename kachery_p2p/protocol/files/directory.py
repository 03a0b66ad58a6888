"""Folders: which files are in one, as JSON that is itself content.

The format is kachery's, ``{"dirs": {name: ...}, "files": {name: {"sha1", "size"}}}``, each of the
``dirs`` being such an object again, so that one listing has everything below a folder. Two fields of a
file are new: ``"manifest"``, the SHA-1 of the manifest of a large one, and ``"executable": true``. A
listing is named by the SHA-1 of its own bytes, which is the hash in ``sha1dir://<hash>.<label>``.

Canonical: keys sorted, nothing that has its default, no spaces. So the same folder always has the same
URI, whatever the order in which a file system gave its entries; times and owners are no part of it.

Invariants of a :class:`Directory` that came out of :func:`parse`: all names are such that each is one
entry of one folder (no slash, no ``..``, no zero byte, what is UTF-8, at most ``MAX_FILE_NAME`` bytes);
none stands for both a file and a folder; a hash is 40 lower-case hex digits. Fields that are not known
are ignored, so listings of kachery and of later versions load. kachery knew files by their MD5 too:
such a one has ``sha1`` None, and so has one that was listed without any hash.

Non-goals: reading and writing folders of the disk; what the files contain.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from kachery_p2p.protocol.canonical import canonical_json
from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.limits import (
    MAX_DIRECTORY_DEPTH,
    MAX_DIRECTORY_ENTRIES,
    MAX_DIRECTORY_LISTING,
    MAX_FILE,
    MAX_FILE_NAME,
)

_SHA1: Final = re.compile(r"[0-9a-f]{40}")


class FileEntry(msgspec.Struct, frozen=True):
    """A file of a folder. ``size`` in bytes; older listings may lack it."""

    sha1: str | None = None
    size: int | None = None
    manifest: str | None = None
    executable: bool = False

    def __post_init__(self) -> None:
        for value in (self.sha1, self.manifest):
            if value is not None and not _SHA1.fullmatch(value):
                raise ValueError(f"{value[:50]!r} is no SHA-1 in lower-case hex")
        if self.size is not None and not 0 <= self.size <= MAX_FILE:
            raise ValueError(f"a size of {self.size} bytes")


class Directory(msgspec.Struct):
    """A folder: the files and the folders in it, by name."""

    files: dict[str, FileEntry] = {}
    dirs: dict[str, Directory] = {}

    def walk(self, prefix: str = "") -> Iterator[tuple[str, FileEntry]]:
        """Every file in it and in the folders below, with its path, in the order of the paths'
        parts."""
        stack: list[tuple[str, Directory]] = [(prefix, self)]
        while stack:
            base, folder = stack.pop()
            for name in sorted(folder.files):
                yield base + name, folder.files[name]
            for name in sorted(folder.dirs, reverse=True):
                stack.append((f"{base}{name}/", folder.dirs[name]))

    def folders(self) -> Iterator[str]:
        """The paths of all folders below it, each after the one that it is in."""
        stack = [("", self)]
        while stack:
            base, folder = stack.pop()
            for name in sorted(folder.dirs, reverse=True):
                yield base + name
                stack.append((f"{base}{name}/", folder.dirs[name]))

    def at(self, path: str) -> Directory | FileEntry | None:
        """What a path leads to, ``/`` between its parts; itself for an empty one, None if there is
        nothing."""
        found: Directory | FileEntry | None = self
        for name in filter(None, path.split("/")):
            if not isinstance(found, Directory):
                return None
            # kachery wrote some names with %20 in them, which is a space in a URI.
            for spelled in (name, name.replace(" ", "%20")):
                inside = found.dirs.get(spelled) or found.files.get(spelled)
                if inside is not None:
                    break
            found = inside
        return found

    def twins(self) -> Iterator[tuple[str, str]]:
        """Names within it (not below) of which some file systems, such as those of macOS and Windows,
        make one: they differ in case, or in how an accent is written."""
        seen: dict[str, str] = {}
        for name in sorted((*self.files, *self.dirs)):
            same = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
            if same in seen:
                yield seen[same], name
            else:
                seen[same] = name

    def to_json(self) -> bytes:
        """The canonical listing.

        Raises:
            BadInput: it has more than ``MAX_DIRECTORY_ENTRIES``, or is deeper or longer than a listing
                may be.
        """
        check_size(self)
        data = canonical_json(_plain(self)).encode()
        if len(data) > MAX_DIRECTORY_LISTING:
            raise _bad(f"it has {len(data)} bytes, more than {MAX_DIRECTORY_LISTING}")
        return data


_DECODER: Final = msgspec.json.Decoder(Directory)


def parse(data: bytes) -> Directory:
    """A listing from its bytes, every name and hash checked.

    Raises:
        BadInput: it is none, or is larger than a listing may be.
    """
    if len(data) > MAX_DIRECTORY_LISTING:
        raise _bad(f"it has {len(data)} bytes, more than {MAX_DIRECTORY_LISTING}")
    try:
        listing = _DECODER.decode(data)
    except RecursionError:  # what it says depends on the version of Python
        raise _bad("it is not what a folder is stored as: it is too deep") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise _bad(f"it is not what a folder is stored as: {error}") from None
    check_size(listing)
    return listing


def check_size(listing: Directory) -> None:
    """Raise BadInput unless all names are good, and are not more or deeper than may be."""
    count = 0
    level = [("", listing)]
    for _ in range(MAX_DIRECTORY_DEPTH):
        below = []
        for base, folder in level:
            count += len(folder.files) + len(folder.dirs)
            if count > MAX_DIRECTORY_ENTRIES:
                raise _bad(f"it has more than {MAX_DIRECTORY_ENTRIES} entries; store it in parts")
            _check_names(base, folder.files)
            _check_names(base, folder.dirs)
            both = folder.files.keys() & folder.dirs.keys()
            if both:
                raise _bad(f"{base + min(both)!r} is both a file and a folder")
            below += [(f"{base}{name}/", inside) for name, inside in folder.dirs.items()]
        if not below:
            return
        level = below
    raise _bad(f"it has folders more than {MAX_DIRECTORY_DEPTH} deep; store them by themselves")


def _check_names(base: str, names: Iterable[str]) -> None:
    for name in names:
        if len(name) > MAX_FILE_NAME // 4 or not name.isalnum():
            problem = name_problem(name)
            if problem is not None:
                raise _bad(f"the name {(base + name)[:200]!r} {problem}")


def name_problem(name: str) -> str | None:
    """Why a name cannot be one of a listing; None if it can."""
    if name in ("", ".", ".."):
        return "names no entry of a folder"
    if "/" in name or "\0" in name:
        return "has a slash or a zero byte in it"
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is no UTF-8"
    if length > MAX_FILE_NAME:
        return f"has {length} bytes, more than the {MAX_FILE_NAME} that file systems take"
    return None


def _plain(folder: Directory) -> dict[str, Any]:
    return {
        "dirs": {name: _plain(inside) for name, inside in folder.dirs.items()},
        "files": {name: _plain_file(entry) for name, entry in folder.files.items()},
    }


def _plain_file(entry: FileEntry) -> dict[str, Any]:
    plain: dict[str, Any] = {"sha1": entry.sha1, "size": entry.size}
    if entry.manifest is not None:
        plain["manifest"] = entry.manifest
    if entry.executable:
        plain["executable"] = True
    return {name: value for name, value in plain.items() if value is not None}


def _bad(reason: str) -> BadInput:
    return BadInput(what="folder listing", reason=reason)
