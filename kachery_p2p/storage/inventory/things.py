"""One content of a storage folder, as the index has it, and as the files that lie there say it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace

from kachery_p2p.protocol.files.eviction import KINDS, SOURCES, Candidate, Kind, Source
from kachery_p2p.storage import paths
from kachery_p2p.storage.files.links import Link

COLUMNS: Final = (
    "sha1, kind, source, size, held, aside, stored, used, label, channel, node, node_label, path, "
    "part_of, arriving"
)
"""In the order of :func:`from_row` and :func:`to_row`."""

_STAT_BLOCK: Final = 512
"""Bytes of what ``st_blocks`` counts."""


class Thing(msgspec.Struct, frozen=True, gc=False):
    """``size``: bytes of the content; ``held``: of them and of the hash tree, in this folder;
    ``aside``: of damaged copies. ``stored``, ``used``: Unix time in seconds. ``channel``, ``node`` (ids
    in hex) and ``node_label``: where it was fetched. ``path``: where a link leads. ``part_of``: of a
    manifest, the file that it describes. ``arriving``: it may be there, and is to be looked at."""

    sha1: str
    kind: Kind | None = None
    source: Source = "found"
    size: int = 0
    held: int = 0
    aside: int = 0
    stored: float = 0.0
    used: float = 0.0
    label: str = ""
    channel: str = ""
    node: str = ""
    node_label: str = ""
    path: str = ""
    part_of: str = ""
    arriving: bool = False

    @property
    def bytes(self) -> int:
        """What of the folder's limit it takes."""
        return self.held + self.aside

    def candidate(self, *, pinned: bool, in_use: bool) -> Candidate | None:
        """As what may go is chosen from it."""
        if self.kind is None:
            return None
        if self.aside and self.kind != "damaged":
            # The good one is here, so the damaged copy is of no use to anybody.
            return Candidate(self.sha1, "damaged", "fetched", 0, self.aside, self.used)
        return Candidate(
            self.sha1, self.kind, self.source, self.held, self.aside, self.used, pinned, in_use
        )


def to_row(thing: Thing) -> tuple[object, ...]:
    assert thing.kind is not None or thing.arriving
    return (
        bytes.fromhex(thing.sha1),
        -1 if thing.kind is None else KINDS.index(thing.kind),
        SOURCES.index(thing.source),
        thing.size,
        thing.held,
        thing.aside,
        thing.stored,
        thing.used,
        thing.label,
        thing.channel,
        thing.node,
        thing.node_label,
        os.fsencode(thing.path),
        bytes.fromhex(thing.part_of),
        int(thing.arriving),
    )


def from_row(row: tuple[object, ...]) -> Thing:
    sha1, kind, source, size, held, aside, stored, used, label, channel, node, name, *rest = row
    path, part_of, arriving = rest
    assert isinstance(sha1, bytes)
    assert isinstance(part_of, bytes)
    assert isinstance(path, bytes)
    assert isinstance(kind, int)
    assert isinstance(source, int)
    return Thing(
        sha1.hex(),
        None if kind < 0 else KINDS[kind],
        SOURCES[source],
        size,  # type: ignore[arg-type]  # SQLite gives what the schema says
        held,  # type: ignore[arg-type]
        aside,  # type: ignore[arg-type]
        stored,  # type: ignore[arg-type]
        used,  # type: ignore[arg-type]
        label,  # type: ignore[arg-type]
        channel,  # type: ignore[arg-type]
        node,  # type: ignore[arg-type]
        name,  # type: ignore[arg-type]
        os.fsdecode(path),
        part_of.hex(),
        bool(arriving),
    )


def measured(thing: Thing, found: dict[str, os.stat_result], root: Path) -> Thing:
    """What a thing is now, by the files beside one another in its folder."""
    aside = sum(s.st_size for suffix, s in found.items() if suffix.startswith(paths.CORRUPT))
    partial = found.get(paths.PARTIAL)
    held = sum(_held(found[s]) for s in (paths.PARTIAL, paths.PARTIAL_TREE) if s in found)
    tree = found[paths.TREE].st_size if paths.TREE in found else 0
    blob, link, path = found.get(""), None, ""
    if blob is not None and stat.S_ISLNK(blob.st_mode):
        blob, link = None, _moved(paths.path_of(root, thing.sha1))
    elif blob is None and paths.LINK in found:
        link = Link.read(paths.path_of(root, thing.sha1, paths.LINK))
    kind: Kind | None = None
    size, times = 0, found.get("") or found.get(paths.LINK) or partial
    if blob is not None:
        kind, size, held = "file", blob.st_size, held + blob.st_size + tree
    elif link is not None:
        kind, size, held, path = "link", link.size, held + tree, str(link.path)
    elif partial is not None:
        kind, size = "partial", partial.st_size
    elif aside:
        kind = "damaged"
        times = next(s for suffix, s in found.items() if suffix.startswith(paths.CORRUPT))
    source = thing.source
    if thing.kind is None and not thing.arriving and kind == "partial":
        source = "fetched"
    stored, used = thing.stored, thing.used
    if times is not None and not stored:
        stored = times.st_mtime
    if times is not None and not used:
        used = max(times.st_atime, stored)
    return replace(
        thing, kind=kind, source=source, size=size, held=held, aside=aside, stored=stored,
        used=used, path=path, arriving=False,
    )  # fmt: skip


def _moved(path: Path) -> Link | None:
    """What a symbolic link in the place of content leads to; None if to no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Link(Path(os.path.realpath(path)), status.st_size, status.st_mtime)


def _held(status: os.stat_result) -> int:
    """Bytes of a file that has its final size from the beginning, and is filled by and by."""
    return min(status.st_size, status.st_blocks * _STAT_BLOCK)
