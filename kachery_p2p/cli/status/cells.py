"""What the dashboard's tables are made of: cells, columns, sections, and the rates between two looks.

Pure. What stands in them is made in :mod:`.rows`, and drawn in :mod:`.view`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from kachery_p2p.cli.output import clean, size_text

Row = dict[str, Any]

_ID: Final = 8
"""Hex digits of an id that a person compares."""


class Cell(NamedTuple):
    """``tone`` is good, bad, warning or plain; ``part`` is how much of a bar is full, 0 to 1."""

    text: str
    tone: str = "plain"
    part: float | None = None


class Column(NamedTuple):
    """``least``: the width of the section from which on there is room for it. ``flexible``: it is what
    gives way when there is not enough room for all; ``wraps``: on several lines, never cut; ``bar``:
    its cells are drawn."""

    head: str
    least: int = 0
    right: bool = False
    flexible: bool = False
    wraps: bool = False
    bar: bool = False


class Section(NamedTuple):
    """``total`` is how many rows there would be if the node had sent all. ``side`` is "left", "right"
    or "below", for a screen with room for two columns. ``expected``: that there is nothing is said."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    total: int
    side: str
    note: str = ""
    expected: bool = True


class Rates:
    """What has moved from one status to the next, per second. Without one before, nothing is known."""

    def __init__(self, status: Row, before: Row | None) -> None:
        seconds = 0.0 if before is None else status["now"] - before["now"]
        self._seconds = seconds
        self._links: dict[tuple[Any, ...], Row] = {}
        self._downloads: dict[str, Row] = {}
        self._uploads: dict[tuple[Any, ...], Row] = {}
        if before is not None and seconds > 0:
            self._links = {_link_key(link): link for link in before["links"]}
            self._downloads = {each["sha1"]: each for each in before["downloads"]}
            self._uploads = {_upload_key(each): each for each in before["uploads"]}

    def link(self, link: Row, what: str) -> float | None:
        """Bytes per second of ``sent`` or ``received``."""
        old = self._links.get(_link_key(link))
        if old is None:
            return None
        rate: float = (link[what] - old[what]) / self._seconds
        return max(0.0, rate)

    def download(self, download: Row) -> float | None:
        old = self._downloads.get(download["sha1"])
        if old is None:
            return None
        rate: float = (download["verified"] - old["verified"]) / self._seconds
        return max(0.0, rate)

    def upload(self, upload: Row) -> float | None:
        old = self._uploads.get(_upload_key(upload))
        if old is None:
            return None
        rate: float = (upload["sent"] - old["sent"]) / self._seconds
        return max(0.0, rate)

    def total(self, links: Iterable[Row], what: str) -> float | None:
        """Over all direct links: what is relayed travels over these, too."""
        found = [self.link(link, what) for link in links if link["via"] is None]
        known = [rate for rate in found if rate is not None]
        return sum(known) if known else None


def _link_key(link: Row) -> tuple[Any, ...]:
    return link["node"], link["via"], link["opened_at"]


def _upload_key(upload: Row) -> tuple[Any, ...]:
    return upload["sha1"], upload["node"], upload["channel"]


def short(hex_digits: str) -> str:
    """The beginning of an id, for people."""
    return clean(hex_digits)[:_ID]


def rate_text(rate: float | None) -> str:
    return "-" if rate is None else f"{size_text(rate)}/s"


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
