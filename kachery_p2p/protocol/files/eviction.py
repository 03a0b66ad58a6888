"""What may go when a storage folder is to stay within its limit, and in which order.

Everything here is a value: what is asked of the disk and of the clock is asked before.

* Never: what was stored here, what is linked, pinned, or in use. What was found in the folder (put
  there by kachery, say) counts as stored here.
* First what is of no use by itself: damaged copies that were put aside; then what was fetched, whole or
  in part, and what is in an archive whose user lets it go for that, the least recently used first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["file", "link", "partial", "damaged"]
"""``damaged``: nothing good is here, only a copy that was put aside."""
Source = Literal["stored", "found", "fetched", "archived"]
"""``archived``: stored here, and in an archive, too, so that its user lets it go."""

KINDS: Final[tuple[Kind, ...]] = ("file", "link", "partial", "damaged")
SOURCES: Final[tuple[Source, ...]] = ("stored", "found", "fetched", "archived")
MAY_GO: Final[tuple[Source, ...]] = ("fetched", "archived")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One content. ``bytes``: what the folder has less when it goes, hash tree included; ``aside``:
    bytes of damaged copies of it. ``used``: Unix time in seconds."""

    sha1: str
    kind: Kind
    source: Source
    bytes: int
    aside: int
    used: float
    pinned: bool = False
    in_use: bool = False


def why_kept(content: Candidate) -> str:
    """Why it may not go to make room, in words; empty if it may."""
    if content.in_use:
        return "in use"
    if content.pinned:
        return "pinned"
    if content.kind == "link":
        return "linked"
    if content.kind == "file" and content.source not in MAY_GO:
        return "stored here"
    if content.kind == "damaged" and content.source not in MAY_GO:
        return "the only copy of what was stored here, damaged"
    return ""


def order(content: Candidate) -> tuple[int, float, str]:
    """What goes first comes first."""
    return (0 if content.kind == "damaged" else 1, content.used, content.sha1)


def going(contents: Iterable[Candidate]) -> list[Candidate]:
    """Those that may go, and have anything to give, what goes first first."""
    may = (each for each in contents if each.bytes + each.aside and not why_kept(each))
    return sorted(may, key=order)


def enough(ordered: Iterable[Candidate], room: int) -> Iterator[Candidate]:
    """As many of these, from the first, as make ``room`` bytes; all, if that is not enough."""
    for content in ordered:
        if room <= 0:
            return
        room -= content.bytes + content.aside
        yield content


@dataclass(frozen=True, slots=True)
class Room:
    """How full a folder is, in bytes. ``reserved``: what is about to be written. ``limit`` None:
    none."""

    used: int
    reserved: int
    limit: int | None

    def lacking(self, more: int) -> int:
        """How many bytes must go before ``more`` can be written; 0 if none."""
        if self.limit is None:
            return 0
        return max(0, self.used + self.reserved + more - self.limit)

    def can_ever_hold(self, more: int) -> bool:
        """Whether that would fit an empty folder."""
        return self.limit is None or more <= self.limit
