"""Where things lie in a storage folder.

``sha1/aa/bb/cc/<40 hex>`` is a blob, as kachery has it; beside it may lie, under the same name with
a suffix, a ``.link`` (the bytes are in a file elsewhere), a ``.tree`` (Merkle hashes), a ``.checked``
(what the file was like when its content was last compared with its hash) and a ``.partial`` with its
helpers (a download in progress). ``tmp/`` holds files being written.

Invariant: a path is only ever built from a hash that passed :func:`check_sha1`, so nothing that
came from outside can name a path.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

from kachery_p2p.protocol.errors import BadInput

LINK: Final = ".link"
TREE: Final = ".tree"
CHECKED: Final = ".checked"
PARTIAL: Final = ".partial"
PARTIAL_MAP: Final = ".partial.map"
PARTIAL_TREE: Final = ".partial.tree"
CORRUPT: Final = ".corrupt-"
WITH_CONTENT: Final = (LINK, TREE, CHECKED)
"""What lies beside content that is here, or is in its place."""
OF_PARTIAL: Final = (PARTIAL_MAP, PARTIAL, PARTIAL_TREE)
"""What a download in progress consists of, in the order in which it goes: marks must not outlive
data."""
TEMPORARY_FOLDER: Final = "tmp"
LOCK_FILE: Final = ".kachery-p2p.lock"
STATE_LOCK_FILE: Final = ".kachery-p2p-state.lock"
FEEDS_LOCK_FILE: Final = ".kachery-p2p-feeds.lock"
TASKS_LOCK_FILE: Final = ".kachery-p2p-tasks.lock"
JOURNAL_FILE: Final = ".kachery-p2p.journal"

Kind = Literal["blob", "link"]

_SHA1: Final = re.compile(r"[0-9a-f]{40}")
_PAIR: Final = re.compile(r"[0-9a-f]{2}")
_KINDS: Final[dict[str, Kind]] = {"": "blob", LINK: "link"}


class Entry(NamedTuple):
    """One thing that :func:`scan` found. ``size`` is that of the file itself, in bytes."""

    sha1: str
    size: int
    kind: Kind


def check_sha1(sha1: str) -> str:
    """``sha1`` if it is 40 lower-case hex digits. Raises :class:`BadInput` otherwise."""
    if not isinstance(sha1, str) or not _SHA1.fullmatch(sha1):
        raise BadInput(what="sha1", reason=f"{sha1!r} is not 40 lower-case hex digits")
    return sha1


def path_of(root: Path, sha1: str, suffix: str = "") -> Path:
    """The path of a blob, or with a suffix of what lies beside it."""
    return Path(text_of(root, sha1, suffix))


def text_of(root: Path | str, sha1: str, suffix: str = "") -> str:
    """:func:`path_of` as text, which is ten times quicker to make: for what is done for tens of
    thousands in a second."""
    check_sha1(sha1)
    return f"{root}/sha1/{sha1[0:2]}/{sha1[2:4]}/{sha1[4:6]}/{sha1}{suffix}"


def parse_name(name: str) -> tuple[str, str] | None:
    """(sha1, suffix) of a file name, or None if it is not one of ours."""
    sha1, suffix = name[:40], name[40:]
    return (sha1, suffix) if _SHA1.fullmatch(sha1) else None


def scan(root: Path) -> Iterator[Entry]:
    """Every blob and link under ``root``, as :func:`names` gives them. The size of a link is that of
    the link file."""
    for _, folder in leaf_folders(root):
        for item, sha1, kind in _items(folder):
            with contextlib.suppress(FileNotFoundError):
                yield Entry(sha1, item.stat().st_size, kind)


def names(root: Path) -> Iterator[tuple[str, Kind]]:
    """The hash of every blob and link under ``root``, in the order of the folders.

    A folder is listed when it is reached, so memory does not grow with the storage. What vanishes
    meanwhile or may not be read is left out, and so are files that lie in the wrong folder. Whether a
    link is good is for the store to say. A hash may come twice.
    """
    for _, folder in leaf_folders(root):
        for _, sha1, kind in _items(folder):
            yield sha1, kind


def leaf_folders(root: Path) -> Iterator[tuple[str, str]]:
    """The folders in which blobs lie, in order, each with the six digits with which their names begin;
    those above are listed when they are reached. Text: of a million files most have a folder of their
    own."""
    for aa, first in _folders(f"{root}/sha1"):
        for bb, second in _folders(first):
            for cc, third in _folders(second):
                yield f"{aa}{bb}{cc}", third


def beside(folder: Path | str) -> dict[str, dict[str, os.stat_result]]:
    """The files of ours in a leaf folder, by hash and suffix; symbolic links, too, which lie where the
    user has moved content to another disk."""
    found: dict[str, dict[str, os.stat_result]] = {}
    try:
        with os.scandir(folder) as listing:
            for item in listing:
                named = parse_name(item.name)
                if named is None:
                    continue
                moved = not named[1] and item.is_symlink()
                if moved or item.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):
                        status = item.stat(follow_symlinks=False)
                        found.setdefault(named[0], {})[named[1]] = status
    except FileNotFoundError:
        return {}
    return found


def _folders(folder: str) -> list[tuple[str, str]]:
    """Name and path of those in one that are named by two digits."""
    try:
        with os.scandir(folder) as listing:
            return sorted(
                (item.name, item.path)
                for item in listing
                if _PAIR.fullmatch(item.name) and item.is_dir()
            )
    except (FileNotFoundError, PermissionError):
        return []


def _items(folder: str) -> list[tuple[os.DirEntry[str], str, Kind]]:
    """The blobs and links in a leaf folder, by name, with their hashes."""
    prefix = folder[-8:].replace("/", "")
    found: list[tuple[os.DirEntry[str], str, Kind]] = []
    try:
        with os.scandir(folder) as listing:
            for item in listing:
                named = parse_name(item.name)
                if named is None or not named[0].startswith(prefix) or named[1] not in _KINDS:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if item.is_file():
                        found.append((item, named[0], _KINDS[named[1]]))
    except (FileNotFoundError, PermissionError):
        return []
    found.sort(key=lambda each: each[0].name)
    return found
